"""Word and character error rates of a model on a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sru_asr.audio import SAMPLE_RATE, AudioError
from sru_asr.data import load_waveform
from sru_asr.decoding import GREEDY, Decoding
from sru_asr.features import WINDOW_SAMPLES
from sru_asr.manifest import file_of, place
from sru_asr.metrics import ErrorCounts, by_group, char_errors, right_words, total, word_errors
from sru_asr.model import Recognizer
from sru_asr.text import normalize
from sru_asr.transcribe import LONGEST_WHOLE_SECONDS, Transcript, transcribe
from sru_asr.uncertainty import Calibration, Interval, calibration, interval
from sru_asr.words import Word, words_of

# The form in which texts are compared; another one would get another name.
SCORING = "sru_asr.text.normalize, version 1"
Numbered = tuple[int, Cut]  # a cut and its place in the manifest


@dataclass(frozen=True)
class Result:
    """One utterance: `reference` and `hypothesis` as they were compared, and the errors between them.

    `confidences` are those of the hypothesis's words, if comparing has left them one by one.
    """

    id: str
    speaker: str
    seconds: float
    reference: str
    hypothesis: str
    words: ErrorCounts
    characters: ErrorCounts
    confidences: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """What was measured, in the manifest's order, and what could not be."""

    results: list[Result]
    faults: list[str] = field(default_factory=list)

    @property
    def words(self) -> ErrorCounts:
        """Word errors over all utterances; its rate is the WER."""
        return total(result.words for result in self.results)

    @property
    def characters(self) -> ErrorCounts:
        """Character errors over all utterances, spaces counted; its rate is the CER."""
        return total(result.characters for result in self.results)

    @property
    def speakers(self) -> dict[str, ErrorCounts]:
        """Word errors of each speaker."""
        return by_group((result.speaker, result.words) for result in self.results)

    @property
    def wer_interval(self) -> Interval | None:
        """Of the WER, as if other utterances of these speakers had been recorded."""
        return interval([result.words for result in self.results])

    @property
    def wer_interval_by_speaker(self) -> Interval | None:
        """Of the WER, as if others had spoken; None where speakers are not named."""
        speakers = self.speakers
        return None if "" in speakers else interval(list(speakers.values()))

    @property
    def calibration(self) -> Calibration | None:
        """Of the confidences of words; None where there are none."""
        sure, right = [], []
        for result in self.results:
            if result.confidences:
                sure += result.confidences
                right += right_words(result.reference, result.hypothesis)
        return calibration(sure, right)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `wer` and `cer` are fractions."""
        found = self.calibration
        return {
            "wer": self.words.to_dict()["rate"],
            "cer": self.characters.to_dict()["rate"],
            "wer_interval": self.wer_interval,
            "wer_interval_by_speaker": self.wer_interval_by_speaker,
            "calibration": None if found is None else found.to_dict(),
            "scoring": SCORING,
            "utterances": len(self.results),
            "seconds": round(sum(result.seconds for result in self.results), 3),
            "words": self.words.to_dict(),
            "characters": self.characters.to_dict(),
            "speakers": {speaker: counts.to_dict() for speaker, counts in sorted(self.speakers.items()) if speaker},
            "faults": self.faults,
            "results": [
                {
                    "id": result.id,
                    "speaker": result.speaker,
                    "seconds": round(result.seconds, 3),
                    "reference": result.reference,
                    "hypothesis": result.hypothesis,
                    "words": result.words.to_dict(),
                    "confidences": result.confidences,
                }
                for result in self.results
            ],
        }

    def summary(self) -> str:
        """WER and CER with their counts; below, how far they and the confidences can be trusted."""
        lines = []
        for name, units, counts in (("WER", "words", self.words), ("CER", "characters", self.characters)):
            lines.append(
                f"{name} {100 * counts.rate:6.2f} %   {counts.reference} {units} in {len(self.results)} utterances: "
                f"{counts.hits} hits, {counts.substitutions} substitutions, {counts.deletions} deletions, "
                f"{counts.insertions} insertions"
            )
        sure = [
            f"{100 * found.low:.2f} to {100 * found.high:.2f} % by {of}"
            for of, found in (("utterance", self.wer_interval), ("speaker", self.wer_interval_by_speaker))
            if found is not None
        ]
        if sure:
            lines.append(f"95 % interval of the WER: {'; '.join(sure)} (bootstrap)")
        if (found := self.calibration) is not None:
            lines.append(f"confidences of words are off by {found.error:.3f} (expected calibration error)")
        return "\n".join(lines)


def evaluate(
    model: Recognizer,
    cuts: CutSet,
    *,
    max_batch_seconds: float = 60.0,
    chunk: int = 0,
    lookahead: int = 0,
    decoding: Decoding = GREEDY,
    progress: Callable[[Iterable[Numbered], int], Iterable[Numbered]] | None = None,
) -> Evaluation:
    """Recognise every cut and compare it with its text, both normalised.

    Args:
        model: in evaluation mode.
        cuts: with one supervision each.
        max_batch_seconds: audio recognised at a time.
        chunk: frames of a window, see :mod:`sru_asr.windows`; 0 for full context, or what `transcribe` does with long
            audio. It reads what is all of a file piece by piece, so that memory does not grow with it.
        lookahead: frames of a window behind its chunk.
        decoding: greedy, or by a search.
        progress: wraps what is gone through, a cut at a time, given their number.

    Returns:
        The evaluation. Cuts whose audio cannot be read are among its faults and counted nowhere else.
    """
    by_length = sorted(enumerate(cuts), key=lambda numbered: -numbered[1].duration)
    results: dict[int, Result] = {}
    faults: dict[int, str] = {}
    for batch in _batches(progress(by_length, len(by_length)) if progress else by_length, max_batch_seconds):
        waveforms: dict[int, Tensor] = {}
        for i, cut in batch:
            try:
                if chunk == 0 and cut.duration > LONGEST_WHOLE_SECONDS:
                    transcript = _transcribe(model, cut, decoding)
                    results[i] = _compare(cut, transcript.seconds, transcript.words)
                else:
                    waveforms[i] = _load(cut)
            except AudioError as error:
                faults[i] = str(error)
        if waveforms:
            found = _recognise(model, list(waveforms.values()), chunk, lookahead, decoding)
            heard = dict(zip(waveforms, found, strict=True))
            for i, cut in batch:
                if i in heard:
                    results[i] = _compare(cut, len(waveforms[i]) / SAMPLE_RATE, heard[i])
    return Evaluation([results[i] for i in sorted(results)], [faults[i] for i in sorted(faults)])


def _batches(cuts: Iterable[Numbered], max_seconds: float) -> Iterator[list[Numbered]]:
    batch: list[Numbered] = []
    for i, cut in cuts:  # the longest comes first
        if batch and (len(batch) + 1) * batch[0][1].duration > max_seconds:
            yield batch
            batch = []
        batch.append((i, cut))
    if batch:
        yield batch


def _load(cut: Cut) -> Tensor:
    waveform = load_waveform(cut)
    if waveform.shape[0] < WINDOW_SAMPLES:
        raise AudioError(f"{place(cut)}: expected at least {WINDOW_SAMPLES} samples, found {waveform.shape[0]}")
    return waveform


def _transcribe(model: Recognizer, cut: Cut, decoding: Decoding) -> Transcript:
    if not (path := file_of(cut)):
        return transcribe(model, load_waveform(cut), decoding)
    try:
        return transcribe(model, path, decoding)
    except AudioError as error:
        raise AudioError(f"{place(cut)}: {error}") from error


def _recognise(
    model: Recognizer, waveforms: list[Tensor], chunk: int, lookahead: int, decoding: Decoding
) -> list[list[Word]]:
    with torch.inference_mode():
        lengths = torch.tensor([len(waveform) for waveform in waveforms], device=model.device)
        log_probs, lengths = model(
            pad_sequence(waveforms, batch_first=True).to(model.device), lengths, chunk, lookahead
        )
        heard = []
        for rows, n_frames in zip(log_probs, lengths.tolist(), strict=True):
            decoder = decoding.decoder(model.tokenizer.pieces)
            decoder.push(rows[:n_frames])
            heard.append(words_of(decoder.end()[0].path, model.tokenizer, model.frames_per_second))
        return heard


def _compare(cut: Cut, seconds: float, words: list[Word]) -> Result:
    supervision = cut.supervisions[0]
    reference, hypothesis = normalize(supervision.text or ""), normalize(" ".join(word.text for word in words))
    confidences = [word.confidence for word in words]
    return Result(
        id=cut.id,
        speaker=supervision.speaker or "",
        seconds=seconds,
        reference=reference,
        hypothesis=hypothesis,
        words=word_errors(reference, hypothesis),
        characters=char_errors(reference, hypothesis),
        confidences=confidences if len(confidences) == len(hypothesis.split()) else [],
    )
