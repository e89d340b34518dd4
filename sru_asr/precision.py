"""In what numbers a model computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sru_asr.model import Recognizer

PRECISIONS = ("float32", "bfloat16", "int8")


def arithmetic(model: Recognizer, precision: str) -> torch.autocast:
    """A context in which this thread computes so; the weights stay as they are.

    Args:
        model: of which the encoder is told whether to use eight bits, for all threads.
        precision: one of `PRECISIONS`; int8 is bfloat16 with the encoder's weights in eight bits.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"expected a precision of {', '.join(PRECISIONS)}, found {precision!r}")
    model.encoder.sru.quantize(precision == "int8")
    return torch.autocast(model.device.type, torch.bfloat16, enabled=precision != "float32")
