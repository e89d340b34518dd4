"""Simple Recurrent Units as a torch module (Lei et al. 2018), to use where one would use `torch.nn.LSTM`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from sru_asr.layer import SRULayer, check_input
from sru_asr.migration import take_over
from sru_asr.windows import check_window, fold, unfold


class SRU(nn.Module):
    """A stack of SRU layers, called as `torch.nn.LSTM` is, but with one state tensor instead of two.

    All but the three sizes is by keyword. Besides (batch, frames, width) tensors
    it takes PackedSequences, unbatched (frames, width) tensors and time-first ones, as `nn.LSTM` does. `torch.compile`
    takes all of it whole but PackedSequences, which torch itself cannot trace: give it padded tensors and `lengths`.
    It does not support `torch.func.grad`, `vmap` of a gradient or forward mode (`jvp`), as torch has none for operators
    that are registered with it; `backward` and `torch.autograd.grad` it does, also of a `vmap`.

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
            check_input(input.data, self.input_size, 2)
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
        check_input(input, self.input_size, 2, 3)
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
            ValueError: it is that of a module of other sizes or settings. Whether that one had `use_tanh` or
                `normalize_after`, which ours has not, its `state_dict` does not say.
        """
        take_over(state_dict, cast(Sequence[SRULayer], self.layers))

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
        check_input(window, self.input_size, 3)
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
        lookahead = min(lookahead, frames)  # what lies behind the end costs no less than what is there
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


def _as_lengths(lengths: Any, batch: int, frames: int, device: torch.device) -> Tensor | None:
    """As a tensor of int64, checked where that needs no waiting for a GPU."""
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor):
        lengths = torch.as_tensor(lengths)
        lengths = lengths if lengths.numel() else lengths.long()
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise ValueError(f"expected lengths of integers, (batch,), found {lengths.dtype}")
    if lengths.shape != (batch,):
        raise ValueError(f"expected a length for each of {batch} sequences, found shape {tuple(lengths.shape)}")
    lengths = lengths.long()  # in narrower integers the number of frames may be another one
    looked_at = lengths.device.type == "cpu" and not torch.compiler.is_compiling()
    if looked_at and not ((lengths >= 0) & (lengths <= frames)).all():
        raise ValueError(f"expected lengths from 0 to the {frames} frames there are, found {lengths.tolist()}")
    return lengths.to(device)
