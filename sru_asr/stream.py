"""The recogniser fed piece by piece: what it emits equals, to rounding, what it emits for the whole utterance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sru_asr.audio import LOUDEST, AudioError
from sru_asr.features import HOP_SAMPLES, PAST_SAMPLES, frame_count

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
        raise AudioError(f"expected a waveform of finite samples about -1 to 1, found {found}; repair what recorded it")
    return waveform


def _integer(function: object, value: int) -> int:
    return int(function(torch.tensor(value)))  # type: ignore[operator]


class Stream:
    """One utterance, as it comes in. Holds no more than a window of audio, whatever the length.

    Args:
        model: in evaluation mode, and from now on on the device where it is.
        chunk: frames of log-probabilities emitted at a time, at least 1.
        lookahead: frames seen beyond them before they are emitted.
    """

    def __init__(self, model: Recognizer, chunk: int, lookahead: int) -> None:
        if chunk < 1 or lookahead < 0:
            raise ValueError(f"expected chunk >= 1 and lookahead >= 0, found {chunk} and {lookahead}")
        self.model = model
        self.chunk = chunk
        self.lookahead = lookahead
        self.samples = 0  # pushed so far
        self.finished = False
        self._device = model.device
        self._factor = model.encoder.subsampling.factor
        # Frames of audio to hold before the next one: those that it sees, and those whose own past is not held.
        self._past = model.encoder.subsampling.past_frames - (-PAST_SAMPLES // (self._factor * HOP_SAMPLES))
        self._audio = torch.zeros(
            1, 0, device=self._device
        )  # the last of them, from the first that a later frame needs
        self._first = 0  # the frame that `_audio` begins with
        self._frames = 0  # subsampled frames made so far
        self._pending = torch.zeros(
            1, 0, model.encoder.width, device=self._device
        )  # those that no chunk has emitted yet
        self._state: Tensor | None = None

    @torch.inference_mode()
    def push(self, waveform: Tensor) -> Tensor:
        """Take in (samples,) float32 at 16 kHz, any number; return what can be said now, (frames, vocab).

        Raises:
            AudioError: not a waveform; nothing of it has been taken in.
            RuntimeError: `finish` has been called.
        """
        self._check_open()
        waveform = check_waveform(waveform).to(self._device)
        self.samples += waveform.shape[0]
        self._audio = torch.cat([self._audio, waveform[None]], 1)
        # A frame is final once all features that it stands for are there: it sees none behind them.
        self._subsample(_integer(frame_count, self.samples) // self._factor)
        return self._emit(self.chunk + self.lookahead)

    @torch.inference_mode()
    def finish(self) -> Tensor:
        """End the utterance; return the rest, (frames, vocab).

        Raises:
            RuntimeError: it has been called before.
        """
        self._check_open()
        self.finished = True
        self._subsample(_integer(self.model.encoder.subsampling.lengths, _integer(frame_count, self.samples)))
        return self._emit(1)

    def _check_open(self) -> None:
        if self.finished:
            raise RuntimeError("this Stream is finished: a Stream is one utterance, make a new one for the next")

    def _subsample(self, frames: int) -> None:
        """Make subsampled frames up to `frames`. The audio before the first gives it its left context."""
        if frames <= self._frames:
            return
        audio = self._audio[:, : (frames * self._factor - self._first * self._factor) * HOP_SAMPLES]
        features, lengths = self.model.features(audio, torch.tensor([audio.shape[1]], device=self._device))
        made, _ = self.model.encoder.subsampling(features, lengths)
        self._pending = torch.cat([self._pending, made[:, self._frames - self._first :]], 1)
        self._frames = frames
        first = max(frames - self._past, 0)
        self._audio = self._audio[:, (first - self._first) * self._factor * HOP_SAMPLES :]
        self._first = first

    def _emit(self, least: int) -> Tensor:
        """Advance window by window while at least `least` frames are pending."""
        emitted = []
        while self._pending.shape[1] >= least:
            window = self._pending[:, : self.chunk + self.lookahead]
            chunk = min(self.chunk, window.shape[1])
            states, self._state = self.model.encoder.advance(window, chunk, self._state)
            emitted.append(self.model.ctc(states)[0])
            self._pending = self._pending[:, chunk:]
        if not emitted:
            return torch.zeros(0, self.model.tokenizer.vocab_size, device=self._device)
        return torch.cat(emitted)
