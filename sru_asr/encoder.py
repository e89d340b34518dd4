"""The encoder: convolutional subsampling by two or four, then a deep bidirectional SRU stack."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sru_asr.features import whole
from sru_asr.sru import SRU

# Features before those that a frame stands for, and that it sees, too; by the factors of subsampling there are.
PAST_FEATURES = {2: 5, 4: 3}
FACTORS = tuple(PAST_FEATURES)


class Subsampling(nn.Module):
    """Two 3 x 3 convolutions that stride over time and frequency, then a projection to the encoder's width.

    Frame t stands for the features from `factor` t to `factor` (t + 1) - 1, and sees none behind them.

    Args:
        n_mels: mel bands of the features.
        channels: channels of both convolutions.
        width: width of the output.
        factor: features to a frame, 4 or 2.
    """

    def __init__(self, n_mels: int, channels: int, width: int, factor: int = 4) -> None:
        super().__init__()
        if factor not in FACTORS:
            raise ValueError(f"expected a subsampling factor of {' or '.join(map(str, FACTORS))}, found {factor}")
        self.factor = factor
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        # Where it does not stride over time, all of its past but what it stands for lies before it.
        self.second = nn.Conv2d(channels, channels, 3, stride=(factor // 2, 2), padding=(1 if factor == 4 else 0, 1))
        self.project = nn.Linear(channels * ((n_mels + 3) // 4), width)

    @property
    def past_frames(self) -> int:
        """Frames before t whose features frame t sees, too."""
        return -(-PAST_FEATURES[self.factor] // self.factor)

    def lengths(self, lengths: Tensor) -> Tensor:
        """Frames that `lengths` features give; any integer tensor."""
        return torch.div(lengths + self.factor - 1, self.factor, rounding_mode="floor")

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, n_mels), zero behind each length, to (batch, ceil(frames / factor), width) and lengths."""
        if features.shape[1] == 0:  # which a convolution refuses
            return features.new_zeros(features.shape[0], 0, self.project.out_features), lengths
        # Channels last in memory, which convolutions on CPUs and in bfloat16 want: else they copy.
        x = self.first(features.unsqueeze(-1).permute(0, 3, 1, 2)).relu_()
        halved = torch.div(lengths + 1, 2, rounding_mode="floor")
        # What the first makes of the padding must not leak into the second's last frame. By a product, because its
        # backward pass costs half of that of masked_fill.
        if not whole(x.shape[2], halved):
            x = x * (torch.arange(x.shape[2], device=x.device) < halved[:, None])[:, None, :, None].to(x.dtype)
        if self.factor == 2:
            x = nn.functional.pad(x, (0, 0, 2, 0))
        x = self.second(x).relu_()
        return self.project(x.transpose(1, 2).flatten(2)), self.lengths(lengths)


class Encoder(nn.Module):
    """Features to states.

    Args:
        n_mels: mel bands of the features.
        channels: channels of the convolutions.
        hidden_size: width of each direction; states are twice as wide.
        num_layers: SRU layers.
        dropout: variational dropout between layers.
        subsampling: features to a frame, 4 or 2.
    """

    def __init__(
        self, n_mels: int, channels: int, hidden_size: int, num_layers: int, dropout: float, subsampling: int = 4
    ) -> None:
        super().__init__()
        self.width = 2 * hidden_size
        self.subsampling = Subsampling(n_mels, channels, self.width, subsampling)
        self.sru = SRU(
            self.width,
            hidden_size,
            num_layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout,
            layer_norm=True,
            residual=True,
            highway=False,  # around layers that already have a residual it doubles the stream with each of them
        )
        self.norm = nn.LayerNorm(self.width)

    def forward(self, features: Tensor, lengths: Tensor, chunk: int = 0, lookahead: int = 0) -> tuple[Tensor, Tensor]:
        """Encode whole utterances.

        Args:
            features: (batch, frames, n_mels), zero behind each length.
            lengths: (batch,) int64, frames.
            chunk: new frames (of the output) of a window, 0 for full context; see :mod:`sru_asr.windows`.
            lookahead: frames of a window behind its chunk.

        Returns:
            (batch, frames / subsampling, 2 * hidden_size) and the lengths.
        """
        x, lengths = self.subsampling(features, lengths)
        x, _ = self.sru(x, lengths=lengths, chunk=chunk, lookahead=lookahead)
        return self.norm(x), lengths

    def advance(self, window: Tensor, chunk: int, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """One window of subsampled frames, as :meth:`sru_asr.SRU.advance`; normalised."""
        x, state = self.sru.advance(window, chunk, state)
        return self.norm(x), state
