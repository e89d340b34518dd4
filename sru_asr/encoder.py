"""The encoder: convolutional subsampling by two or four, then a deep bidirectional SRU stack."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sru_asr.features import whole
from sru_asr.product import Linear
from sru_asr.sru import SRU

# Features before those that a frame stands for, and that it sees, too; by the factors of subsampling there are.
_PAST = {2: 7, 4: 5}
FACTORS = tuple(_PAST)
ROW_MULTIPLE = 256  # features


class Subsampling(nn.Module):
    """Three 3 x 3 convolutions that stride over time and frequency, then a projection to the encoder's width.

    The first keeps every 10 ms, because the bursts that tell some consonants apart last no longer.

    Frame t stands for the features from `factor` t to `factor` (t + 1) - 1, and sees none behind them.

    Args:
        n_mels: mel bands of the features.
        channels: channels of the second convolution; the first has half, the third twice as many.
        width: width of the output.
        factor: features to a frame, 4 or 2.
    """

    def __init__(self, n_mels: int, channels: int, width: int, factor: int = 4) -> None:
        super().__init__()
        if factor not in FACTORS:
            raise ValueError(f"expected a subsampling factor of {' or '.join(map(str, FACTORS))}, found {factor}")
        self.factor = factor
        half = max(channels // 2, 1)
        # Over time they are padded in `_convolve`, on the left as far as possible.
        self.first = nn.Conv2d(1, half, 3, stride=(1, 2), padding=(0, 1))
        self.second = nn.Conv2d(half, channels, 3, stride=2, padding=(0, 1))
        self.third = nn.Conv2d(channels, 2 * channels, 3, stride=(factor // 2, 2), padding=(0, 1))
        self.project = Linear(2 * channels * ((n_mels + 7) // 8), width)

    @property
    def past(self) -> int:
        """Features before those that a frame stands for, and that it sees, too."""
        return _PAST[self.factor]

    def lengths(self, lengths: Tensor) -> Tensor:
        """Frames that `lengths` features give; any integer tensor."""
        return torch.div(lengths + self.factor - 1, self.factor, rounding_mode="floor")

    def forward(self, features: Tensor, lengths: Tensor, past: bool = False) -> tuple[Tensor, Tensor]:
        """Features to frames.

        Args:
            features: (batch, frames, n_mels), zero behind each length.
            lengths: (batch,) int64, those that there are frames for.
            past: whether `self.past` more come before them, of which a frame is not made; else that was silence, of the
                mean.

        Returns:
            (batch, ceil(frames / factor), width), without those that are past, and the lengths.
        """
        before = self.past if past else 0  # of x, at each step
        if features.shape[1] == before:  # which a convolution refuses
            return features.new_zeros(features.shape[0], 0, self.project.out_features), lengths
        batch, frames = features.shape[:2]
        each = 0
        if self.training and batch and features.device.type == "cpu" and not past:
            each = -(-frames // 4) * 4 + 4  # behind an utterance the silence that convolutions see before the next
            features = _in_a_row(features, each)
        # Channels last in memory, which convolutions on CPUs and in bfloat16 want: else they copy.
        x = features.unsqueeze(-1).permute(0, 3, 1, 2)
        x, before = _convolve(self.first, x, before)
        x, before = _convolve(self.second, _without_padding(x, lengths + before, each), before)
        halved = torch.div(lengths + 1, 2, rounding_mode="floor")
        x, _ = _convolve(self.third, _without_padding(x, halved + before, each // 2), before)
        x = self.project(x.transpose(1, 2).flatten(2))
        if each:
            each //= self.factor
            x = x[0, : batch * each].unflatten(0, (batch, each))[:, : -(-frames // self.factor)]
        return x, self.lengths(lengths)


def _in_a_row(features: Tensor, each: int) -> Tensor:
    """Lay utterances one behind another, as a single one whose length is one of few.

    As of products (see `product`), oneDNN compiles a kernel of a convolution for each shape that it meets. (Outside of
    training, where more than 4000 features are convolved at once, a row would take up to 1.7 times as long.)

    Args:
        features: (batch, frames, n_mels), zero behind each length.
        each: frames that an utterance takes.

    Returns:
        (1, a multiple of `ROW_MULTIPLE`, n_mels).
    """
    row = nn.functional.pad(features, (0, 0, 0, each - features.shape[1])).flatten(0, 1)
    return nn.functional.pad(row, (0, 0, 0, -row.shape[0] % ROW_MULTIPLE))[None]


def _convolve(layer: nn.Conv2d, x: Tensor, past: int) -> tuple[Tensor, int]:
    """Convolve (batch, channels, frames, bands), three frames at a time, so that none sees behind its own stride.

    Args:
        layer: of width 3.
        x: with `past` frames before those that count, if there are any.
        past: that the first of those sees, or one before it that is seen by others of the result.

    Returns:
        The result, and how many frames of it are past.
    """
    stride = layer.stride[0]
    seen = 3 - stride
    last = (past - x.shape[2]) % stride  # of an odd number of frames the last is alone in its stride
    if not past or last:  # padding by nothing would copy
        x = nn.functional.pad(x, (0, 0, 0 if past else seen, last))
    return layer(x).relu_(), (past - seen) // stride if past else 0


def _without_padding(x: Tensor, lengths: Tensor, each: int) -> Tensor:
    """Make zero what a convolution makes of the frames behind each length, as the next one would see it.

    By a product, because its backward pass costs half of that of masked_fill.

    Args:
        x: (batch, channels, frames, bands).
        lengths: (batch,) int64.
        each: frames that an utterance takes where they lie in a row, or 0.
    """
    if not each and whole(x.shape[2], lengths):
        return x
    inside = torch.arange(each or x.shape[2], device=x.device) < lengths[:, None]
    if each:
        inside = nn.functional.pad(inside.flatten(), (0, x.shape[2] - inside.numel()))[None]
    return x * inside[:, None, :, None].to(x.dtype)


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

    def advance(
        self, window: Tensor, chunk: int, state: Tensor | None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One window of subsampled frames, as :meth:`sru_asr.SRU.advance`; normalised."""
        x, state = self.sru.advance(window, chunk, state, lengths)
        return self.norm(x), state
