"""Simple Recurrent Units as torch modules (Lei et al. 2018), to use where one would use `torch.nn.LSTM`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from sru_asr.ops import fused_layer, kernel_name, pack_weight, quantize_weight, recurrence, transpose
from sru_asr.windows import check_window, fold, unfold

# Without vectors of a processor that we know, torch's product is the faster one.
_FLOAT32_IN_ONE_PASS = kernel_name() not in {"baseline", "emulated"}

Packed = Tensor | tuple[Tensor, Tensor]


class SRULayer(nn.Module):
    """One SRU layer, in one or two directions: a matrix product, then the element-wise recurrence.

    On a CPU in float32 or bfloat16 (autocast, or after `.bfloat16()`) and without gradients (`torch.no_grad`,
    `inference_mode`) both are one pass over weights that are packed once. They are packed again when they change; a
    change that goes behind autograd's back, by `weight.data`, is noticed after the next `eval()`.

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
        _check_input(x, self.input_size, 3)
        y = x if self.norm is None else self.norm(x)
        if self.projection is not None:
            y = F.linear(y, self.projection)
        highway = x.unflatten(-1, (self.directions, self.hidden_size)) if self.input_is_highway else None
        rest = (self.weight_c, self.bias, state, lengths, self.alpha)
        dtype = self._one_pass(y)
        if dtype is not None:
            y, highway = y.to(dtype), None if highway is None else highway.to(dtype)
            h, state = fused_layer(y, highway, self._packed_weight(dtype), *rest, self.parts, chunk, lookahead)
        else:
            u, same = _ProductAndInput.apply(*_autocast(y, self.weight))
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
            version = (weight.data_ptr(), weight._version, dtype, quantized)
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
    The gradient of a matrix in bfloat16 takes oneDNN twice as long as the product itself unless a factor is transposed.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return F.linear(x, weight), x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_product: Tensor, grad_x: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad_product.flatten(0, 1)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = rows @ weight if grad_x is None else torch.addmm(grad_x.flatten(0, 1), rows, weight)
            of_x = of_x.view_as(x)
        if ctx.needs_input_grad[1]:
            of_weight = transpose(rows) @ x.flatten(0, 1)
        return of_x, of_weight


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """What `torch.autocast` makes of what enters a matrix product; a function of one's own it leaves alone."""
    device = tensors[0].device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)) or torch.float64 in {
        t.dtype for t in tensors
    }:
        return list(tensors)
    return [t.to(torch.get_autocast_dtype(device)) for t in tensors]


class SRU(nn.Module):
    """A stack of SRU layers, called as `torch.nn.LSTM` is, but with one state tensor instead of two.

    Everything is a keyword that `nn.LSTM` does not have beyond `bidirectional`. Besides (batch, frames, width) tensors
    it takes PackedSequences, unbatched (frames, width) tensors and time-first ones, as `nn.LSTM` does. `torch.compile`
    takes all of it whole but PackedSequences, which torch itself cannot trace: give it padded tensors and `lengths`.
    `torch.func.grad` it does not know, as torch has none for operators that are registered with it; `backward` and
    `torch.autograd.grad` it does.

    Args:
        input_size: width of the input.
        hidden_size: width of each direction.
        num_layers: number of layers.
        batch_first: tensors are (batch, frames, width), not (frames, batch, width). False by default, as in `nn.LSTM`.
        dropout: probability of dropping a unit of a layer's output, the same units over all frames of an utterance
            (variational dropout); as in `nn.LSTM` not behind the last layer, unless `residual`.
        bidirectional: add the direction from the last frame to the first; outputs are concatenated.
        layer_norm: normalise each layer's input.
        residual: add each layer's input to its (dropped out) output where widths agree.
        highway: see :class:`SRULayer`.
        highway_bias: see :class:`SRULayer`.
        rescale: see :class:`SRULayer`.
        projection_size: see :class:`SRULayer`.
        device: of the parameters.
        dtype: of the parameters.

    Example:
        >>> sru = SRU(80, 256, num_layers=4, batch_first=True, bidirectional=True)
        >>> output, state = sru(torch.randn(8, 100, 80))
        >>> output.shape, state.shape
        (torch.Size([8, 100, 512]), torch.Size([8, 8, 256]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        layer_norm: bool = False,
        residual: bool = False,
        highway: bool = True,
        highway_bias: float = 0.0,
        rescale: bool = True,
        projection_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_layers < 1 or input_size < 1 or hidden_size < 1:
            raise ValueError(f"sizes must be positive, found {input_size=}, {hidden_size=}, {num_layers=}")
        if not 0 <= dropout < 1:
            raise ValueError(f"expected 0 <= dropout < 1, found {dropout}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.residual = residual
        self.directions = 2 if bidirectional else 1
        self.output_size = self.directions * hidden_size
        self.layers = nn.ModuleList(
            SRULayer(
                input_size if i == 0 else self.output_size,
                hidden_size,
                bidirectional=bidirectional,
                layer_norm=layer_norm,
                highway=highway,
                highway_bias=highway_bias,
                rescale=rescale,
                projection_size=projection_size,
                device=device,
                dtype=dtype,
            )
            for i in range(num_layers)
        )

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        chunk: int = 0,
        lookahead: int = 0,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run the stack over whole sequences.

        Args:
            input: (batch, frames, input_size) if `batch_first`, else (frames, batch, input_size); unbatched
                (frames, input_size); or a PackedSequence.
            state: (num_layers * directions, batch, hidden_size), as an earlier call returned it; zeros if None.
            lengths: (batch,) frames of each sequence, any integers (a list, too); whole if None. Not together with a
                PackedSequence.
            chunk: compute what a live recogniser computes that sees `chunk` new frames and `lookahead` more at a time
                (see :mod:`sru_asr.windows`); 0 for full context.
            lookahead: frames a window sees behind its chunk.

        Returns:
            The last layer's output in the layout of `input`, width directions * hidden_size, zero behind each length
            (but for the padding of an input that `residual` adds); and the state behind the last frame (in the backward
            direction: at the first), as `state`.

        Raises:
            ValueError: shapes that do not fit.
        """
        check_window(chunk, lookahead)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("a PackedSequence brings its own lengths: call without `lengths`")
            _check_input(input.data, self.input_size, 2)
            padded, lengths = pad_packed_sequence(input, batch_first=True)
            output, state = self._whole(padded, state, lengths.to(padded.device), chunk, lookahead)
            # pad_packed_sequence undid the sorting; packing by the same order restores it.
            order = input.sorted_indices
            packed = pack_padded_sequence(
                output if order is None else output.index_select(0, order),
                lengths if order is None else lengths.index_select(0, order.cpu()),
                batch_first=True,
            )
            return PackedSequence(packed.data, packed.batch_sizes, order, input.unsorted_indices), state
        _check_input(input, self.input_size, 2, 3)
        time = 1 if self.batch_first and input.dim() == 3 else 0
        batch = input.shape[1 - time] if input.dim() == 3 else 1
        lengths = _as_lengths(lengths, batch, input.shape[time], input.device)
        if input.dim() == 2:
            batch_state = state
            if isinstance(state, Tensor):
                expected = (self.num_layers * self.directions, self.hidden_size)
                if state.shape != expected:
                    raise ValueError(
                        f"expected a state of shape {expected} (layers * directions, hidden) for an unbatched input, "
                        f"found {tuple(state.shape)}"
                    )
                batch_state = state.unsqueeze(1)
            output, state = self._whole(input.unsqueeze(0), batch_state, lengths, chunk, lookahead)
            return output.squeeze(0), state.squeeze(1)
        if self.batch_first:
            return self._whole(input, state, lengths, chunk, lookahead)
        output, state = self._whole(input.transpose(0, 1), state, lengths, chunk, lookahead)
        return output.transpose(0, 1), state

    def quantize(self, wanted: bool = True) -> SRU:
        """Use weights of eight bits, with a scale for each output column, in inference in bfloat16 on CPUs.

        A live recogniser, which has a frame or a few at a time, spends its time on reading weights, of which there are
        then half as many bytes. Whether they are quantised does not depend on how many frames there are, as what is
        recognised live and offline would differ then. The parameters stay as they are, and so does all else: training,
        float32, GPUs.

        Args:
            wanted: False undoes it.

        Returns:
            The module itself.
        """
        for layer in self.layers:
            cast(SRULayer, layer).quantize(wanted)
        return self

    def load_sru_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take over weights that the authors' package `sru` has trained (2.6; see docs/migration.md).

        Args:
            state_dict: of their `SRU`, made with the same sizes, `bidirectional`, `has_skip_term` as `highway`, and
                `rescale` and `highway_bias` likewise.

        Raises:
            ValueError: it is that of a module of other sizes or settings, or of one whose computation is another.
        """
        left = dict(state_dict)
        loaded = []
        for i, module in enumerate(self.layers):
            layer, name = cast(SRULayer, module), f"rnn_lst.{i}."
            if layer.norm is not None and layer.input_is_highway:
                raise ValueError("with layer_norm the package's highway is normalised, too: expected highway=False")
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
            copies = [(layer.weight, weight.flatten(0, 2)), (layer.weight_c, vectors["weight_c"])]
            copies.append((layer.bias, vectors["bias"]))
            if layer.projection is not None:
                copies.append((layer.projection, found["weight_proj"].T))
            if layer.norm is not None:
                copies += [(layer.norm.weight, found["layer_norm.weight"]), (layer.norm.bias, found["layer_norm.bias"])]
            loaded += copies
        if left:
            raise ValueError(f"expected nothing else than {self.num_layers} layers have here, found {', '.join(left)}")
        with torch.no_grad():
            for parameter, tensor in loaded:
                parameter.copy_(tensor)

    def flatten_parameters(self) -> None:
        """Do nothing: for code written for `nn.LSTM`, whose parameters cuDNN wants in one piece."""

    def advance(
        self,
        window: Tensor,
        chunk: int,
        state: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the stack over one window of live streams; what `forward` computes with `chunk` and `lookahead`.

        Args:
            window: (batch, frames, input_size), the chunk and the lookahead behind it.
            chunk: how many of the frames are new, and are emitted; the others will come again in the next window.
            state: (num_layers, batch, hidden_size), the forward direction's state as the previous window's call
                returned it; None at the start. The backward direction starts anew in every window.
            lengths: (batch,) frames of each window where a stream has ended within it, as in `forward`.

        Returns:
            The chunk's output, (batch, chunk, directions * hidden_size), and the next window's state.
        """
        _check_input(window, self.input_size, 3)
        lengths = _as_lengths(lengths, window.shape[0], window.shape[1], window.device)
        if not 1 <= chunk <= window.shape[1]:
            raise ValueError(f"expected a chunk of 1 to {window.shape[1]} frames (the window's), found {chunk}")
        full = None
        if state is not None:
            self._check_state(state, 1, window.shape[0])
            full = state.new_zeros(self.num_layers, self.directions, window.shape[0], self.hidden_size)
            full[:, 0] = state
            full = full.flatten(0, 1)
        output, full = self._layers(window, full, lengths, chunk, window.shape[1] - chunk)
        return output[:, :chunk], full.unflatten(0, (self.num_layers, self.directions))[:, 0]

    def _whole(
        self, x: Tensor, state: Tensor | None, lengths: Tensor | None, chunk: int, lookahead: int
    ) -> tuple[Tensor, Tensor]:
        batch, frames, _ = x.shape
        if chunk == 0 or chunk >= frames:  # one window holds everything
            return self._layers(x, state, lengths, 0, 0)
        if lengths is None:
            lengths = torch.full((batch,), frames, device=x.device)
        else:
            lengths = lengths.clamp(max=frames)  # where nobody has looked; the last window is filled up beyond them
        output, state = self._layers(unfold(x, chunk, lookahead), state, lengths, chunk, lookahead)
        return fold(output, chunk, lookahead, frames), state

    def _layers(
        self, x: Tensor, state: Tensor | None, lengths: Tensor | None, chunk: int, lookahead: int
    ) -> tuple[Tensor, Tensor]:
        if state is not None:
            self._check_state(state, self.directions, x.shape[0])
        final = []
        for i, layer in enumerate(self.layers):
            layer_state = None
            if state is not None:
                layer_state = state[i * self.directions : (i + 1) * self.directions].transpose(0, 1)
            y, layer_final = layer(x, lengths, layer_state, chunk, lookahead)
            final.append(layer_final.transpose(0, 1))
            if self.residual or i + 1 < self.num_layers:
                y = self._drop(y)
            x = x + y if self.residual and x.shape == y.shape else y
        return x, torch.cat(final)

    def _check_state(self, state: Tensor, directions: int, batch: int) -> None:
        if not isinstance(state, Tensor):
            raise ValueError(
                f"expected the state as one tensor (there is no second one as in nn.LSTM), found {type(state).__name__}"
            )
        expected = (self.num_layers * directions, batch, self.hidden_size)
        if state.shape != expected:
            raise ValueError(
                f"expected a state of shape {expected} (layers * directions, batch, hidden), found {tuple(state.shape)}"
            )

    def _drop(self, y: Tensor) -> Tensor:
        """Variational dropout: one mask per utterance and unit, the same in every frame."""
        if not self.training or self.dropout == 0:
            return y
        keep = 1 - self.dropout
        # (A tensor of probabilities in bfloat16 would have them rounded.)
        return y * y.new_empty(y.shape[0], 1, y.shape[2]).bernoulli_(keep).div_(keep)


def _check_input(x: Tensor, width: int, *dimensions: int) -> None:
    if x.dim() not in dimensions or x.shape[-1] != width:
        raise ValueError(
            f"expected input of {' or '.join(map(str, dimensions))} dimensions, the last {width} wide, "
            f"found shape {tuple(x.shape)}"
        )


def _as_lengths(lengths: Any, batch: int, frames: int, device: torch.device) -> Tensor | None:
    """As a tensor of int64, checked where that needs no waiting for a GPU."""
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor):
        lengths = torch.tensor(lengths, dtype=None if len(lengths) else torch.long)
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise ValueError(f"expected lengths of integers, (batch,), found {lengths.dtype}")
    if lengths.shape != (batch,):
        raise ValueError(f"expected a length for each of {batch} sequences, found shape {tuple(lengths.shape)}")
    looked_at = lengths.device.type == "cpu" and not torch.compiler.is_compiling()
    if looked_at and not ((lengths >= 0) & (lengths <= frames)).all():
        raise ValueError(f"expected lengths from 0 to the {frames} frames there are, found {lengths.tolist()}")
    return lengths.to(device).long()
