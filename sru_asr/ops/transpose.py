"""The transpose of a matrix as a torch operator, for products in bfloat16 on CPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sru_asr.build import load

load()


def transpose(matrix: Tensor) -> Tensor:
    """What makes a product with the matrix's transpose fastest.

    Args:
        matrix: (rows, columns).

    Returns:
        (columns, rows): laid out anew for bfloat16 on a CPU, else a view.
    """
    if matrix.device.type == "cpu" and matrix.dtype == torch.bfloat16:
        return torch.ops.sru_asr.transpose(matrix)
    return matrix.T


@torch.library.register_fake("sru_asr::transpose")
def _(matrix):  # type: ignore[no-untyped-def]
    rows, columns = matrix.shape
    return matrix.new_empty(columns, rows)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    return transpose(grad)


torch.library.register_autograd("sru_asr::transpose", _backward)
