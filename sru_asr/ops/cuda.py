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
_stand_ins: torch.library.Library


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
            try:
                torch.ops.load_library(str(path))
            except OSError:
                _stand_in()  # to say it again, should anybody try again
                raise
            _loaded = True


def _first_call(name: str, *arguments: Any) -> Any:
    load_gpu()
    return getattr(torch.ops.sru_asr, name)(*arguments)


def _stand_in() -> None:
    """Stand where the kernels will, until they are loaded."""
    global _stand_ins
    _stand_ins = torch.library.Library("sru_asr", "IMPL")
    for name in OPERATORS:
        _stand_ins.impl(name, partial(_first_call, name), "CUDA")


_stand_in()
