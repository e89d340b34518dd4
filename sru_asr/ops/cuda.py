"""The kernels for NVIDIA GPUs, which are compiled and loaded when an operator first meets a tensor on one."""

from __future__ import annotations

from functools import partial
from threading import Lock
from typing import Any

import torch

from sru_asr.build import library, load

load()

OPERATORS = ("recurrence", "recurrence_backward", "ctc_loss", "ctc_loss_backward")

_lock = Lock()
_loaded = False
# Until then these stand where the kernels will.
_stand_ins = torch.library.Library("sru_asr", "IMPL")


def load_gpu() -> None:
    """Make the operators run on GPUs, once a process.

    Raises:
        BuildError: there is no library, and it cannot be compiled.
    """
    global _loaded
    with _lock:
        if not _loaded:
            path = library(gpu=True)
            _stand_ins._destroy()
            torch.ops.load_library(str(path))
            _loaded = True


def _first_call(name: str, *arguments: Any) -> Any:
    load_gpu()
    return getattr(torch.ops.sru_asr, name)(*arguments)


for _name in OPERATORS:
    _stand_ins.impl(_name, partial(_first_call, _name), "CUDA")
