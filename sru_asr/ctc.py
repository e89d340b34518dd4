"""The CTC head and loss (Graves et al. 2006)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sru_asr import ops
from sru_asr.product import Linear
from sru_asr.text import BLANK


class CTCHead(nn.Module):
    """States to log-probabilities over the vocabulary, the blank first.

    Args:
        width: width of the states.
        vocab_size: tokens, the blank included.
        dropout: probability of dropping a unit of the states.
    """

    def __init__(self, width: int, vocab_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = Linear(width, vocab_size)

    def forward(self, states: Tensor) -> Tensor:
        """(batch, frames, width) to (batch, frames, vocab) float32 natural logs."""
        return F.log_softmax(self.linear(self.dropout(states)).float(), dim=-1)


def ctc_loss(log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """CTC loss of each utterance in nats; 0 where the utterance is too short for its transcript.

    Args:
        log_probs: (batch, frames, vocab) float32.
        lengths: (batch,) int64, frames.
        targets: (batch, tokens) int64.
        target_lengths: (batch,) int64.

    Returns:
        (batch,) float32.
    """
    if log_probs.device.type in {"cpu", "cuda"}:
        return ops.ctc_loss(log_probs, lengths, targets, target_lengths, BLANK)
    return F.ctc_loss(
        log_probs.transpose(0, 1),
        targets,
        lengths,
        target_lengths,
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )
