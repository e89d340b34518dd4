"""From an audio file to text: whole where it is short, piece by piece where it is long."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor

from sru_asr.audio import SAMPLE_RATE, AudioError, blocks
from sru_asr.decode import greedy
from sru_asr.features import WINDOW_SAMPLES
from sru_asr.model import Recognizer, Transcript
from sru_asr.stream import Stream

# Above this, audio is recognised in windows that still see far more context than a word needs.
LONGEST_WHOLE_SECONDS = 30
LONG_CHUNK_SECONDS = 20
LONG_LOOKAHEAD_SECONDS = 5


def transcribe(model: Recognizer, audio: str | os.PathLike[str] | Tensor) -> Transcript:
    """Recognise one file or one waveform; see `Recognizer.transcribe`."""
    if isinstance(audio, Tensor):
        if audio.dim() != 1 or not audio.is_floating_point():
            raise AudioError(
                f"expected a waveform of shape (samples,) and floating point, found {tuple(audio.shape)} {audio.dtype}"
            )
        if not torch.isfinite(audio).all():
            raise AudioError("expected a waveform of finite samples, found NaN or infinity")
        return _recognise(model, audio.float().split(LONGEST_WHOLE_SECONDS * SAMPLE_RATE), "the waveform")
    return _recognise(model, blocks(audio, LONGEST_WHOLE_SECONDS), str(audio))


def _recognise(model: Recognizer, pieces: Iterable[Tensor], name: str) -> Transcript:
    rate = model.frames_per_second
    pieces = iter(pieces)
    first = next(pieces, torch.zeros(0))
    second = next(pieces, None)
    with torch.inference_mode():
        if second is None:
            if first.shape[0] < WINDOW_SAMPLES:
                raise AudioError(
                    f"{name} is too short to hold speech: expected at least {1000 * WINDOW_SAMPLES // SAMPLE_RATE} ms, "
                    f"found {1000 * first.shape[0] / SAMPLE_RATE:.1f} ms"
                )
            samples = first.shape[0]
            log_probs, lengths = model(first[None], torch.tensor([samples]))
        else:
            stream = Stream(model, int(LONG_CHUNK_SECONDS * rate), int(LONG_LOOKAHEAD_SECONDS * rate))
            emitted = [stream.push(first), stream.push(second)]
            emitted += [stream.push(piece) for piece in pieces]
            emitted.append(stream.finish())
            samples = stream.samples
            log_probs = torch.cat(emitted)[None]
            lengths = torch.tensor([log_probs.shape[1]])
    path = greedy(log_probs, lengths)[0]
    return Transcript(
        text=model.tokenizer.decode(path.tokens),
        seconds=samples / SAMPLE_RATE,
        token_seconds=[round(frame / rate, 3) for frame in path.frames],
        score=path.score,
    )
