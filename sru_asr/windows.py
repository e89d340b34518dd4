"""Windows of chunk + lookahead frames: how a bidirectional model reads live speech.

A window is `chunk` new frames and `lookahead` frames behind them. Every layer computes the whole window; what it emits
for the chunk counts, the lookahead is computed again by the next window. Offline all windows lie one after another in
one tensor, so that a whole utterance is computed layer by layer and nothing loops over windows.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

# Of a window, where only its size is given. Every frame waits as long for more lookahead as for more chunk, and is
# recognised the better; but a window of 1 + 7 frames computes each of them eight times (docs/log.md).
LOOKAHEAD_SHARE = 0.875


def check_window(chunk: int, lookahead: int) -> None:
    """Refuse sizes that mean nothing; chunk 0 with lookahead 0 stands for the whole utterance."""
    if isinstance(chunk, float) or isinstance(lookahead, float):
        raise ValueError(f"expected chunk and lookahead as whole numbers of frames, found {chunk} and {lookahead}")
    if chunk < 0 or lookahead < 0 or (chunk == 0 and lookahead > 0):
        raise ValueError(
            f"expected chunk >= 1 and lookahead >= 0 (or both 0: the whole utterance), found {chunk} and {lookahead}"
        )


def window_of(latency_ms: float, frames_per_second: float, lookahead_share: float = LOOKAHEAD_SHARE) -> tuple[int, int]:
    """The best known split of a latency into chunk and lookahead.

    The latency is that of a window's first sample, which waits longest: until the last one is there. The convolutions
    and the features see nothing behind a window's end.

    Args:
        latency_ms: in milliseconds.
        frames_per_second: of the encoder.
        lookahead_share: of the window; the default is the best known for few errors, less is less work.

    Returns:
        chunk and lookahead, in frames.

    Raises:
        ValueError: the latency has no room for two frames, or is not finite, or the others are out of range.
    """
    if not frames_per_second > 0 or not 0 <= lookahead_share <= 1:
        raise ValueError(
            f"expected frames_per_second above 0 and lookahead_share from 0 to 1, found {frames_per_second:g} and "
            f"{lookahead_share:g}"
        )
    least = 2000 / frames_per_second
    if not least <= latency_ms < math.inf:
        raise ValueError(f"expected a latency of at least {least:g} ms, two frames, found {latency_ms:g} ms")
    frames = int(latency_ms * frames_per_second / 1000 + 1e-6)
    lookahead = min(round(lookahead_share * frames), frames - 1)
    return frames - lookahead, lookahead


def unfold(x: Tensor, chunk: int, lookahead: int) -> Tensor:
    """Lay out an utterance as windows.

    Args:
        x: (batch, frames, width).
        chunk: new frames of a window, at least 1.
        lookahead: frames of a window behind its chunk.

    Returns:
        (batch, windows * (chunk + lookahead), width) with windows = ceil(frames / chunk); frames behind the utterance
        are zero.
    """
    batch, frames, width = x.shape
    windows = -(-frames // chunk)
    x = F.pad(x, (0, 0, 0, windows * chunk + lookahead - frames))
    if lookahead == 0 or windows == 0:
        return x[:, : windows * (chunk + lookahead)]
    return x.unfold(1, chunk + lookahead, chunk).transpose(2, 3).reshape(batch, windows * (chunk + lookahead), width)


def fold(y: Tensor, chunk: int, lookahead: int, frames: int) -> Tensor:
    """Undo `unfold`, keeping each window's chunk.

    Args:
        y: (batch, windows * (chunk + lookahead), width).
        chunk: new frames of a window, at least 1.
        lookahead: frames of a window behind its chunk.
        frames: length of the utterance.

    Returns:
        (batch, frames, width).
    """
    if lookahead:
        y = y.unflatten(1, (-1, chunk + lookahead))[:, :, :chunk].flatten(1, 2)
    return y[:, :frames]
