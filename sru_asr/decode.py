"""From log-probabilities to token sequences with times. Pure functions; they know no model and no tokenizer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sru_asr.text import BLANK


class Path(NamedTuple):
    """One decoded utterance.

    Attributes:
        tokens: token ids, blanks and repeats removed.
        frames: the frame at which each token was first emitted.
        score: natural log of the path's probability.
    """

    tokens: list[int]
    frames: list[int]
    score: float


def greedy(log_probs: Tensor, lengths: Tensor) -> list[Path]:
    """The most likely token of each frame, repeats merged, blanks dropped.

    Args:
        log_probs: (batch, frames, vocab).
        lengths: (batch,) int64, frames.

    Returns:
        One path per utterance.
    """
    scores, ids = log_probs.max(-1)
    return collapse(scores, ids, lengths)


def collapse(scores: Tensor, ids: Tensor, lengths: Tensor) -> list[Path]:
    """Merge the repeats and drop the blanks of one token per frame.

    Args:
        scores: (batch, frames), natural log of each token's probability.
        ids: (batch, frames) int64, tokens, the blank among them.
        lengths: (batch,) int64, frames.

    Returns:
        One path per utterance.
    """
    changed = torch.ones_like(ids, dtype=torch.bool)
    changed[:, 1:] = ids[:, 1:] != ids[:, :-1]
    keep = changed & (ids != BLANK)
    paths = []
    rows = zip(scores.cpu(), ids.cpu(), keep.cpu(), lengths.tolist(), strict=True)
    for row_scores, row_ids, row_keep, length in rows:
        frames = row_keep[:length].nonzero().flatten()
        paths.append(Path(row_ids[frames].tolist(), frames.tolist(), float(row_scores[:length].sum())))
    return paths


class Greedy:
    """`greedy` of one utterance that comes piece by piece.

    Attributes:
        path: What is decoded so far. Its lists grow as the utterance does; `forget` shortens them.
        n_frames: Frames taken in.
    """

    def __init__(self) -> None:
        self.path = Path([], [], 0.0)
        self.n_frames = 0
        self._last = BLANK

    def push(self, log_probs: Tensor) -> None:
        """Take in the next frames: (frames, vocab)."""
        scores, ids = log_probs.max(-1)
        for token, score in zip(ids.tolist(), scores.tolist(), strict=True):
            self.step(token, score)

    def step(self, token: int, score: float) -> None:
        """Take in the best token of the next frame and the log of its probability."""
        tokens, frames, total = self.path
        if token not in (BLANK, self._last):
            tokens.append(token)
            frames.append(self.n_frames)
        self._last = token
        self.n_frames += 1
        self.path = Path(tokens, frames, total + score)

    def forget(self, n_tokens: int) -> None:
        """Drop the first tokens, which somebody has written down; the score starts anew."""
        self.path = Path(self.path.tokens[n_tokens:], self.path.frames[n_tokens:], 0.0)
