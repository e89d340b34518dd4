"""Word and character error rates of a model on a manifest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sru_asr.audio import SAMPLE_RATE, AudioError
from sru_asr.ctc import ctc_loss
from sru_asr.data import load_waveform
from sru_asr.decode import Path
from sru_asr.decoding import GREEDY, Decoding
from sru_asr.features import WINDOW_SAMPLES
from sru_asr.manifest import field as field_of
from sru_asr.manifest import file_of, place
from sru_asr.metrics import ErrorCounts, by_group, char_errors, right_words, total, word_errors
from sru_asr.model import Recognizer
from sru_asr.scorer import Context, Scorer
from sru_asr.text import BLANK, TokenizerError, normalize
from sru_asr.transcribe import LONGEST_WHOLE_SECONDS, Transcript, transcribe
from sru_asr.uncertainty import Calibration, Interval, calibration, interval
from sru_asr.words import Word, words_of

# The form in which texts are compared; another one would get another name.
SCORING = "sru_asr.text.normalize, version 3"
Numbered = tuple[int, Cut]  # a cut and its place in the manifest


@dataclass(frozen=True)
class Result:
    """One utterance: `reference` and `hypothesis` as they were compared, and the errors between them.

    `confidences` are those of the hypothesis's words, if comparing has left them one by one. `missed` says of one with
    errors whether the search is to blame: it missed the reference, which is worth more than what it found. None where
    that is not known: where there are no errors, in long audio, or where the reference has no tokens. `group` is what
    the manifest says of it in the field that the evaluation is grouped by.
    """

    id: str
    speaker: str
    seconds: float
    reference: str
    hypothesis: str
    words: ErrorCounts
    characters: ErrorCounts
    confidences: list[float] = field(default_factory=list)
    missed: bool | None = None
    group: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What was measured, in the manifest's order, and what could not be; `grouped_by` is a field of the manifest."""

    results: list[Result]
    faults: list[str] = field(default_factory=list)
    grouped_by: str | None = None

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
    def groups(self) -> dict[str, ErrorCounts]:
        """Word errors of each group; of none if there is no field to group by."""
        return by_group((result.group, result.words) for result in self.results) if self.grouped_by else {}

    @cached_property
    def wer_interval(self) -> Interval | None:
        """Of the WER, as if other utterances of these speakers had been recorded."""
        return interval([result.words for result in self.results])

    @cached_property
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

    @property
    def missed(self) -> int:
        """Utterances whose errors are the search's; see `Result`."""
        return sum(result.missed is True for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `wer` and `cer` are fractions."""
        found = self.calibration
        return {
            "wer": self.words.to_dict()["rate"],
            "cer": self.characters.to_dict()["rate"],
            "wer_interval": self.wer_interval,
            "wer_interval_by_speaker": self.wer_interval_by_speaker,
            "calibration": None if found is None else found.to_dict(),
            "missed": self.missed,
            "scoring": SCORING,
            "utterances": len(self.results),
            "seconds": round(sum(result.seconds for result in self.results), 3),
            "words": self.words.to_dict(),
            "characters": self.characters.to_dict(),
            "speakers": {speaker: counts.to_dict() for speaker, counts in sorted(self.speakers.items()) if speaker},
            "grouped_by": self.grouped_by,
            "groups": {group: counts.to_dict() for group, counts in sorted(self.groups.items())},
            "faults": self.faults,
            "results": [
                {
                    "id": result.id,
                    "speaker": result.speaker,
                    "group": result.group,
                    "seconds": round(result.seconds, 3),
                    "reference": result.reference,
                    "hypothesis": result.hypothesis,
                    "words": result.words.to_dict(),
                    "confidences": result.confidences,
                    "missed": result.missed,
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
        if known := sum(result.missed is not None for result in self.results):
            lines.append(f"of {known} utterances with errors the search missed the likelier reference in {self.missed}")
        return "\n".join(lines)


def evaluate(
    model: Recognizer,
    cuts: CutSet,
    *,
    max_batch_seconds: float = 60.0,
    chunk: int = 0,
    lookahead: int = 0,
    decoding: Decoding = GREEDY,
    grouped_by: str | None = None,
    progress: Callable[[Iterable[Numbered], int], Iterable[Numbered]] | None = None,
) -> Evaluation:
    """Recognise every cut and compare it with its text, both normalised.

    Args:
        model: in evaluation mode.
        cuts: with one supervision each.
        max_batch_seconds: audio recognised at a time.
        chunk: frames of a window, see :mod:`sru_asr.windows`; 0 for full context, or what `transcribe` does with long
            audio. Long audio that is all of a file is read piece by piece, so that memory does not grow with it.
        lookahead: frames of a window behind its chunk.
        decoding: greedy, or by a search.
        grouped_by: a field of the manifest, such as `gender`; see `sru_asr.manifest.field`.
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
                if cut.duration > LONGEST_WHOLE_SECONDS:
                    transcript = _transcribe(model, cut, decoding, (chunk, lookahead) if chunk else None)
                    results[i] = _compare(cut, transcript.seconds, transcript.words)
                else:
                    waveforms[i] = _load(cut)
            except AudioError as error:
                faults[i] = str(error)
        if waveforms:
            heard = dict(zip(waveforms, _hear(model, list(waveforms.values()), chunk, lookahead), strict=True))
            for i, cut in batch:
                if i in heard:
                    path = _decode(heard[i], model, decoding)
                    words = words_of(path, model.tokenizer, model.frames_per_second, delay=model.delay)
                    result = _compare(cut, len(waveforms[i]) / SAMPLE_RATE, words)
                    if result.words.errors:
                        missed = _missed(heard[i], path.tokens, result.reference, model, decoding)
                        result = replace(result, missed=missed)
                    results[i] = result
    if grouped_by:
        results |= {i: replace(results[i], group=field_of(cut, grouped_by)) for i, cut in by_length if i in results}
    return Evaluation([results[i] for i in sorted(results)], [faults[i] for i in sorted(faults)], grouped_by)


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


def _transcribe(model: Recognizer, cut: Cut, decoding: Decoding, window: tuple[int, int] | None) -> Transcript:
    if not (path := file_of(cut)):
        return transcribe(model, load_waveform(cut), decoding, window)
    try:
        return transcribe(model, path, decoding, window)
    except AudioError as error:
        raise AudioError(f"{place(cut)}: {error}") from error


def _hear(model: Recognizer, waveforms: list[Tensor], chunk: int, lookahead: int) -> list[Tensor]:
    """Log-probabilities of each, (frames, vocab)."""
    with torch.inference_mode():
        lengths = torch.tensor([len(waveform) for waveform in waveforms], device=model.device)
        log_probs, lengths = model(
            pad_sequence(waveforms, batch_first=True).to(model.device), lengths, chunk, lookahead
        )
        return [rows[:n_frames].cpu() for rows, n_frames in zip(log_probs, lengths.tolist(), strict=True)]


def _decode(log_probs: Tensor, model: Recognizer, decoding: Decoding) -> Path:
    decoder = decoding.decoder(model.tokenizer.pieces)
    decoder.push(log_probs)
    return decoder.end()[0].path


def _missed(log_probs: Tensor, found: list[int], reference: str, model: Recognizer, decoding: Decoding) -> bool | None:
    """Whether the reference is worth more than what was found instead."""
    try:
        wanted = model.tokenizer.encode(reference)
    except TokenizerError:
        return None
    scorer = decoding.scorer or Scorer()
    worth = [_worth(log_probs, tokens, scorer, model.tokenizer.pieces) for tokens in (wanted, found)]
    return worth[0] > worth[1] + 1e-3


def _worth(log_probs: Tensor, tokens: list[int], scorer: Scorer, pieces: Sequence[str]) -> float:
    """By the sound of all alignments and by the text."""
    context: Context | None = scorer.start()
    for token in tokens:
        context = None if context is None else scorer.extend(context, pieces[token])
    text = None if context is None else scorer.finish(context)
    needed = len(tokens) + sum(a == b for a, b in pairwise(tokens))  # frames
    if text is None or needed > len(log_probs):
        return -math.inf
    if not tokens:
        return text + float(log_probs[:, BLANK].sum())
    sizes = torch.tensor([len(log_probs)]), torch.tensor([tokens]), torch.tensor([len(tokens)])
    return text - float(ctc_loss(log_probs[None].float(), *sizes))


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
