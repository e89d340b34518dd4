"""The encoder: convolutional subsampling by four, then a deep bidirectional SRU stack."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sru_asr.features import whole
from sru_asr.sru import SRU

SUBSAMPLING = 4
# Features on either side of 4 t that frame t of the subsampled sequence sees: two convolutions of three, stride two.
CONTEXT_FRAMES = 3


def subsampled_lengths(lengths: Tensor) -> Tensor:
    """Frames left of `lengths` frames; any integer tensor."""
    return torch.div(lengths + SUBSAMPLING - 1, SUBSAMPLING, rounding_mode="floor")


class Subsampling(nn.Module):
    """Two 3 x 3 convolutions of stride 2 over time and frequency, then a projection to the encoder's width.

    Args:
        n_mels: mel bands of the features.
        channels: channels of both convolutions.
        width: width of the output.
    """

    def __init__(self, n_mels: int, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.project = nn.Linear(channels * ((n_mels + 3) // 4), width)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, n_mels), zero behind each length, to (batch, ceil(frames / 4), width) and its lengths."""
        if features.shape[1] == 0:  # which a convolution refuses
            return features.new_zeros(features.shape[0], 0, self.project.out_features), lengths
        # Channels last in memory, which convolutions on CPUs and in bfloat16 want: else they copy.
        x = self.first(features.unsqueeze(-1).permute(0, 3, 1, 2)).relu_()
        lengths = torch.div(lengths + 1, 2, rounding_mode="floor")
        # What the first makes of the padding must not leak into the second's last frame. By a product, because its
        # backward pass costs half of that of masked_fill.
        if not whole(x.shape[2], lengths):
            x = x * (torch.arange(x.shape[2], device=x.device) < lengths[:, None])[:, None, :, None].to(x.dtype)
        x = self.second(x).relu_()
        lengths = torch.div(lengths + 1, 2, rounding_mode="floor")
        return self.project(x.transpose(1, 2).flatten(2)), lengths


class Encoder(nn.Module):
    """Features to states.

    Args:
        n_mels: mel bands of the features.
        channels: channels of the convolutions.
        hidden_size: width of each direction; states are twice as wide.
        num_layers: SRU layers.
        dropout: variational dropout between layers.
    """

    def __init__(self, n_mels: int, channels: int, hidden_size: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.width = 2 * hidden_size
        self.subsampling = Subsampling(n_mels, channels, self.width)
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
            (batch, frames / 4, 2 * hidden_size) and the lengths.
        """
        x, lengths = self.subsampling(features, lengths)
        x, _ = self.sru(x, lengths=lengths, chunk=chunk, lookahead=lookahead)
        return self.norm(x), lengths

    def advance(self, window: Tensor, chunk: int, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """One window of subsampled frames, as :meth:`sru_asr.SRU.advance`; normalised."""
        x, state = self.sru.advance(window, chunk, state)
        return self.norm(x), state
