"""Whether somebody speaks, by silero-vad: https://github.com/snakers4/silero-vad (MIT), which comes as an ONNX file."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt

# Of the network, at 16 kHz: samples that it takes at a time, those before them that it sees again, and its memory.
WINDOW_SAMPLES, CONTEXT_SAMPLES, STATE_SHAPE = 512, 64, (2, 128)
# Speech begins above one probability and ends below the other, as the network's makers recommend.
SPEECH, SILENCE = 0.5, 0.35


class VoiceError(RuntimeError):
    """There is no silero-vad here; the message says how to get it."""


class Voice:
    """One microphone. Holds a fraction of a second of audio, whatever the length.

    Attributes:
        probabilities: of speech, of each window of `WINDOW_SAMPLES` since they were taken last; see `take`.

    Raises:
        VoiceError: silero-vad or onnxruntime is not installed.
    """

    def __init__(self) -> None:
        _network()
        self.probabilities: list[float] = []
        self._state = np.zeros(STATE_SHAPE, np.float32)
        self._audio = np.zeros(CONTEXT_SAMPLES, np.float32)  # with the context of the next window before it

    def push(self, waveform: Tensor) -> None:
        """Take in (samples,) float32 at 16 kHz, any number."""
        listen([self], [waveform])

    def take(self) -> list[float]:
        """The probabilities so far, which are then forgotten."""
        taken, self.probabilities = self.probabilities, []
        return taken


def listen(voices: Sequence[Voice], waveforms: Sequence[Tensor]) -> None:
    """Take in the next audio of several microphones, all together.

    Args:
        voices: each of them once.
        waveforms: as `Voice.push` has it.
    """
    for voice, waveform in zip(voices, waveforms, strict=True):
        voice._audio = np.concatenate([voice._audio, waveform.detach().cpu().numpy().astype(np.float32)])
    while due := [voice for voice in voices if len(voice._audio) >= CONTEXT_SAMPLES + WINDOW_SAMPLES]:
        windows = np.stack([voice._audio[: CONTEXT_SAMPLES + WINDOW_SAMPLES] for voice in due])
        probabilities, states = _run(windows, np.stack([voice._state for voice in due], 1))
        for number, voice in enumerate(due):
            voice.probabilities.append(float(probabilities[number, 0]))
            voice._state = states[:, number].copy()
            voice._audio = voice._audio[WINDOW_SAMPLES:].copy()


def _run(windows: npt.NDArray[np.float32], states: npt.NDArray[np.float32]) -> Any:
    return _network().run(None, {"input": windows, "state": states, "sr": np.array(16_000, np.int64)})


@cache
def _network() -> Any:
    """The network, on one thread: a window takes a tenth of a millisecond."""
    found = importlib.util.find_spec("silero_vad")
    try:
        import onnxruntime

        if found is None or found.origin is None:
            raise ModuleNotFoundError("No module named 'silero_vad'")
    except ImportError as error:
        raise VoiceError(
            f"the voice activity detector needs silero-vad ({error}): pip install 'sru-asr[vad]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = Path(found.origin).with_name("data") / "silero_vad.onnx"
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Activity:
    """Until when somebody has spoken, told frame by frame of a recogniser that lags behind the audio.

    Args:
        frame_samples: of the recogniser, at 16 kHz.
    """

    def __init__(self, frame_samples: int) -> None:
        self.voice = Voice()
        self._frame_samples = frame_samples
        self._windows: list[float] = []  # those that no frame has reached
        self._n_windows = 0  # those that frames have reached
        self._speaking = False
        self._last = -1

    def last_spoken(self, n_frames: int) -> int:
        """The last of the first `n_frames` frames in which somebody spoke; -1 if nobody has."""
        self._windows += self.voice.take()
        reached = n_frames * self._frame_samples // WINDOW_SAMPLES - self._n_windows
        for probability in self._windows[:reached]:
            self._n_windows += 1
            self._speaking = probability >= (SILENCE if self._speaking else SPEECH)
            if self._speaking:
                self._last = (self._n_windows * WINDOW_SAMPLES - 1) // self._frame_samples
        del self._windows[:reached]
        return min(self._last, n_frames - 1)
