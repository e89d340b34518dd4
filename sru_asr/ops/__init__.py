"""The torch operators; the only place that knows `torch.ops`. Importing it loads the kernels (see `build`)."""

from sru_asr.ops.ctc import ctc_loss
from sru_asr.ops.cuda import load_gpu
from sru_asr.ops.gradients import refuse_tangents
from sru_asr.ops.layer import fused_layer, pack_weight, quantize_weight
from sru_asr.ops.recurrence import kernel_name, kernel_reason, recurrence
from sru_asr.ops.reference import recurrence_reference
from sru_asr.ops.transpose import transpose

__all__ = [
    "ctc_loss",
    "fused_layer",
    "kernel_name",
    "kernel_reason",
    "load_gpu",
    "pack_weight",
    "quantize_weight",
    "recurrence",
    "recurrence_reference",
    "refuse_tangents",
    "transpose",
]
