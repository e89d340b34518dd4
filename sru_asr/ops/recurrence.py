"""The SRU recurrence as a torch operator: public function, fake and autograd registration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sru_asr.build import load
from sru_asr.ops.device import check_device
from sru_asr.ops.gradients import refuse_tangents, wanted

load()

SEGMENT = 16  # kSegment of csrc/cuda/runs.h


def recurrence(
    u: Tensor,
    x: Tensor | None,
    weight_c: Tensor,
    bias: Tensor,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    alpha: float = 1.0,
    chunk: int = 0,
    lookahead: int = 0,
) -> tuple[Tensor, Tensor]:
    """The element-wise recurrence of an SRU layer, in one or two directions.

    Lei et al. 2018, "Simple Recurrent Units for Highly Parallelizable Recurrence", equations 1 to 4, where the matrix
    products are already in `u`, and the highway is scaled by `alpha` (section 3.2)::

        f = sigmoid(u_f + v_f * c' + b_f)        c' is the state before a frame, c the state after it
        r = sigmoid(u_r + v_r * c' + b_r)
        c = f * c' + (1 - f) * u_c
        h = r * c + (1 - r) * alpha * highway

    The second direction runs from an utterance's last frame to its first. What lies behind a length is never read;
    outputs and gradients there are zero.

    With `chunk` > 0 the frames are windows of `chunk + lookahead` frames, one after another, as `windows.unfold` lays
    them out: the first direction runs through the chunks of all windows as one sequence and, from each chunk's end,
    through that window's lookahead; the second runs through every window on its own, from the window's end. A live
    recogniser passes one window at a time and carries the final state over; the results are the same.

    Args:
        u: (batch, frames, directions, parts, hidden), float32, float64, bfloat16 or, on GPUs, float16: candidate,
            forget gate, reset gate and, if `parts` is 4, the highway. `directions` is 1 or 2. Any strides.
        x: (batch, frames, directions, hidden), the highway if `parts` is 3; None for no highway, h = r * c.
        weight_c: (directions, 2, hidden): v_f and v_r. Computed with in float32 (float64 where u is).
        bias: (directions, 2, hidden): b_f and b_r.
        initial_state: (batch, directions, hidden), the state before the first frame; in the second direction the state
            every window starts from. None for zeros.
        lengths: (batch,) int64, frames of each utterance, windows' overlaps counted once. None if all are whole. On a
            GPU, where reading them would mean to wait, too small or great ones count as the least or greatest.
        alpha: scale of the highway.
        chunk: new frames of a window; 0 for the whole utterance.
        lookahead: frames of a window behind its chunk.

    Returns:
        h of u's dtype, (batch, frames, directions, hidden), and the final state, (batch, directions, hidden): in the
        first direction the state after the utterance's last frame (or after the last chunk, if the utterance goes on in
        the lookahead), in the second the state at its first frame.

    Raises:
        RuntimeError: an argument has a wrong shape, dtype or value; the message names it.
        NotImplementedError: derivatives in forward mode are asked for.
    """
    refuse_tangents(u, x, weight_c, bias, initial_state)
    real = torch.float64 if u.dtype == torch.float64 else torch.float32
    if x is not None:
        x = x.to(u.dtype)
    weight_c, bias = weight_c.to(real), bias.to(real)
    if initial_state is not None:
        initial_state = initial_state.to(real)
    keep_states = wanted(u, x, weight_c, bias, initial_state)
    h, final_state, _ = torch.ops.sru_asr.recurrence(
        u, x, weight_c, bias, initial_state, lengths, alpha, chunk, lookahead, keep_states
    )
    return h, final_state


def kernel_name() -> str:
    """Name of the instruction set whose kernels run: baseline, avx2, avx512, avx512_bf16 or amx.

    Or emulated, for the environment variable SRU_ASR_CPU alone: the CUDA kernels on a CPU, to test them.
    """
    return torch.ops.sru_asr.kernel_name()


def kernel_reason() -> str:
    """Why those."""
    return torch.ops.sru_asr.kernel_reason()


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.library.register_fake("sru_asr::recurrence")
def _(u, x, weight_c, bias, initial_state, lengths, alpha, chunk, lookahead, keep_states):  # type: ignore[no-untyped-def]
    check_device(u, x=x, weight_c=weight_c, bias=bias, initial_state=initial_state, lengths=lengths)
    batch, frames, directions, _, hidden = u.shape
    real = _accumulator(u.dtype)
    h = u.new_empty(batch, frames, directions, hidden)
    final_state = u.new_empty(batch, directions, hidden, dtype=real)
    kept = frames
    if u.device.type == "cuda":
        windows, of_window = (frames // (chunk + lookahead), chunk) if chunk else (1 if frames > 0 else 0, frames)
        kept = windows * ((of_window + SEGMENT - 1) // SEGMENT + (lookahead + SEGMENT - 1) // SEGMENT)
    states = u.new_empty(batch if keep_states else 0, kept, directions, hidden, dtype=real)
    return h, final_state, states


@torch.library.register_fake("sru_asr::recurrence_backward")
def _(grad_h, grad_final, u, x, weight_c, bias, initial_state, lengths, alpha, chunk, lookahead, states):  # type: ignore[no-untyped-def]
    batch, frames, directions, _, hidden = u.shape
    real = _accumulator(u.dtype)
    return (
        torch.empty_like(u, memory_format=torch.contiguous_format),
        u.new_empty(0 if x is None else batch, frames, directions, hidden),
        u.new_empty(directions, 2, hidden, dtype=real),
        u.new_empty(directions, 2, hidden, dtype=real),
        u.new_empty(batch, directions, hidden, dtype=real),
    )


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    u, x, weight_c, bias, initial_state, lengths, *ctx.settings, _ = inputs
    ctx.save_for_backward(u, x, weight_c, bias, initial_state, lengths, output[2])
    ctx.set_materialize_grads(False)  # or every backward pass would fill zeros for the kept states


def _backward(ctx: Any, grad_h: Tensor | None, grad_final: Tensor | None, _: None) -> tuple:
    u, x, weight_c, bias, initial_state, lengths, states = ctx.saved_tensors
    grad_u, grad_x, grad_weight_c, grad_bias, grad_initial = torch.ops.sru_asr.recurrence_backward(
        grad_h, grad_final, u, x, weight_c, bias, initial_state, lengths, *ctx.settings, states
    )
    grad_x = None if x is None else grad_x
    grad_initial = None if initial_state is None else grad_initial
    return grad_u, grad_x, grad_weight_c, grad_bias, grad_initial, None, None, None, None, None


def _second_derivative(ctx: Any, *_: Tensor) -> None:
    raise NotImplementedError("sru_asr::recurrence has no second derivative; recurrence_reference has one, slowly")


torch.library.register_autograd("sru_asr::recurrence", _backward, setup_context=_setup_context)
# Without this torch would warn once and go on with zeros.
torch.library.register_autograd("sru_asr::recurrence_backward", _second_derivative)
