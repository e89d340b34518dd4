"""One layer of Simple Recurrent Units: a matrix product, then the element-wise recurrence (Lei et al. 2018)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from sru_asr.ops import fused_layer, kernel_name, pack_weight, quantize_weight, recurrence, refuse_tangents
from sru_asr.product import autocast, multiply, multiply_transposed

# Without vectors of a processor that we know, torch's product is the faster one.
_FLOAT32_IN_ONE_PASS = kernel_name() not in {"baseline", "emulated"}

Packed = Tensor | tuple[Tensor, Tensor]

# Of any optimizer in this process. Fused ones change weights without raising their versions.
_optimizer_steps = 0


def _count_optimizer_step(*_: Any) -> None:
    global _optimizer_steps
    _optimizer_steps += 1


register_optimizer_step_post_hook(_count_optimizer_step)


class SRULayer(nn.Module):
    """One SRU layer, in one or two directions: a matrix product, then the element-wise recurrence.

    On a CPU in float32 or bfloat16 (autocast, or after `.bfloat16()`) and without gradients (`torch.no_grad`,
    `inference_mode`) both are one pass over weights that are packed once. They are packed again when they change; a
    change that goes behind autograd's back, by `weight.data` or another process, is noticed after the next `eval()`.

    Args:
        input_size: width of the input.
        hidden_size: width of each direction's output.
        bidirectional: add the direction from the last frame to the first.
        layer_norm: normalise what enters the matrix product (the highway carries the input as it is).
        highway: add the gated input to the output; a fourth matrix projects it where widths differ.
        highway_bias: initial value of the reset gate's bias; negative values favour the highway.
        rescale: scale the highway by sqrt(1 + 2 exp(highway_bias)), which keeps the variance of layers at
            initialisation (section 3.2).
        projection_size: factorise the matrix through this many dimensions; 0 for no factorisation.
        device: of the parameters.
        dtype: of the parameters.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bidirectional: bool = False,
        layer_norm: bool = False,
        highway: bool = True,
        highway_bias: float = 0.0,
        rescale: bool = True,
        projection_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1 or projection_size < 0:
            raise ValueError(f"sizes must be positive, found {input_size=}, {hidden_size=}, {projection_size=}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.directions = 2 if bidirectional else 1
        self.output_size = self.directions * hidden_size
        self.highway_bias = highway_bias
        self.parts = 4 if highway and input_size != self.output_size else 3
        self.input_is_highway = highway and self.parts == 3
        self.alpha = math.sqrt(1 + 2 * math.exp(highway_bias)) if highway and rescale else 1.0
        self.norm = nn.LayerNorm(input_size, device=device, dtype=dtype) if layer_norm else None

        def parameter(*sizes: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(sizes, device=device, dtype=dtype))

        self.projection = parameter(projection_size, input_size) if projection_size else None
        self.weight = parameter(self.directions * self.parts * hidden_size, projection_size or input_size)
        self.weight_c = parameter(self.directions, 2, hidden_size)
        self.bias = parameter(self.directions, 2, hidden_size)
        self.quantized = False  # see SRU.quantize
        self._packed: tuple[Tensor, object, Packed] | None = None  # the weight, its version, and what was made of it
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the paper does (section 3.2): weights uniform with mean 0 and variance 1 / inputs.

        The gates add two terms of equal variance, W x and v * c, so both get half of it, as in the authors' own code.
        """
        with torch.no_grad():
            if self.projection is not None:
                self.projection.uniform_(-1, 1).mul_(math.sqrt(3 / self.input_size))
            self.weight.uniform_(-1, 1).mul_(math.sqrt(3 / self.weight.shape[1]))
            self.weight.view(self.directions, self.parts, self.hidden_size, -1)[:, 1:3].mul_(math.sqrt(0.5))
            self.weight_c.uniform_(-1, 1).mul_(math.sqrt(3 * 0.5))
            self.bias.zero_()
            self.bias[:, 1] = self.highway_bias
        if self.norm is not None:
            self.norm.reset_parameters()

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: Tensor | None = None, chunk: int = 0, lookahead: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Run the layer over `x`, laid out as windows if `chunk` > 0 (see :func:`sru_asr.ops.recurrence`).

        Args:
            x: (batch, frames, input_size).
            lengths: (batch,) int64.
            state: (batch, directions, hidden_size).
            chunk: new frames of a window, 0 for the whole utterance.
            lookahead: frames of a window behind its chunk.

        Returns:
            The output, (batch, frames, directions * hidden_size), zero behind each length, and the final state,
            (batch, directions, hidden_size), float32 at least.

        Raises:
            ValueError: the input has another width, or dimensions.
        """
        check_input(x, self.input_size, 3)
        y = x if self.norm is None else self.norm(x)
        if self.projection is not None:
            y = F.linear(y, self.projection)
        highway = x.unflatten(-1, (self.directions, self.hidden_size)) if self.input_is_highway else None
        rest = (self.weight_c, self.bias, state, lengths, self.alpha)
        dtype = self._one_pass(y)
        if dtype is not None:
            refuse_tangents(self.weight)  # what is packed of it has none
            y, highway = y.to(dtype), None if highway is None else highway.to(dtype)
            h, state = fused_layer(y, highway, self._packed_weight(dtype), *rest, self.parts, chunk, lookahead)
        else:
            u, same = _ProductAndInput.apply(*autocast(y, self.weight))
            if y is x and highway is not None:
                highway = same.unflatten(-1, (self.directions, self.hidden_size))
            u = u.unflatten(-1, (self.directions, self.parts, self.hidden_size))
            h, state = recurrence(u, highway, *rest, chunk, lookahead)
        return h.flatten(2), state

    def _one_pass(self, y: Tensor) -> torch.dtype | None:
        """What product and recurrence are computed in together; None if they are not."""
        if torch.is_grad_enabled() or y.device.type != "cpu":
            return None
        if torch.compiler.is_compiling() and not self.quantized:
            return None  # what is packed once cannot be kept in a graph; packing every time costs more than it saves
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else y.dtype
        if dtype == torch.bfloat16 and {y.dtype, self.weight.dtype} <= {torch.float32, torch.bfloat16}:
            return dtype if autocast or y.dtype == self.weight.dtype else None
        return dtype if dtype == y.dtype == self.weight.dtype == torch.float32 and _FLOAT32_IN_ONE_PASS else None

    def _pack(self, dtype: torch.dtype, quantized: bool) -> Packed:
        pack = quantize_weight if quantized and dtype == torch.bfloat16 else pack_weight
        return pack(self.weight.to(dtype), self.directions, self.parts)

    def _packed_weight(self, dtype: torch.dtype) -> Packed:
        weight, quantized = self.weight, self.quantized
        if torch.compiler.is_compiling() or self.training or weight.is_inference():  # the last have no version
            return self._pack(dtype, quantized)
        try:
            version = (weight.data_ptr(), weight._version, _optimizer_steps, dtype, quantized)
        except RuntimeError:  # a stand-in of torch.func's has no address
            return self._pack(dtype, quantized)
        kept = self._packed  # other threads may put another one there at any time
        if kept is None or kept[1] != version:
            # The weight itself is kept, so that no other can come to lie at its address.
            kept = (weight.detach(), version, self._pack(dtype, quantized))
            if type(kept[2][0] if isinstance(kept[2], tuple) else kept[2]) is Tensor:  # no stand-in of a tracer's
                self._packed = kept
        return kept[2]

    def quantize(self, wanted: bool = True) -> None:
        """See :meth:`SRU.quantize`."""
        self.quantized = wanted

    def train(self, mode: bool = True) -> SRULayer:
        """As `nn.Module.train`; forgets the packed weights."""
        self._packed = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> SRULayer:
        """As `nn.Module._apply`, by which `to` and its like go; forgets the packed weights."""
        self._packed = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """Leave what can be made again out of pickles and copies."""
        return {**self.__dict__, "_packed": None}

    def extra_repr(self) -> str:
        """Sizes for `print(layer)`."""
        return f"{self.input_size}, {self.hidden_size}, directions={self.directions}, parts={self.parts}"


class _ProductAndInput(torch.autograd.Function):
    """The product of x, (batch, frames, inputs), with a matrix, (outputs, inputs), and x itself.

    Where a layer needs both, their gradients meet in one matrix product; else autograd adds them, a pass over memory.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        product = multiply(x.reshape(-1, x.shape[-1]), weight.T)
        return product.view(*x.shape[:-1], weight.shape[0]), x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_product: Tensor, grad_x: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad_product.reshape(-1, grad_product.shape[-1])  # `flatten` has no rule for batched gradients
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = multiply(rows, weight, None if grad_x is None else grad_x.reshape(-1, x.shape[-1])).reshape(x.shape)
        if ctx.needs_input_grad[1]:
            of_weight = multiply_transposed(rows, x.reshape(-1, x.shape[-1]))
        return of_x, of_weight


def check_input(x: Tensor, width: int, *dimensions: int) -> None:
    if x.dim() not in dimensions or x.shape[-1] != width:
        raise ValueError(
            f"expected input of {' or '.join(map(str, dimensions))} dimensions, the last {width} wide, "
            f"found shape {tuple(x.shape)}"
        )
