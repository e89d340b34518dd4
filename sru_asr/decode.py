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
    best, ids = log_probs.max(-1)
    changed = torch.ones_like(ids, dtype=torch.bool)
    changed[:, 1:] = ids[:, 1:] != ids[:, :-1]
    keep = changed & (ids != BLANK)
    paths = []
    for row_ids, row_keep, row_best, length in zip(ids.cpu(), keep.cpu(), best.cpu(), lengths.tolist(), strict=True):
        frames = row_keep[:length].nonzero().flatten()
        paths.append(Path(row_ids[frames].tolist(), frames.tolist(), float(row_best[:length].sum())))
    return paths
