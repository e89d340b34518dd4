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
