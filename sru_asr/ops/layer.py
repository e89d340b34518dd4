"""A whole SRU layer in one pass as a torch operator, for inference: public functions and fakes."""

from __future__ import annotations

import torch
from torch import Tensor

from sru_asr.build import load
from sru_asr.ops.device import check_device
from sru_asr.ops.gradients import refuse_tangents

load()

_GROUP, _TILE, _DEPTH = 64, 16, 32  # kGroup, kTile and kDepth of csrc/layer.h


def pack_weight(weight: Tensor, directions: int, parts: int) -> Tensor:
    """Lay a layer's matrix out as :func:`fused_layer` reads it.

    Args:
        weight: (directions * parts * hidden, inputs), float32 or bfloat16.
        directions: 1 or 2.
        parts: 3, or 4 if the product brings the highway.

    Returns:
        One dimension of the weight's dtype, padded with zeros; the order is that of csrc/layer.h.

    Raises:
        RuntimeError: an argument has a wrong shape or dtype; the message names it.
    """
    return torch.ops.sru_asr.pack_weight(weight, directions, parts)


def quantize_weight(weight: Tensor, directions: int, parts: int) -> tuple[Tensor, Tensor]:
    """As :func:`pack_weight`, but with a scale for each column, of whose weights the greatest becomes 127.

    Args:
        weight: (directions * parts * hidden, inputs), float32 or bfloat16.
        directions: 1 or 2.
        parts: 3, or 4 if the product brings the highway.

    Returns:
        One dimension of int8, and the scales, one dimension of float32, both padded with zeros.

    Raises:
        RuntimeError: an argument has a wrong shape or dtype, or there are more than 65536 inputs, of which sums might
            not fit into 32 bits; the message says so.
    """
    return torch.ops.sru_asr.quantize_weight(weight, directions, parts)


def fused_layer(
    input: Tensor,
    x: Tensor | None,
    packed: Tensor | tuple[Tensor, Tensor],
    weight_c: Tensor,
    bias: Tensor,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    alpha: float = 1.0,
    parts: int = 3,
    chunk: int = 0,
    lookahead: int = 0,
) -> tuple[Tensor, Tensor]:
    """The matrix product of an SRU layer and the recurrence over it, without gradients, on CPUs.

    What `recurrence(F.linear(input, weight), ...)` computes, to rounding, but the product stays in the processor's
    second-level cache in float32 and is never written out. Sizes that are padded to the same cannot be told apart in
    what is packed: whoever calls has to know that it was made of a matrix for this input.

    Args:
        input: (batch, frames, inputs) float32 or bfloat16; the last dimension should be contiguous.
        x: (batch, frames, directions, hidden), the highway if `parts` is 3; None for no highway.
        packed: what :func:`pack_weight` made of the layer's matrix in the dtype of `input`, or, for bfloat16,
            :func:`quantize_weight`. With the latter each frame of the input is rounded to 16 bits of its greatest
            number, and the product is exact.
        weight_c: (directions, 2, hidden); see :func:`sru_asr.ops.recurrence`, as for all that follows.
        bias: (directions, 2, hidden).
        initial_state: (batch, directions, hidden).
        lengths: (batch,) int64.
        alpha: scale of the highway.
        parts: of the product.
        chunk: new frames of a window.
        lookahead: frames of a window behind its chunk.

    Returns:
        h, (batch, frames, directions, hidden) of the dtype of `input`, and the final state, (batch, directions, hidden)
        float32.

    Raises:
        RuntimeError: an argument has a wrong shape, dtype or value; the message names it. Or gradients are asked for.
        NotImplementedError: they are, in forward mode.
    """
    given = (input, x, weight_c, bias, initial_state)
    refuse_tangents(*given)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given):
        raise RuntimeError("sru_asr::fused_layer has no gradients: call it under torch.no_grad(), or use `recurrence`")
    if initial_state is not None:
        initial_state = initial_state.float()
    weight, scales = (packed, None) if isinstance(packed, Tensor) else packed
    return torch.ops.sru_asr.fused_layer(
        input, x, weight, scales, weight_c.float(), bias.float(), initial_state, lengths, alpha, parts, chunk, lookahead
    )


def _packed_columns(weight, directions, parts):  # type: ignore[no-untyped-def]
    hidden = weight.shape[0] // (directions * parts)

    def tiles(units):  # type: ignore[no-untyped-def]
        return 2 * ((parts * ((units + _TILE - 1) // _TILE) + 1) // 2)

    return directions * (hidden // _GROUP * tiles(_GROUP) + tiles(hidden % _GROUP)) * _TILE


def _padded(inputs, depth):  # type: ignore[no-untyped-def]
    return (inputs + depth - 1) // depth * depth


@torch.library.register_fake("sru_asr::pack_weight")
def _(weight, directions, parts):  # type: ignore[no-untyped-def]
    depth = _DEPTH if weight.dtype == torch.bfloat16 else _TILE
    return weight.new_empty(_packed_columns(weight, directions, parts) * _padded(weight.shape[1], depth))


@torch.library.register_fake("sru_asr::quantize_weight")
def _(weight, directions, parts):  # type: ignore[no-untyped-def]
    columns = _packed_columns(weight, directions, parts)
    size = columns * _padded(weight.shape[1], 2 * _DEPTH)
    return weight.new_empty(size, dtype=torch.int8), weight.new_empty(columns, dtype=torch.float32)


@torch.library.register_fake("sru_asr::fused_layer")
def _(input, x, weight, scales, weight_c, bias, initial_state, lengths, alpha, parts, chunk, lookahead):  # type: ignore[no-untyped-def]
    given = {"weight": weight, "scales": scales, "weight_c": weight_c, "bias": bias}
    check_device(input, x=x, **given, initial_state=initial_state, lengths=lengths)
    batch, frames, _ = input.shape
    directions, _, hidden = weight_c.shape
    return (
        input.new_empty(batch, frames, directions, hidden),
        input.new_empty(batch, directions, hidden, dtype=torch.float32),
    )
