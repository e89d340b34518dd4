"""How far error rates can be trusted, and how far confidences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sru_asr.metrics import ErrorCounts

SAMPLES = 10_000
LEVEL = 0.95
SEED = 0
BINS = 10
BLOCK = 1_000_000  # numbers drawn at a time


class Interval(NamedTuple):
    """What a rate lies between, in 95 of 100 samples of as many utterances, or speakers, drawn from these again."""

    low: float
    high: float


def interval(counts: Sequence[ErrorCounts]) -> Interval | None:
    """The bootstrap's interval of an error rate (Bisani and Ney 2004); None of fewer than two, or of no words.

    Args:
        counts: of each utterance; or of each speaker, which says more where one speaker's errors are alike.
    """
    errors, words = _arrays(counts)
    if len(counts) < 2 or not words.sum():
        return None
    drawn_errors, drawn_words = _sums(errors, words)
    return _interval(_rates(drawn_errors, drawn_words))


class Difference(NamedTuple):
    """How two systems differ on the same utterances.

    Attributes:
        rate: error rate of the second less that of the first.
        interval: of it.
        better: share of the samples in which the second makes fewer errors.
    """

    rate: float
    interval: Interval
    better: float


def difference(first: Sequence[ErrorCounts], second: Sequence[ErrorCounts]) -> Difference:
    """The paired bootstrap of two systems.

    Args:
        first: of each utterance; or of each speaker, as for `interval`.
        second: of the same, in the same order.

    Raises:
        ValueError: they are not the same, or too few.
    """
    errors, words = _arrays(first)
    other_errors, other_words = _arrays(second)
    if len(first) < 2 or not np.array_equal(words, other_words) or not words.sum():
        raise ValueError("expected the same two or more utterances of both systems, with words in them")
    drawn_errors, drawn_others, drawn_words = _sums(errors, other_errors, words)
    rates = _rates(drawn_others, drawn_words) - _rates(drawn_errors, drawn_words)
    return Difference(
        float((other_errors.sum() - errors.sum()) / words.sum()), _interval(rates), float((rates < 0).mean())
    )


class Bin(NamedTuple):
    """Words of about the same confidence: how many, how sure on average, and the share that is right."""

    words: int
    confidence: float
    right: float


class Calibration(NamedTuple):
    """How well confidences say what share of words is right.

    Attributes:
        error: expected calibration error (Naeini et al. 2015): how far they are off, a mean over words.
        bins: the reliability curve; tenths of 0 to 1 that have words.
    """

    error: float
    bins: list[Bin]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"error": self.error, "bins": [one._asdict() for one in self.bins]}


def calibration(confidences: Sequence[float], right: Sequence[bool]) -> Calibration | None:
    """Of words with confidences, 0 to 1, that are right or not; None of no words."""
    if not confidences:
        return None
    sure, true = np.asarray(confidences), np.asarray(right, dtype=float)
    places = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins = [
        Bin(int(inside.sum()), float(sure[inside].mean()), float(true[inside].mean()))
        for inside in (places == place for place in range(BINS))
        if inside.any()
    ]
    error = sum(one.words * abs(one.confidence - one.right) for one in bins) / len(sure)
    return Calibration(error, bins)


def _arrays(counts: Sequence[ErrorCounts]) -> tuple[np.ndarray, np.ndarray]:
    errors = np.array([one.errors for one in counts], dtype=float)
    return errors, np.array([one.reference for one in counts], dtype=float)


def _sums(*values: np.ndarray) -> list[np.ndarray]:
    """The sum of each of some values, all (n,), in each of the samples; of many utterances there are fewer samples."""
    n = len(values[0])
    rng = np.random.default_rng(SEED)
    left = min(SAMPLES, max(100, 100_000_000 // n))
    table, blocks = np.stack(values, 1), []
    while left:
        rows = min(left, max(1, BLOCK // n))
        blocks.append(rng.multinomial(n, np.full(n, 1 / n), size=rows) @ table)
        left -= rows
    return list(np.concatenate(blocks).T)


def _rates(errors: np.ndarray, words: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(errors / words, nan=0.0, posinf=0.0)


def _interval(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
