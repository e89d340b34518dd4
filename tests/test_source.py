"""Live audio: a file at its own pace, a pipe of raw samples, and a microphone that is none."""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sru_asr.audio import AudioError, read
from sru_asr.source import from_file, from_microphone, from_pcm, until_interrupted


class Pipe(io.RawIOBase):
    """Gives what it holds in pieces of these sizes, then as much as is asked for."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self.content, self.sizes = content, sizes

    def read1(self, n_bytes: int) -> bytes:
        size = min(self.sizes.pop(0) if self.sizes else n_bytes, n_bytes)
        piece, self.content = self.content[:size], self.content[size:]
        return piece


@settings(deadline=None)
@given(st.integers(1, 3_000), st.lists(st.integers(1, 2_000), max_size=20), st.integers(0, 100))
def test_a_pipe_gives_its_samples_whatever_the_pieces(n_samples: int, sizes: list[int], seed: int) -> None:
    samples = np.random.default_rng(seed).integers(-32_768, 32_768, n_samples).astype("<i2")
    found = list(from_pcm(Pipe(samples.tobytes(), sizes)))
    assert all(0 < len(piece) <= 641 and piece.dtype == torch.float32 for piece in found)
    np.testing.assert_array_equal(np.concatenate([[], *found]), samples / np.float32(32_768))


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_other_rates_are_resampled_as_a_whole_file_would_be(rate: int, tmp_path: Path) -> None:
    tone = (10_000 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype("<i2")
    soundfile.write(tmp_path / "tone.wav", tone, rate)
    expected = read(tmp_path / "tone.wav")
    found = torch.cat(list(from_pcm(Pipe(tone.tobytes(), [777] * 20), rate)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_pipe_that_has_nothing_yet_has_not_ended() -> None:
    """As those of a parent with an event loop are."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with os.fdopen(reader, "rb") as file, os.fdopen(writer, "wb", buffering=0) as pipe:
        later = threading.Timer(0.2, lambda: (pipe.write(b"\1\0" * 9), pipe.close()))
        later.start()
        assert sum(len(piece) for piece in from_pcm(file)) == 9
        later.join()


def test_half_a_sample_and_no_rate_are_faults() -> None:
    pieces = from_pcm(Pipe(b"abc", []))
    assert len(next(pieces)) == 1
    with pytest.raises(AudioError, match="odd number of bytes"):
        next(pieces)
    with pytest.raises(AudioError, match="found none"):
        next(from_pcm(Pipe(b"", [])))
    for rate in (0, 999, 384_001):
        with pytest.raises(ValueError, match=f"found {rate}"):
            next(from_pcm(Pipe(b"", []), rate))


def test_a_file_comes_whole_and_no_sooner_than_it_is_spoken(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal(6_400), 16_000)
    expected = read(tmp_path / "noise.wav")
    assert torch.equal(torch.cat(list(from_file(tmp_path / "noise.wav"))), expected)
    start = time.monotonic()
    pieces = []
    for piece in from_file(tmp_path / "noise.wav", realtime=True):
        pieces.append(piece)
        assert time.monotonic() - start >= 0.04 * len(pieces) - 0.001
    assert len(pieces) == 10
    assert torch.equal(torch.cat(pieces), expected)


def sounddevice(n_pieces: int, fault: str = "") -> SimpleNamespace:
    """A module whose microphone hears ones, twos, threes, then stops."""

    class PortAudioError(Exception):
        pass

    class InputStream:
        active = False

        def __init__(self, *, blocksize, callback, device, samplerate, channels, dtype):
            assert (samplerate, channels, dtype, device) == (16_000, 1, "float32", "usb")
            self.blocksize, self.callback = blocksize, callback

        def __enter__(self):
            if fault:
                raise PortAudioError(fault)
            for i in range(n_pieces):
                self.callback(np.full((self.blocksize, 1), i, np.float32), self.blocksize, None, None)
            return self

        def __exit__(self, *_):
            pass

    return SimpleNamespace(PortAudioError=PortAudioError, InputStream=InputStream)


def test_a_microphone_is_heard_until_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(3))
    pieces = from_microphone("usb")
    assert [set(next(pieces).tolist()) for _ in range(3)] == [{0.0}, {1.0}, {2.0}]
    with pytest.raises(AudioError, match="has stopped"):
        next(pieces)


def test_a_microphone_that_is_not_kept_up_with_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(2_000))
    with pytest.raises(AudioError, match="more than 30 s behind the microphone"):
        next(from_microphone("usb"))


def test_ctrl_c_comes_between_pieces_and_loses_none() -> None:
    spoken = list(torch.eye(4))
    taken = []

    def compute() -> None:
        for piece in until_interrupted(iter(spoken)):
            if len(taken) == 1:
                os.kill(os.getpid(), signal.SIGINT)
            taken.append(piece)

    with pytest.raises(KeyboardInterrupt):
        compute()
    assert all(map(torch.equal, taken, spoken[:2]))

    def slow() -> Iterator[torch.Tensor]:
        yield torch.ones(1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        list(until_interrupted(slow()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(list(until_interrupted(iter(spoken)))) == 4


def test_no_microphone_is_a_fault_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(0, "no device"))
    with pytest.raises(AudioError, match="cannot be used: no device"):
        next(from_microphone("usb"))
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(AudioError, match=r"pip install 'sru-asr\[microphone\]'"):
        next(from_microphone())
