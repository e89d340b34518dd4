"""Where live audio comes from: a file, a pipe of raw samples, a microphone; each a sequence of waveforms."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from queue import Empty, Full, Queue
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from sru_asr.audio import SAMPLE_RATE, AudioError, Resampler, blocks

PIECE_SECONDS = 0.04
# What a microphone may have recorded before it is asked for: more, and recognition will not catch up.
BEHIND_SECONDS = 30.0
# What WAV, FLAC, Ogg, AIFF and MP3 begin with.
FILES = (b"RIFF", b"fLaC", b"OggS", b"FORM", b"ID3")
LOWEST_RATE, HIGHEST_RATE = 1_000, 384_000
# What is wrong with raw samples that end with half of one.
ODD = "expected raw samples of two bytes, found an odd number of bytes; is it another format?"


def until_interrupted(pieces: Iterator[Tensor]) -> Iterator[Tensor]:
    """Pieces of audio until Ctrl-C, which comes while the next one is waited for and not while one is computed.

    Args:
        pieces: of any source. Only the main thread may ask for them.

    Yields:
        The same.

    Raises:
        KeyboardInterrupt: somebody pressed Ctrl-C; all pieces that were given have been made use of.
    """
    interrupted = waiting = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        if waiting:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        while True:
            waiting = True
            if interrupted:
                raise KeyboardInterrupt
            piece = next(pieces, None)
            waiting = False
            if piece is None:
                return
            yield piece
    finally:
        signal.signal(signal.SIGINT, before)


def from_file(path: str | os.PathLike[str], realtime: bool = False) -> Iterator[Tensor]:
    """An audio file, piece by piece.

    Args:
        path: of any format, rate and length that `sru_asr.audio` reads.
        realtime: whether a piece comes no sooner than it would if it were spoken now.

    Yields:
        (samples,) float32 at 16 kHz.

    Raises:
        AudioError: when a fault of the file is reached.
    """
    start, seconds = time.monotonic(), 0.0
    for piece in blocks(path, PIECE_SECONDS if realtime else 1.0):
        seconds += len(piece) / SAMPLE_RATE
        if realtime:
            time.sleep(max(start + seconds - time.monotonic(), 0))
        yield piece


class Pcm:
    """Raw samples in pieces of any number of bytes: signed 16 bits, little-endian, one channel.

    Args:
        rate: of the samples, in Hz.

    Raises:
        ValueError: the rate is none.
    """

    def __init__(self, rate: int = SAMPLE_RATE) -> None:
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise ValueError(f"expected a rate of {LOWEST_RATE} to {HIGHEST_RATE} Hz, found {rate}")
        self._resampler = Resampler(rate, SAMPLE_RATE)
        self._odd = b""

    def needed(self, n_samples: int) -> int:
        """How many samples have to have come before so many at 16 kHz have been given."""
        return self._resampler.needed(n_samples)

    def push(self, pcm: bytes) -> Tensor:
        """The next samples at 16 kHz, (samples,) float32; half a sample waits for its other half."""
        pcm = self._odd + pcm
        n_samples = len(pcm) // 2
        self._odd = pcm[2 * n_samples :]
        samples = np.frombuffer(pcm, "<i2", n_samples).astype(np.float32) / 32_768
        return torch.from_numpy(self._resampler.push(samples))

    def finish(self) -> Tensor:
        """What the resampler still holds; half a sample is passed over."""
        return torch.from_numpy(self._resampler.finish())


def from_pcm(file: BinaryIO, rate: int = SAMPLE_RATE) -> Iterator[Tensor]:
    """Raw samples, as they come, as `arecord -t raw -f S16_LE` and `ffmpeg -f s16le` write them; see `Pcm`.

    Args:
        file: such as `sys.stdin.buffer`; what is there is taken, nothing is waited for longer than for the next byte.
        rate: of the samples, in Hz.

    Yields:
        (samples,) float32 at 16 kHz.

    Raises:
        ValueError: the rate is none.
        AudioError: there are none, or they end with half of one.
    """
    pcm = Pcm(rate)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be no file
        os.set_blocking(file.fileno(), True)  # or nothing yet would look like the end
    n_bytes = 2 * max(round(rate * PIECE_SECONDS), 1)
    read = getattr(file, "read1", file.read)
    n_read = 0
    while piece := read(n_bytes):
        if not n_read and piece.startswith(FILES):
            raise AudioError(
                "expected raw samples (signed 16 bits, one channel), found what a file begins with: give its name, or "
                "have `ffmpeg -i FILE -f s16le -ac 1 -ar 16000 -` make samples of it"
            )
        n_read += len(piece)
        if len(samples := pcm.push(piece)):
            yield samples
    if len(samples := pcm.finish()):
        yield samples
    if not n_read:
        raise AudioError("expected raw samples, found none: has what writes them failed?")
    if n_read % 2:
        raise AudioError(ODD)


def from_microphone(device: str | int | None = None) -> Iterator[Tensor]:
    """The microphone, until somebody stops it.

    Args:
        device: its name or number, as `python -m sounddevice` lists them; None for the system's default.

    Yields:
        (samples,) float32 at 16 kHz.

    Raises:
        AudioError: there is none, it stops, or recognition is slower than speech.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: it finds no PortAudio
        raise AudioError(
            f"the microphone needs sounddevice ({error}): pip install 'sru-asr[microphone]', and on Debian "
            "apt-get install libportaudio2; or give a file, or - for samples on standard input"
        ) from error
    pieces: Queue[np.ndarray] = Queue(round(BEHIND_SECONDS / PIECE_SECONDS))
    too_slow = False

    def take(samples: np.ndarray, n_samples: int, when: object, status: object) -> None:
        nonlocal too_slow
        try:
            pieces.put_nowait(samples[:, 0].copy())
        except Full:
            too_slow = True

    try:
        with sounddevice.InputStream(
            samplerate=SAMPLE_RATE,
            channels=1,
            dtype="float32",
            device=device,
            blocksize=round(SAMPLE_RATE * PIECE_SECONDS),
            callback=take,
        ) as stream:
            while True:
                if too_slow:
                    raise AudioError(
                        f"recognition is more than {BEHIND_SECONDS:g} s behind the microphone: take a longer "
                        "--latency, which costs less, or --precision bfloat16"
                    )
                try:
                    yield torch.from_numpy(pieces.get(timeout=1.0))
                except Empty:
                    if not stream.active:
                        raise AudioError("the microphone has stopped: was it unplugged?") from None
    except (sounddevice.PortAudioError, ValueError) as error:  # ValueError: there is none of that name
        if isinstance(error, AudioError):
            raise
        raise AudioError(
            f"the microphone cannot be used: {error}; python -m sounddevice lists what there is"
        ) from error
