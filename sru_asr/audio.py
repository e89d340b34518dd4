"""Audio files in, float32 mono waveforms out: decoding, averaging of channels, resampling."""

import math
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
import torch

SAMPLE_RATE = 16_000

# Full scale is 1. What is louder than this was meant as integers, of which a model makes nothing, or something else.
LOUDEST = 1000.0

# Half the length of soxr's filter of high quality, in samples of the lower rate: nothing of a sample's surroundings
# beyond them is heard (on noise, by the largest difference of float32: 4e-7; with 80 it is 4e-5).
_FILTER_SAMPLES = 100

# A piece of a file is decoded at a time: this many seconds, and never more than this many values over all channels.
_PIECE_SECONDS = 10
_PIECE_VALUES = 1 << 20

# Where a file does not say how long it is (a FLAC written to a pipe), libsndfile states 2^63 - 1 samples; FLAC itself
# cannot state more than 2^36.
_UNKNOWN_FRAMES = 1 << 40

# libsndfile corrects a data chunk that is longer than its file and says so in its log only.
_SHORT_CHUNK = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
# A program that writes to a pipe does not know the size and states 0x7FFFF000 (sox) or 0xFFFFFFFF (ffmpeg).
_PLACEHOLDER_BYTES = 0x7FFF0000
# In NIST SPHERE it passes over the length that is stated, and says nothing.
_NIST_SAMPLES = re.compile(rb"^sample_count -i (\d+)", re.MULTILINE)

# A file without samples is hardly longer than this.
_MOST_HEADER_BYTES = 4096

# The frame with a length with which an MP3 begins, and another one that was appended to it.
_MP3_LENGTH = re.compile(rb"(?:Xing|Info)\0\0\0")
_REST_BYTES = 1 << 16

# Some encoders count the frame that holds the length of an MP3 as one of audio.
_MP3_SLACK_SAMPLES = 1152


class AudioError(ValueError):
    """A file is missing, is not audio that can be read, or is damaged; the message names it and says what to do."""


class Header(NamedTuple):
    """What a file is, by its header."""

    sample_rate: int  # in Hz
    n_channels: int
    n_samples: int  # of each channel

    @property
    def seconds(self) -> float:
        """The length of the file."""
        return self.n_samples / self.sample_rate


class _Decoder(soundfile.SoundFile):
    """Reads front to back only.

    soundfile seeks after each read of a file that can seek. libsndfile 1.2.2 then returns noise for the last samples of
    some Ogg Opus files and fails at the end of a FLAC of unknown length; and seeking takes time.
    """

    def seekable(self) -> bool:
        return False


def read(path: str | os.PathLike[str], sample_rate: int = SAMPLE_RATE, speed: float = 1.0) -> torch.Tensor:
    """Reads a whole audio file: WAV, FLAC, MP3, Ogg Vorbis, Opus and what else libsndfile knows, told by its content.

    Args:
        path: The audio file, of any sampling rate and number of channels.
        sample_rate: Of the result, in Hz.
        speed: 1.1 is faster, shorter and higher. Rate and speed are changed in one pass of soxr, to which a speed is a
            rate, rounded to a whole number of Hz: half a one of 8 kHz at half speed is 0.0125 %, the most there is.

    Returns:
        The average of the channels, float32, `(samples,)`, nominally in [-1, 1]; never empty.

    Raises:
        AudioError: There is no such file, it is no audio that libsndfile reads, it holds no samples or one that is not
            a finite number or is louder than `LOUDEST`, or it ends before the length that it states. Ogg states none: a
            cut one is just shorter.
    """
    # numpy's concatenation: torch's starts its threads for that, which costs milliseconds where they are contended.
    return torch.from_numpy(np.concatenate(list(_pieces(Path(path), sample_rate, speed))))


def blocks(path: str | os.PathLike[str], seconds: float, sample_rate: int = SAMPLE_RATE) -> Iterator[torch.Tensor]:
    """Reads an audio file of any length piece by piece; all blocks together are exactly what `read` returns.

    Args:
        path: The audio file.
        seconds: The length of a block. Memory is proportional to it and does not depend on the length of the file.
        sample_rate: Of the result, in Hz.

    Yields:
        float32, `(round(seconds * sample_rate),)`; the last block may be shorter, none is empty.

    Raises:
        AudioError: As `read` does, when iteration reaches the fault: sound blocks may come before it.
        ValueError: `seconds` is not a positive, finite number.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"blocks: expected a positive number of seconds, found {seconds}; pass for example 30.0")
    size = max(1, round(seconds * sample_rate))
    held: list[np.ndarray] = []
    n_held = 0
    for piece in _pieces(Path(path), sample_rate):
        while n_held + len(piece) >= size:
            head, piece = piece[: size - n_held], piece[size - n_held :]
            yield torch.from_numpy(np.concatenate([*held, head]))
            held, n_held = [], 0
        held.append(piece)
        n_held += len(piece)
    if n_held:
        yield torch.from_numpy(np.concatenate(held))


def header(path: str | os.PathLike[str], most_values: float = math.inf) -> Header:
    """Rate, channels and length of an audio file; it is decoded only where its header says nothing of its length.

    Args:
        path: The audio file.
        most_values: Samples, over all channels, that it may hold: some kilobytes can decode to days of silence.

    Raises:
        AudioError: As `read` does, for the faults that show before decoding; or there are more samples than may be, and
            no more than those have been decoded.
    """
    path = Path(path)
    with _opened(path) as decoder:

        def counted(n_samples: int) -> int:
            if n_samples * decoder.channels > most_values:
                found = f"at least {n_samples} in each of {decoder.channels} channels"
                raise _error(path, f"at most {most_values} samples", found, "cut it into parts, or resample it")
            return n_samples

        n_samples = _stated_samples(path, decoder)
        if n_samples is None:
            n_samples = 0
            for samples in _mono(path, decoder):
                n_samples = counted(n_samples + len(samples))
        return Header(decoder.samplerate, decoder.channels, counted(n_samples))


def check(path: str | os.PathLike[str]) -> None:
    """Decodes a file and keeps nothing of it.

    Raises:
        AudioError: As `read` does.
    """
    path = Path(path)
    with _opened(path) as decoder:
        for _ in _mono(path, decoder):
            pass


def resample(waveform: torch.Tensor, source_rate: int, target_rate: int) -> torch.Tensor:
    """Changes the sampling rate (soxr, high quality); at equal rates the samples stay as they are.

    Args:
        waveform: float32, `(samples,)`, on the CPU.
        source_rate: Of `waveform`, in Hz.
        target_rate: Of the result, in Hz.

    Returns:
        float32, `(samples * target_rate / source_rate,)`, rounded to a whole number of samples.

    Raises:
        ValueError: A rate is not positive, or `waveform` is not float32 or not one-dimensional.
    """
    if waveform.dtype != torch.float32 or waveform.dim() != 1:
        found = f"{waveform.dtype} of shape {tuple(waveform.shape)}"
        raise ValueError(
            f"resample: expected a float32 waveform (samples,), found {found}; resample channels one by one"
        )
    if source_rate <= 0 or target_rate <= 0:
        raise ValueError(f"resample: expected positive rates in Hz, found {source_rate} and {target_rate}; check both")
    return torch.from_numpy(soxr.resample(waveform.detach().numpy(), source_rate, target_rate))


class Resampler:
    """Changes the sampling rate of audio that comes in pieces, as soon as can be, to what `resample` makes of it all.

    soxr's own streams compute in blocks: of 48 kHz they hold back from 7 to 36 ms, of 8 kHz from 12 to 115. Here each
    piece is resampled as a whole, together with what the filter reaches on both sides, so that it is always half the
    filter that is held back (6 and 12.5 ms), for about four times the work.

    Args:
        source_rate: of what comes, in Hz.
        target_rate: of the result, in Hz.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self._rates = source_rate, target_rate
        # A part has to begin with a sample at the time of which the result has one, too.
        self._step = source_rate // math.gcd(source_rate, target_rate)
        same = source_rate == target_rate
        self._reach = 0 if same else math.ceil(_FILTER_SAMPLES * max(source_rate / target_rate, 1))
        self._samples = np.zeros(0, np.float32)  # the end of what came
        self._begin = 0  # number of its first sample
        self._given = 0  # samples of the result

    def needed(self, n_samples: int) -> int:
        """How many samples have to have come before so many of the result have been given."""
        source, target = self._rates
        return -(-n_samples * source // target) + self._reach

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The next samples, float32 (samples,), and those of the result that they decide, the same."""
        if not self._reach:
            return samples
        source, target = self._rates
        self._samples = np.concatenate([self._samples, samples])
        decided = (self._begin + len(self._samples) - self._reach) * target // source
        if decided <= self._given:
            return np.zeros(0, np.float32)
        resampled = self._rest()[: decided - self._given]
        self._given = decided
        begin = max(decided * source // target - self._reach, 0) // self._step * self._step
        self._samples = self._samples[begin - self._begin :]
        self._begin = begin
        return resampled

    def finish(self) -> np.ndarray:
        """What was held back."""
        return self._rest()

    def _rest(self) -> np.ndarray:
        """Of the result, as if nothing followed."""
        source, target = self._rates
        return soxr.resample(self._samples, source, target)[self._given - self._begin * target // source :]


def _pieces(path: Path, sample_rate: int, speed: float = 1.0) -> Iterator[np.ndarray]:
    """The file's samples, resampled, float32, in pieces of any length."""
    if sample_rate <= 0:
        raise ValueError(f"expected a positive sample_rate in Hz, found {sample_rate}; the default is {SAMPLE_RATE}")
    with _opened(path) as decoder:
        stream = soxr.ResampleStream(round(decoder.samplerate * speed), sample_rate, 1, dtype="float32")
        n_samples = 0
        for samples in _mono(path, decoder):
            piece = stream.resample_chunk(samples)
            n_samples += len(piece)
            yield piece
        rest = stream.resample_chunk(np.empty(0, np.float32), last=True)
        if n_samples + len(rest) == 0:
            raise _error(path, f"at least one sample at {sample_rate} Hz", "less audio than that", "leave the file out")
        yield rest


def _mono(path: Path, decoder: _Decoder) -> Iterator[np.ndarray]:
    """The decoded samples at the file's own rate, channels averaged: float32, `(samples,)` each."""
    rate = decoder.samplerate
    size = max(1, min(_PIECE_SECONDS * rate, _PIECE_VALUES // decoder.channels))
    n_decoded = 0
    while True:
        try:
            frames = decoder.read(size, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            found = f"that decoding fails after {n_decoded / rate:.2f} s ({error.error_string})"
            raise _error(path, "audio that is whole", found, _again_or_convert(path)) from error
        if not len(frames):
            break
        samples = frames[:, 0] if decoder.channels == 1 else frames.mean(axis=1)
        sane = np.abs(samples) <= LOUDEST  # which NaN is not
        if not sane.all():
            first = int(sane.argmin())
            value = f"{samples[first]:.3g}" if math.isfinite(samples[first]) else "NaN or infinity"
            found = f"{value} at {(n_decoded + first) / rate:.4f} s"
            advice = "repair what wrote the file; integers have to be divided, those of 16 bits by 32768"
            raise _error(path, "samples that are finite numbers, about -1 to 1", found, advice)
        n_decoded += len(frames)
        yield samples
    _check_complete(path, decoder, n_decoded)


@contextmanager
def _opened(path: Path) -> Iterator[_Decoder]:
    """Opens a file, or says why that is impossible."""
    try:
        if not path.is_file():
            found = "a directory" if path.is_dir() else "no regular file" if path.exists() else "nothing there"
            raise _error(path, "an audio file", found, "check the path")
        handle = path.open("rb")
    except OSError as error:
        raise _error(path, "a file that may be read", f"'{error.strerror}'", "check path and permissions") from error
    with handle:
        if os.fstat(handle.fileno()).st_size == 0:
            raise _error(path, "audio", "an empty file (0 bytes)", "get the file again")
        try:
            # By a descriptor, because a name misleads: soundfile takes .raw for headerless whatever is inside, and
            # libsndfile decodes AAC that is called .mp3 to noise.
            decoder = _Decoder(handle.fileno(), closefd=False)
        except soundfile.LibsndfileError as error:
            found = "no audio, damaged audio or a kind that libsndfile cannot read (m4a, aac, webm, wma, raw)"
            advice = f"if it is audio, convert it: {_ffmpeg(path)}"
            raise _error(path, "WAV, FLAC, MP3, Ogg or Opus", found, advice) from error
        with decoder:
            if decoder.frames == 0:
                raise _no_samples(path)
            for promised, present in _SHORT_CHUNK.findall(decoder.extra_info):
                if int(present) + 1 < int(promised) < _PLACEHOLDER_BYTES:
                    raise _cut_short(path, f"{promised} bytes", f"{present} bytes")
            if decoder.format == "OGG" and _is_chained(path):
                raise _several(path)
            stated = _NIST_SAMPLES.search(_beginning(path, 1024)) if decoder.format == "NIST" else None
            if stated and decoder.frames < int(stated[1]):
                raise _cut_short(path, f"{int(stated[1])} samples", f"{decoder.frames} samples")
            yield decoder


def _stated_samples(path: Path, decoder: _Decoder) -> int | None:
    """The number of samples by the header; None where the header says nothing and libsndfile at best guesses."""
    if decoder.frames >= _UNKNOWN_FRAMES or (decoder.format == "MP3" and not _mp3_states_length(path)):
        return None
    return decoder.frames


def _beginning(path: Path, n_bytes: int) -> bytes:
    with path.open("rb") as file:
        return file.read(n_bytes)


def _mp3_states_length(path: Path) -> bool:
    """Whether an MP3 begins with the frame in which encoders since LAME say how many frames follow."""
    with path.open("rb") as file:
        tag = file.read(10)
        # An ID3 tag may come first; its size is in seven bits of each of four bytes.
        file.seek(10 + sum(byte << 7 * (3 - i) for i, byte in enumerate(tag[6:])) if tag[:3] == b"ID3" else 0)
        frame = file.read(64)
    return any(name in frame for name in (b"Xing", b"Info", b"VBRI"))


def _check_complete(path: Path, decoder: _Decoder, n_decoded: int) -> None:
    """Compares what was decoded with what the header states, or else, for MP3, with the size of the file."""
    rate = decoder.samplerate
    is_mp3 = decoder.format == "MP3"
    n_stated = _stated_samples(path, decoder)
    if n_stated is not None:
        if n_decoded + (_MP3_SLACK_SAMPLES if is_mp3 else 0) < n_stated:
            raise _cut_short(path, f"{n_stated / rate:.2f} s", f"{n_decoded / rate:.2f} s")
    elif is_mp3:
        # libsndfile takes the first frame's bit rate for that of all, and stops where the file should then end.
        descriptor = decoder.name
        n_bytes = os.fstat(descriptor).st_size
        n_unread = n_bytes - os.lseek(descriptor, 0, os.SEEK_CUR)
        if n_unread > 1024 + n_bytes // 10:
            found = f"none, and {n_unread} of {n_bytes} bytes left unread by a wrong guess"
            raise _error(path, "an MP3 with its length in its header", found, f"convert it: {_ffmpeg(path)}")
    if n_decoded == 0:
        raise _no_samples(path)
    if is_mp3 and _MP3_LENGTH.search(_rest(path, decoder)):
        raise _several(path)


def _rest(path: Path, decoder: _Decoder) -> bytes:
    """What of a file has not been read, at most so much that the beginning of another stream is in it."""
    with path.open("rb") as file:
        file.seek(os.lseek(decoder.name, 0, os.SEEK_CUR))
        return file.read(_REST_BYTES)


def _is_chained(path: Path) -> bool:
    """Whether an Ogg file has another stream behind the first: pages that begin one are the first of all, else."""
    with path.open("rb") as file:
        within = False
        while len(page := file.read(27)) == 27 and page.startswith(b"OggS"):
            begins = bool(page[5] & 2)
            if begins and within:
                return True
            within = not begins
            file.seek(sum(file.read(page[26])), os.SEEK_CUR)
    return False


def _several(path: Path) -> AudioError:
    found = "another one behind it, which libsndfile leaves out"
    return _error(path, "one stream of audio", found, f"make one of them: {_ffmpeg(path)}")


def _no_samples(path: Path) -> AudioError:
    if (n_bytes := path.stat().st_size) > _MOST_HEADER_BYTES:
        found = f"0 samples by the header of {n_bytes} bytes, as if what wrote it had been stopped before its end"
        return _error(path, "audio", found, f"keep what can be decoded: {_ffmpeg(path)}")
    return _error(path, "audio", "0 samples", "leave the file out, or record it again")


def _cut_short(path: Path, promised: str, present: str) -> AudioError:
    expected = f"{promised} of audio, which the header promises"
    return _error(path, expected, f"{present}: the file is cut short or its header wrong", _again_or_convert(path))


def _again_or_convert(path: Path) -> str:
    return f"get the file again, or keep what can be decoded: {_ffmpeg(path)}"


def _ffmpeg(path: Path) -> str:
    return f"ffmpeg -i {shlex.quote(str(path))} converted.wav"


def _error(path: Path, expected: str, found: str, advice: str) -> AudioError:
    return AudioError(f"{path}: expected {expected}; found {found}; {advice}")
