"""Utterances fed piece by piece, alone or many at a time: what is said of them equals, to rounding, what offline is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sru_asr.audio import LOUDEST, AudioError
from sru_asr.features import HOP_SAMPLES, PAST_HOPS
from sru_asr.windows import check_window

if TYPE_CHECKING:  # a recogniser transcribes long audio through a stream of its own
    from sru_asr.model import Recognizer


def check_waveform(waveform: object) -> Tensor:
    """The waveform as float32, if it is one: (samples,), floating point, finite, at most `LOUDEST`.

    Raises:
        AudioError: it is not.
    """
    if not isinstance(waveform, Tensor):
        raise AudioError(
            f"expected a waveform as a torch.Tensor, found {type(waveform).__name__}; "
            "torch.from_numpy makes one of an array"
        )
    if waveform.dim() != 1 or not waveform.is_floating_point():
        raise AudioError(
            "expected a waveform of shape (samples,), floating point in [-1, 1], found "
            f"{waveform.dtype} of shape {tuple(waveform.shape)}; average channels, divide 16-bit integers by 32768"
        )
    waveform = waveform.float()
    if not (waveform.abs() <= LOUDEST).all():  # nor is NaN
        found = f"{waveform.abs().max().item():.3g}" if torch.isfinite(waveform).all() else "NaN or infinity"
        raise AudioError(
            f"expected a waveform of finite samples about -1 to 1, found {found}; repair what recorded it, or divide "
            "integers of 16 bits by 32768"
        )
    return waveform


class Stream:
    """One utterance, as it comes in. Holds no more than a window of audio, whatever the length.

    `push` and `finish` compute at once. Who has many streams takes audio in with `accept` and `end`, and lets `advance`
    compute them together.

    Args:
        model: in evaluation mode, and from now on on the device where it is.
        chunk: frames of log-probabilities emitted at a time, at least 1.
        lookahead: frames seen beyond them before they are emitted.
    """

    def __init__(self, model: Recognizer, chunk: int, lookahead: int) -> None:
        check_window(chunk, lookahead)
        if chunk == 0:
            raise ValueError("expected chunk >= 1 and lookahead >= 0, found 0 and 0, which is all of an utterance")
        self.model = model
        self.chunk = chunk
        self.lookahead = lookahead
        self.samples = 0  # taken in so far
        self.finished = False
        self._device = model.device
        self._first = 0  # the hop that `_audio` begins with: the first that a later frame needs
        self._frames = 0  # subsampled frames made so far
        zeros = model.features.mean.new_zeros  # on its device, float32 whatever torch's default is
        self._audio = zeros(0)
        self._pending = zeros(0, model.encoder.width)  # those that no chunk has emitted yet
        sru = model.encoder.sru
        self._state = zeros(sru.num_layers, sru.hidden_size)

    def push(self, waveform: Tensor) -> Tensor:
        """Take in (samples,) float32 at 16 kHz, any number; return what can be said now, (frames, vocab).

        Raises:
            AudioError: not a waveform; nothing of it has been taken in.
            RuntimeError: the utterance has been ended.
        """
        self.accept(waveform)
        return advance([self])[0]

    def finish(self) -> Tensor:
        """End the utterance; return the rest, (frames, vocab).

        Raises:
            RuntimeError: that has been done before.
        """
        self.end()
        return advance([self])[0]

    def accept(self, waveform: Tensor) -> None:
        """As `push`, but nothing is computed yet."""
        self._check_open()
        waveform = check_waveform(waveform).to(self._device)
        self.samples += waveform.shape[0]
        self._audio = torch.cat([self._audio, waveform])

    def end(self) -> None:
        """As `finish`, but nothing is computed yet."""
        self._check_open()
        self.finished = True

    def save(self) -> bytes:
        """All that there is to know of an utterance that goes on: a safetensors file of constant size; see `load`.

        Raises:
            RuntimeError: the utterance has been ended.
        """
        self._check_open()
        numbers = [self.chunk, self.lookahead, self.samples, self._first, self._frames]
        tensors = {"audio": self._audio, "pending": self._pending, "state": self._state}
        return save(
            {"numbers": torch.tensor(numbers)} | {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        )

    @classmethod
    def load(cls, model: Recognizer, saved: bytes) -> Stream:
        """The stream that `save` wrote, to go on with the same model, perhaps in another process.

        Raises:
            ValueError: it was not written so, or for a model of another architecture.
        """
        try:
            tensors = load(saved)
            if tensors["numbers"].dtype != torch.int64:
                raise ValueError(f"its numbers are {tensors['numbers'].dtype}")
            chunk, lookahead, samples, first, frames = tensors["numbers"].tolist()
            stream = cls(model, chunk, lookahead)
            stream.samples, stream._first, stream._frames = samples, first, frames
            audio, pending, state = (tensors[name].float().to(model.device) for name in ("audio", "pending", "state"))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected a stream as Stream.save writes it, found other bytes ({error})") from error
        for name, found, of_model in (("pending", pending, stream._pending), ("state", state, stream._state)):
            if found.dim() != 2 or found.shape[1] != of_model.shape[1] or not torch.isfinite(found).all():
                raise ValueError(f"expected {name} for this model, found {tuple(found.shape)}; is it another model's?")
        if state.shape != stream._state.shape:
            raise ValueError(f"expected states of {tuple(stream._state.shape)}, found {tuple(state.shape)}")
        # What `advance` leaves: all frames that there is audio for, of which no whole window, and the past of the next.
        waiting = pending.shape[0]
        consistent = (
            0 <= frames <= stream._ready
            and first == stream._first_needed
            and audio.shape == (samples - first * HOP_SAMPLES,)
            and waiting <= min(frames, chunk + lookahead - 1)
            and (frames - waiting) % chunk == 0
        )
        if not consistent or not (audio.abs() <= LOUDEST).all():
            raise ValueError("expected a stream as Stream.save writes it, found one whose parts do not fit together")
        stream._audio, stream._pending, stream._state = audio, pending, state
        return stream

    def _check_open(self) -> None:
        if self.finished:
            raise RuntimeError("this Stream is finished: a Stream is one utterance, make a new one for the next")

    @property
    def missing(self) -> int:
        """Samples that have to come before the next window can be computed; 0 if they are there."""
        first = self._frames - self._pending.shape[0]  # the frame that the next window begins with
        return max((first + self.chunk + self.lookahead) * self._hop - self.samples, 0)

    @property
    def _hop(self) -> int:
        """Samples to a subsampled frame."""
        return self.model.encoder.subsampling.factor * HOP_SAMPLES

    @property
    def _first_needed(self) -> int:
        """The first hop of audio that the next frame needs: for the features that it sees, and their own past."""
        subsampling = self.model.encoder.subsampling
        return max(self._frames * subsampling.factor - subsampling.past - PAST_HOPS, 0)

    @property
    def _ready(self) -> int:
        """Subsampled frames that there is audio for. A frame sees none behind its own, so the last may be a part."""
        return (
            -(-(self.samples // HOP_SAMPLES * HOP_SAMPLES) // self._hop) if self.finished else self.samples // self._hop
        )

    @property
    def _samples_ready(self) -> int:
        """Of `_audio`, for those frames."""
        return self._ready * self._hop - self._first * HOP_SAMPLES

    @property
    def _due(self) -> bool:
        """Whether a window can be computed, from frames or from the audio of some."""
        if self.finished:
            return self._ready > self._frames or self._pending.shape[0] > 0
        return self.missing == 0


@torch.inference_mode()
def advance(streams: Sequence[Stream]) -> list[Tensor]:
    """Compute what streams can say now, all together: many streams cost little more than one while they are few.

    Args:
        streams: of one model; windows may be of any sizes, and those of one size are computed side by side.

    Returns:
        For each stream (frames, vocab) float32, natural logs of probabilities: to rounding what it says alone.

    Raises:
        ValueError: the streams are of several models, or one is there twice.
    """
    if len({id(stream.model) for stream in streams}) > 1 or len({id(stream) for stream in streams}) < len(streams):
        raise ValueError("expected streams of one model, each of them once")
    # All the frames of a window at once: the audio before the first, which it needs, is gone through again each time.
    for alike in _alike([stream for stream in streams if stream._due and stream._ready > stream._frames]):
        _subsample(alike)
    said: dict[int, list[Tensor]] = {id(stream): [] for stream in streams}
    while due := [stream for stream in streams if stream._due]:
        sizes: dict[tuple[int, int], list[Stream]] = {}
        for stream in due:
            sizes.setdefault((stream.chunk, stream.lookahead), []).append(stream)
        for of_one_size in sizes.values():
            for stream, log_probs in zip(of_one_size, _next_window(of_one_size), strict=True):
                said[id(stream)].append(log_probs)
    return [
        torch.cat(said[id(stream)] or [stream.model.features.mean.new_zeros(0, stream.model.tokenizer.vocab_size)])
        for stream in streams
    ]


def _alike(streams: list[Stream]) -> list[list[Stream]]:
    """Groups in which all begin with their utterance, or none, and none has more than twice the audio of another.

    As all are padded to the longest.
    """
    groups: list[list[Stream]] = []
    for stream in sorted(streams, key=lambda stream: (stream._first > 0, stream._samples_ready)):
        shortest = groups[-1][0] if groups else stream
        alike = (shortest._first > 0) == (stream._first > 0) and stream._samples_ready <= 2 * shortest._samples_ready
        if groups and alike:
            groups[-1].append(stream)
        else:
            groups.append([stream])
    return groups


def _subsample(streams: list[Stream]) -> None:
    """Make all the subsampled frames that there is audio for. The audio before the first gives it its left context."""
    encoder, features = streams[0].model.encoder, streams[0].model.features
    audio = [stream._audio[: stream._samples_ready] for stream in streams]
    lengths = torch.tensor([len(samples) for samples in audio], device=audio[0].device)
    made, lengths = features(_side_by_side(audio), lengths)
    if past := streams[0]._first > 0:
        made = made[:, PAST_HOPS:]  # the first ones have not heard all of their own
        lengths = lengths - PAST_HOPS - encoder.subsampling.past
    made, _ = encoder.subsampling(made, lengths, past)
    for stream, frames in zip(streams, made, strict=True):
        before = stream._frames if past else 0
        stream._pending = torch.cat([stream._pending, frames[stream._frames - before : stream._ready - before]])
        stream._frames = stream._ready
        first = stream._first_needed
        # A part of a tensor keeps all of it: of a long push there would be two copies until the next.
        stream._audio = stream._audio[(first - stream._first) * HOP_SAMPLES :].clone()
        stream._first = first


def _side_by_side(tensors: list[Tensor]) -> Tensor:
    """(batch, longest, ...), zero behind those that are shorter."""
    if len({len(tensor) for tensor in tensors}) == 1:
        return torch.stack(tensors)  # in a fraction of the time
    return pad_sequence(tensors, batch_first=True)


def _next_window(streams: list[Stream]) -> list[Tensor]:
    """Compute the next window of each of some streams with windows of one size; return what their chunks say."""
    model, size = streams[0].model, streams[0].chunk + streams[0].lookahead
    windows = [stream._pending[:size] for stream in streams]
    frames = torch.tensor([len(window) for window in windows], device=windows[0].device)
    batch = _side_by_side(windows)
    chunk = min(streams[0].chunk, batch.shape[1])
    states, after = model.encoder.advance(batch, chunk, torch.stack([stream._state for stream in streams], 1), frames)
    said = []
    for stream, window, log_probs, state in zip(streams, windows, model.ctc(states), after.unbind(1), strict=True):
        n = min(chunk, len(window))  # of an utterance that has ended less than a chunk may be left
        said.append(log_probs[:n])
        stream._pending = stream._pending[n:].clone()
        stream._state = state.clone()  # not the others' with it
    return said
