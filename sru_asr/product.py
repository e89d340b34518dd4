"""Matrix products over all frames of a batch, for training.

oneDNN, which multiplies bfloat16 on CPUs, compiles a kernel for each number of rows that it meets: some milliseconds
and megabytes, for a product of one millisecond. Hardly two batches have as many frames, nor two views as windows. So
here products in bfloat16 are computed in blocks, of which there are few sizes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sru_asr.ops import transpose

BLOCK_ROWS = 256


class Linear(nn.Linear):
    """As `nn.Linear`, which has a bias here, for inputs of any number of rows."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        x, weight, bias = autocast(x, self.weight, self.bias)
        return _Affine.apply(x, weight, bias) if _in_blocks(x) else F.linear(x, weight, bias)


def autocast(*tensors: Tensor) -> list[Tensor]:
    """What `torch.autocast` makes of what enters a matrix product; a function of one's own it leaves alone."""
    device = tensors[0].device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)) or torch.float64 in {
        t.dtype for t in tensors
    }:
        return list(tensors)
    return [t.to(torch.get_autocast_dtype(device)) for t in tensors]


def multiply(x: Tensor, matrix: Tensor, added: Tensor | None = None) -> Tensor:
    """`x @ matrix`, and what is added.

    Args:
        x: (rows, inputs).
        matrix: (inputs, outputs).
        added: (rows, outputs) or (outputs,).

    Returns:
        (rows, outputs).
    """
    if torch.is_grad_enabled() or not _in_blocks(x):
        return x @ matrix if added is None else torch.addmm(added, x, matrix)
    rows = x.shape[0]
    result = x.new_empty(rows, matrix.shape[1])
    # What does not fill a block is computed with the end of the one before it, once more.
    for begin, end in ((0, rows // BLOCK_ROWS * BLOCK_ROWS), (rows - BLOCK_ROWS, rows)):
        if begin == 0 or rows % BLOCK_ROWS:
            block = x[begin:end]
            if added is None:
                torch.mm(block, matrix, out=result[begin:end])
            else:
                torch.addmm(added if added.dim() == 1 else added[begin:end], block, matrix, out=result[begin:end])
    return result


def multiply_transposed(a: Tensor, b: Tensor) -> Tensor:
    """`a.T @ b`, the sum over rows by which a weight learns.

    In bfloat16 it takes oneDNN twice as long as the product itself unless a factor is transposed before.

    Args:
        a: (rows, outputs).
        b: (rows, inputs).

    Returns:
        (outputs, inputs).
    """
    if torch.is_grad_enabled() or not _in_blocks(a) or not (rest := a.shape[0] % BLOCK_ROWS):
        return transpose(a) @ b
    whole = a.shape[0] - rest
    a_rest, b_rest = (F.pad(t[whole:], (0, 0, 0, BLOCK_ROWS - rest)) for t in (a, b))
    return (transpose(a[:whole]) @ b[:whole]).addmm_(transpose(a_rest), b_rest)


def _in_blocks(x: Tensor) -> bool:
    """Whether it is worth it, and nobody looks on who cannot follow."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    try:
        x.data_ptr()
    except RuntimeError:  # a stand-in of torch.func's has no address
        return False
    return x.numel() >= BLOCK_ROWS * x.shape[-1]


class _Affine(torch.autograd.Function):
    """x (..., inputs) times the transpose of a weight (outputs, inputs), and a bias (outputs,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiply(x.flatten(0, -2), weight.T, bias).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        of_x = multiply(rows, weight).view(x.shape) if ctx.needs_input_grad[0] else None
        of_weight = multiply_transposed(rows, x.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, rows.sum(0) if ctx.needs_input_grad[2] else None
