"""Weights that the authors' package `sru` has trained (docs/migration.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sru_asr.layer import SRULayer


def take_over(state_dict: Mapping[str, Tensor], layers: Sequence[SRULayer]) -> None:
    """See :meth:`sru_asr.SRU.load_sru_state_dict`; `layers` are those of the module that takes the weights over."""
    left = dict(state_dict)
    copies = [copy for i, layer in enumerate(layers) for copy in _copies(left, f"rnn_lst.{i}.", layer)]
    if left:
        raise ValueError(f"expected nothing else than {len(layers)} layers have here, found {', '.join(left)}")
    with torch.no_grad():
        for parameter, tensor in copies:
            parameter.copy_(tensor)


def _copies(left: dict[str, Tensor], name: str, layer: SRULayer) -> list[tuple[Tensor, Tensor]]:
    """Parameters of one layer, each with what it shall be; takes that from what is left."""
    sizes = (layer.directions, layer.hidden_size, layer.parts)
    shapes = {
        "weight": (layer.weight.shape[1], math.prod(sizes)),
        "weight_c": (2 * layer.output_size,),
        "bias": (2 * layer.output_size,),
        "scale_x": (1,),
    }
    if layer.projection is not None:
        shapes["weight_proj"] = tuple(layer.projection.shape[::-1])
    if layer.norm is not None:
        shapes |= {"layer_norm.weight": (layer.input_size,), "layer_norm.bias": (layer.input_size,)}
    found = {}
    for key, shape in shapes.items():
        tensor = left.pop(name + key, None)
        if tensor is None or tensor.shape != shape:
            what = "nothing" if tensor is None else f"shape {tuple(tensor.shape)}"
            raise ValueError(f"{name + key}: expected shape {shape} for this SRU, found {what}")
        found[key] = tensor.detach()
    scale = float(found["scale_x"])
    if layer.input_is_highway and not math.isclose(scale, layer.alpha, rel_tol=1e-5):
        raise ValueError(
            f"{name}scale_x: expected {layer.alpha:g}, found {scale:g}: give `rescale` and `highway_bias` as "
            "that module had them (the package's default is rescale=False)"
        )
    # Theirs is (inputs, direction, hidden, part), with the scale of the highway in the fourth part.
    weight = found["weight"].reshape(-1, *sizes).permute(1, 3, 2, 0).clone()
    weight[:, 3:] /= layer.alpha
    vectors = {key: found[key].reshape(2, layer.directions, -1).transpose(0, 1) for key in ("weight_c", "bias")}
    copies: list[tuple[Tensor, Tensor]] = [(layer.weight, weight.flatten(0, 2))]
    copies += [(layer.weight_c, vectors["weight_c"]), (layer.bias, vectors["bias"])]
    if layer.projection is not None:
        copies.append((layer.projection, found["weight_proj"].T))
    if layer.norm is not None:
        copies += [(layer.norm.weight, found["layer_norm.weight"]), (layer.norm.bias, found["layer_norm.bias"])]
    return copies
