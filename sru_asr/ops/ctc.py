"""The CTC loss as a torch operator: public function, fake and autograd registration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sru_asr.build import load
from sru_asr.ops.device import check_device
from sru_asr.ops.gradients import refuse_tangents, wanted

load()


def ctc_loss(log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, blank: int) -> Tensor:
    """CTC loss of each utterance (Graves et al. 2006), in nats; on CPUs and NVIDIA GPUs.

    Probabilities are kept as a mantissa and an exponent, so that nothing underflows: whatever the length, the loss is
    as exact as float32 holds it, and the gradient to about 2e-6.

    Args:
        log_probs: (batch, frames, vocab) float32, natural logs; above 100 they are no log-probabilities, below -1e5
            they count as minus infinity. Any strides.
        lengths: (batch,) int64, frames.
        targets: (batch, tokens) int64, without blanks. What lies behind a length is not read.
        target_lengths: (batch,) int64.
        blank: the token that stands for none.

    Returns:
        (batch,) float32; 0, with a gradient of 0, where an utterance is too short for its tokens or they are
        impossible (below e to the power of -3.7e8); NaN where a log-probability that counts is one or is above 100.

    Raises:
        RuntimeError: an argument has a wrong shape, dtype or value; the message names it. Values on a GPU are not
            looked at, as that would mean to wait: lengths are limited to what there is, and a target that is no token
            makes the loss NaN.
        NotImplementedError: derivatives in forward mode are asked for.
    """
    refuse_tangents(log_probs)
    keep_posteriors = wanted(log_probs)
    losses, _ = torch.ops.sru_asr.ctc_loss(log_probs, lengths, targets, target_lengths, blank, keep_posteriors)
    return losses


@torch.library.register_fake("sru_asr::ctc_loss")
def _(log_probs, lengths, targets, target_lengths, blank, keep_posteriors):  # type: ignore[no-untyped-def]
    check_device(log_probs, lengths=lengths, targets=targets, target_lengths=target_lengths)
    batch, frames, _ = log_probs.shape
    kept = log_probs.new_empty(batch if keep_posteriors else 0, frames, targets.shape[1] + 1)
    return log_probs.new_empty(batch), kept


@torch.library.register_fake("sru_asr::ctc_loss_backward")
def _(grad_losses, posteriors, lengths, targets, target_lengths, vocab, blank):  # type: ignore[no-untyped-def]
    return posteriors.new_empty(posteriors.shape[0], posteriors.shape[1], vocab)


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    log_probs, lengths, targets, target_lengths, ctx.blank, _ = inputs
    ctx.vocab = log_probs.shape[2]
    ctx.save_for_backward(output[1], lengths, targets, target_lengths)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_losses: Tensor | None, _: None) -> tuple:
    grad = None
    if grad_losses is not None:
        grad = torch.ops.sru_asr.ctc_loss_backward(grad_losses, *ctx.saved_tensors, ctx.vocab, ctx.blank)
    return grad, None, None, None, None, None


def _second_derivative(ctx: Any, *_: Tensor) -> None:
    raise NotImplementedError("sru_asr::ctc_loss has no second derivative; torch.nn.functional.ctc_loss has one")


torch.library.register_autograd("sru_asr::ctc_loss", _backward, setup_context=_setup_context)
# Without this torch would warn once and go on with zeros.
torch.library.register_autograd("sru_asr::ctc_loss_backward", _second_derivative)
