"""From an audio file to text: whole where it is short, piece by piece where it is long."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sru_asr.audio import SAMPLE_RATE, AudioError, blocks
from sru_asr.decoding import GREEDY, Decoding
from sru_asr.features import WINDOW_SAMPLES
from sru_asr.stream import Stream, check_waveform
from sru_asr.words import Word, words_of

if TYPE_CHECKING:  # the model's method calls this file
    from sru_asr.model import Recognizer

Audio = str | os.PathLike[str] | Tensor

# Above this, audio is recognised in windows that still see far more context than a word needs.
LONGEST_WHOLE_SECONDS = 30
LONG_CHUNK_SECONDS = 20
LONG_LOOKAHEAD_SECONDS = 5


class Alternative(NamedTuple):
    """One of the texts that may have been said, and the natural log of what it is worth; see `Hypothesis`."""

    text: str
    score: float


@dataclass(frozen=True)
class Transcript:
    """What was recognised in one audio file or waveform.

    Attributes:
        text: the words, upper case, separated by single spaces; empty where nothing was recognised.
        words: the same with their times.
        seconds: length of the audio.
        token_seconds: when each token was first emitted, in seconds from the start.
        score: natural log of the decoded path's probability.
        alternatives: the likeliest texts, the best one, which is `text`, first; as many as were asked for.
    """

    text: str
    words: list[Word]
    seconds: float
    token_seconds: list[float]
    score: float
    alternatives: list[Alternative]

    def __str__(self) -> str:
        return self.text


def transcribe(
    model: Recognizer, audio: Audio, decoding: Decoding = GREEDY, window: tuple[int, int] | None = None
) -> Transcript:
    """Recognise one file or one waveform; see `Recognizer.transcribe`, and `recognise` for `window`."""
    if isinstance(audio, str | os.PathLike):
        return recognise(model, blocks(audio, LONGEST_WHOLE_SECONDS), os.fspath(audio), decoding, window)
    pieces = check_waveform(audio).split(LONGEST_WHOLE_SECONDS * SAMPLE_RATE)
    return recognise(model, pieces, "the waveform", decoding, window)


def stream_of(model: Recognizer, window: tuple[int, int] | None = None) -> Stream:
    """For long audio; `window` as `recognise` has it."""
    rate = model.frames_per_second
    return Stream(model, *(window or (int(LONG_CHUNK_SECONDS * rate), int(LONG_LOOKAHEAD_SECONDS * rate))))


def recognise(
    model: Recognizer,
    pieces: Iterable[Tensor],
    name: str,
    decoding: Decoding = GREEDY,
    window: tuple[int, int] | None = None,
) -> Transcript:
    """Recognise one utterance or recording; see `Recognizer.transcribe`.

    Args:
        model: in evaluation mode.
        pieces: of the audio, (samples,) float32 at 16 kHz, the first of `LONGEST_WHOLE_SECONDS` unless it is all.
        name: of the audio, for errors.
        decoding: greedy, or by a search.
        window: frames of chunk and lookahead where audio is long; by default far more than a word needs.
    """
    decoder = decoding.decoder(model.tokenizer.pieces)
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
            log_probs, _ = model(first[None].to(model.device), torch.tensor([samples], device=model.device))
            decoder.push(log_probs[0])
        else:
            stream = stream_of(model, window)
            # At once: hours of log-probabilities over a large vocabulary are gigabytes.
            for piece in chain((first, second), pieces):
                decoder.push(stream.push(piece))
            decoder.push(stream.finish())
            samples = stream.samples
    found = decoder.end(decoding.width)
    path = found[0].path
    worth: dict[str, float] = {}  # the same text may be there in several tokenisations
    for one in found:
        worth.setdefault(" ".join(model.tokenizer.decode(one.path.tokens).split()), one.score)
    return Transcript(
        text=next(iter(worth)),
        words=words_of(path, model.tokenizer, rate, samples / SAMPLE_RATE, model.delay),
        seconds=samples / SAMPLE_RATE,
        token_seconds=[round(frame / rate, 3) for frame in path.frames],
        score=path.score,
        alternatives=[Alternative(text, score) for text, score in islice(worth.items(), decoding.n_best)],
    )
