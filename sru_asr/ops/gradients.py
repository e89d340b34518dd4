"""Which gradients are asked of an operator: what autograd does not say by itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def wanted(*tensors: Tensor | None) -> bool:
    """Whether a forward pass has to keep what a backward pass needs.

    Within `torch.func`'s transforms a tensor does not tell that gradients of it are wanted outside of them.
    """
    if not torch.is_grad_enabled():
        return False
    if any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return True
    return not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is not None


def refuse_tangents(*tensors: Tensor | None) -> None:
    """Refuse forward mode, for which torch would take operators without a rule of their own for constants.

    Raises:
        NotImplementedError: a tensor has a tangent (`torch.func.jvp` and its like).
    """
    if torch.compiler.is_compiling():
        return
    if any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise NotImplementedError(
            "sru_asr has no derivatives in forward mode (jvp): use backward or torch.autograd.grad"
        )
