"""How much a language model should count, by what it does to word error rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from lhotse import CutSet
from torch import Tensor

from sru_asr.audio import SAMPLE_RATE, AudioError
from sru_asr.data import load_waveform
from sru_asr.decoding import Decoding
from sru_asr.features import WINDOW_SAMPLES
from sru_asr.manifest import describe
from sru_asr.metrics import ErrorCounts, word_errors
from sru_asr.scorer import Scorer
from sru_asr.text import normalize
from sru_asr.transcribe import LONGEST_WHOLE_SECONDS, stream_of

if TYPE_CHECKING:
    from sru_asr.model import Recognizer

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
BONUSES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Setting:
    """What a language model counts, and the word errors with it."""

    lm_weight: float
    word_bonus: float
    words: ErrorCounts


def hear(
    model: Recognizer, cuts: CutSet, most_seconds: float, progress: Callable[[Iterable[int], int], Iterable[int]]
) -> tuple[list[tuple[str, Tensor]], list[str]]:
    """Texts of utterances, normalised, with their log-probabilities, (frames, vocab), as `transcribe` has them.

    Args:
        model: in evaluation mode.
        cuts: with one supervision each.
        most_seconds: of audio; later utterances are left out, but for the first that can be read.
        progress: wraps numbers of utterances, given how many there are.

    Returns:
        Those of utterances that can be read, and what is wrong with the others.
    """
    heard: list[tuple[str, Tensor]] = []
    faults, seconds = [], 0.0
    some = list(cuts)
    for number in progress(range(len(some)), len(some)):
        cut = some[number]
        seconds += cut.duration
        if seconds > most_seconds and heard:
            break
        try:
            waveform = load_waveform(cut)
        except AudioError as error:
            faults.append(str(error))
            continue
        if len(waveform) < WINDOW_SAMPLES:
            faults.append(f"{describe(cut)}: expected at least {WINDOW_SAMPLES} samples, found {len(waveform)}")
            continue
        heard.append((normalize(cut.supervisions[0].text or ""), _log_probs(model, waveform).cpu()))
    return heard, faults


@torch.inference_mode()
def _log_probs(model: Recognizer, waveform: Tensor) -> Tensor:
    pieces = waveform.split(LONGEST_WHOLE_SECONDS * SAMPLE_RATE)
    if len(pieces) > 1:
        stream = stream_of(model)
        return torch.cat([*(stream.push(piece) for piece in pieces), stream.finish()])
    return model(waveform[None].to(model.device), torch.tensor([len(waveform)], device=model.device))[0][0]


def count_errors(model: Recognizer, heard: Sequence[tuple[str, Tensor]], decoding: Decoding) -> ErrorCounts:
    """Word errors of a way of decoding.

    Args:
        model: whose tokens they are.
        heard: of `hear`.
        decoding: greedy, or by a search.
    """
    counts = ErrorCounts()
    for text, log_probs in heard:
        decoder = decoding.decoder(model.tokenizer.pieces)
        decoder.push(log_probs)
        counts += word_errors(text, normalize(model.tokenizer.decode(decoder.end()[0].path.tokens)))
    return counts


def tune(
    model: Recognizer,
    heard: Sequence[tuple[str, Tensor]],
    scorer: Scorer,
    width: int,
    progress: Callable[[Iterable[int], int], Iterable[int]],
) -> list[Setting]:
    """Search with every weight and bonus.

    Args:
        model: whose tokens they are.
        heard: of `hear`.
        scorer: whose weight and bonus are varied.
        width: of the search.
        progress: as `hear` has it.

    Returns:
        All settings, the one with the fewest errors first; of several the one with the smallest weight.
    """
    pairs = [(weight, bonus) for weight in WEIGHTS for bonus in BONUSES]
    found = []
    for number in progress(range(len(pairs)), len(pairs)):
        weight, bonus = pairs[number]
        varied = Scorer(scorer.lm, weight, bonus, scorer.lexicon, scorer.hotwords)
        found.append(Setting(weight, bonus, count_errors(model, heard, Decoding(varied, width))))
    return sorted(found, key=lambda setting: (setting.words.errors, setting.lm_weight, setting.word_bonus))
