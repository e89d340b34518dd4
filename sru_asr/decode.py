"""From log-probabilities to token sequences with times, greedily; nothing here knows a model or a tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from torch import Tensor

from sru_asr.text import BLANK


class Path(NamedTuple):
    """One decoded utterance.

    Attributes:
        tokens: token ids, blanks and repeats removed.
        frames: the frame at which each token was first emitted.
        confidences: of each token, how likely it was in the frame that is surest of it, 0 to 1.
        score: natural log of the path's probability.
    """

    tokens: list[int]
    frames: list[int]
    confidences: list[float]
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
    paths = []
    for scores, ids, length in zip(*(best.tolist() for best in log_probs.max(-1)), lengths.tolist(), strict=True):
        decoder = Greedy()
        for token, score in zip(ids[:length], scores[:length], strict=True):
            decoder.take(token, score)
        paths.append(decoder.path)
    return paths


class Greedy:
    """`greedy` of one utterance that comes piece by piece.

    Attributes:
        path: what is decoded so far. Its lists grow as the utterance does; `forget` shortens them.
        n_frames: frames taken in.
    """

    def __init__(self) -> None:
        self.path = Path([], [], [], 0.0)
        self.n_frames = 0
        self._last = BLANK

    def steps(self, log_probs: Tensor) -> Iterator[None]:
        """See `Decoder`."""
        scores, ids = log_probs.max(-1)
        for token, score in zip(ids.tolist(), scores.tolist(), strict=True):
            self.take(token, score)
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
        self.path = Path([], [], [], 0.0)

    def take(self, token: int, score: float) -> None:
        """Take in the best token of the next frame and the log of its probability."""
        tokens, frames, confidences, total = self.path
        if token not in (BLANK, self._last):
            tokens.append(token)
            frames.append(self.n_frames)
            confidences.append(min(math.exp(score), 1.0))
        elif token != BLANK and tokens:  # of one that has been written down meanwhile there is nothing to say any more
            confidences[-1] = max(confidences[-1], min(math.exp(score), 1.0))
        self._last = token
        self.n_frames += 1
        self.path = Path(tokens, frames, confidences, total + score)

    def forget(self, n_tokens: int) -> None:
        """See `Decoder`."""
        tokens, frames, confidences, _ = self.path
        self.path = Path(tokens[n_tokens:], frames[n_tokens:], confidences[n_tokens:], 0.0)
