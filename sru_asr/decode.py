"""From log-probabilities to token sequences with times, greedily; nothing here knows a model or a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

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


class Hypothesis(NamedTuple):
    """One of the texts that may have been said.

    Attributes:
        path: its tokens; the score is that of the sound alone.
        score: natural log, with what the text itself is worth.
    """

    path: Path
    score: float


class Decoder(Protocol):
    """What finds the tokens of an utterance that comes piece by piece.

    Attributes:
        n_frames: taken in.
    """

    n_frames: int

    @property
    def path(self) -> Path:
        """The likeliest of what may have been said so far, of an utterance that goes on."""

    def steps(self, log_probs: Tensor) -> Iterator[None]:
        """Take in (frames, vocab), natural logs, one frame for each item that is asked for."""

    def push(self, log_probs: Tensor) -> None:
        """Take in (frames, vocab), all of it."""

    def end(self, n: int = 1) -> list[Hypothesis]:
        """At most n of the likeliest, the best one first, if the utterance ends here. At least one."""

    def forget(self, n_tokens: int) -> None:
        """Drop the first tokens of `path`, which somebody has written down; the score starts anew."""

    def restart(self) -> None:
        """Begin another utterance; frames are counted on."""


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
        path: what is decoded so far. Its lists grow as the utterance does; `forget` shortens them.
        n_frames: frames taken in.
    """

    def __init__(self) -> None:
        self.path = Path([], [], 0.0)
        self.n_frames = 0
        self._last = BLANK

    def steps(self, log_probs: Tensor) -> Iterator[None]:
        """See `Decoder`."""
        scores, ids = log_probs.max(-1)
        for token, score in zip(ids.tolist(), scores.tolist(), strict=True):
            self._step(token, score)
            yield

    def push(self, log_probs: Tensor) -> None:
        """See `Decoder`."""
        for _ in self.steps(log_probs):
            pass

    def end(self, n: int = 1) -> list[Hypothesis]:
        """See `Decoder`."""
        return [Hypothesis(self.path, self.path.score)]

    def restart(self) -> None:
        """See `Decoder`."""
        self.path = Path([], [], 0.0)

    def _step(self, token: int, score: float) -> None:
        tokens, frames, total = self.path
        if token not in (BLANK, self._last):
            tokens.append(token)
            frames.append(self.n_frames)
        self._last = token
        self.n_frames += 1
        self.path = Path(tokens, frames, total + score)

    def forget(self, n_tokens: int) -> None:
        """See `Decoder`."""
        self.path = Path(self.path.tokens[n_tokens:], self.path.frames[n_tokens:], 0.0)
