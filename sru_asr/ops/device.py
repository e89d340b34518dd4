"""What the kernels check of devices, for operators that torch only pretends to run."""

from __future__ import annotations

from torch import Tensor


def check_device(beside: Tensor, **tensors: Tensor | None) -> None:
    """Refuse tensors on several devices.

    As `check` of csrc/arguments.h does. But with one tensor on the meta device, as a module's weights are that
    were never loaded, torch takes an operator's fake instead of its kernel, and what that returns is not computed.

    Args:
        beside: whose device it should be.
        tensors: by the names of the arguments; None for those that are left out.

    Raises:
        RuntimeError: one is elsewhere; the message names it.
    """
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != beside.device:
            raise RuntimeError(
                f"{name} must be on the device of the other tensors: found {tensor.device} beside {beside.device}"
            )
