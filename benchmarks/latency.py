"""What live recognition costs in words and in time, at each latency, on the utterances of a manifest.

    python benchmarks/latency.py data/prepared/an4/dev.jsonl.gz
    python benchmarks/latency.py data/prepared/an4/dev.jsonl.gz --row --json latency.json

Audio goes in as a microphone gives it, in pieces of 40 ms, and 1.5 s of silence follow. Delays are in the time of the
audio, without the time to compute, counted from the words' times of the same model at full context:

first      from the start of the first word until any caption shows
final      from the end of the last word until its caption is final
unstable   words shown that a later caption of the same utterance has otherwise, of all that were shown
start, end medians of the differences of the words' times in utterances where the words are the same
utterances captions that were made final: one for each recording, if no pause within it was taken for its end

With --row all utterances of a speaker are one recording, with pauses between them, as people speak.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from context import add_json, context, write
from torch import Tensor

from sru_asr import load_model
from sru_asr.audio import SAMPLE_RATE
from sru_asr.data import load_waveform
from sru_asr.live import PAUSE_SECONDS, Caption, Live
from sru_asr.manifest import load_manifest
from sru_asr.metrics import total, word_errors
from sru_asr.model import SHIPPED, Recognizer
from sru_asr.text import normalize
from sru_asr.transcribe import Transcript
from sru_asr.windows import LOOKAHEAD_SHARE, window_of

PIECE = int(0.04 * SAMPLE_RATE)
PAUSE = int(1.5 * SAMPLE_RATE)


def recordings(manifest: Path, in_a_row: bool) -> list[tuple[Tensor, str]]:
    """Waveforms with a pause behind each utterance, and what is said in them."""
    parts = defaultdict(list)
    for number, cut in enumerate(load_manifest(manifest)):
        (supervision,) = cut.supervisions
        # Not quite silent, as no room is.
        noise = 1e-4 * torch.randn(PAUSE, generator=torch.Generator().manual_seed(number))
        waveform = torch.cat([load_waveform(cut), noise])
        parts[supervision.speaker if in_a_row else cut.id].append((waveform, normalize(supervision.text)))
    return [
        (torch.cat([waveform for waveform, _ in of_one]), " ".join(text for _, text in of_one))
        for of_one in parts.values()
    ]


def heard(
    model: Recognizer, waveform: Tensor, window: tuple[int, int], options: dict[str, Any]
) -> list[tuple[float, Caption]]:
    """Each caption, and how much audio there was by then, in seconds; options are those of `Live`."""
    live = Live(model, *window, **options)
    found = []
    for number, piece in enumerate(waveform.split(PIECE)):
        found += [((number + 1) * PIECE / SAMPLE_RATE, caption) for caption in live.push(piece)]
    return found + [(len(waveform) / SAMPLE_RATE, caption) for caption in live.finish()]


def unstable(captions: list[Caption]) -> tuple[int, int]:
    """Words that later captions of their utterance changed, other than the last by growing; and all that were shown."""
    changed = shown = 0
    for before, after in pairwise(captions):
        if before.final:
            continue
        old, new = ([word.text for word in caption.words] for caption in (before, after))
        shown += len(old)
        changed += sum(a != b for a, b in zip(old[:-1], new, strict=False))
        changed += len(new) < len(old) or not new[len(old) - 1].startswith(old[-1])
    return changed, shown


def measure(
    model: Recognizer,
    spoken: list[tuple[Tensor, str]],
    whole: list[Transcript],
    latency_ms: float,
    window: tuple[int, int],
    options: dict[str, Any],
) -> dict[str, Any]:
    """One row of the table."""
    errors, first, final, starts, ends = [], [], [], [], []
    changed = shown = parts = 0
    for (waveform, text), reference in zip(spoken, whole, strict=True):
        captions = heard(model, waveform, window, options)
        words = [word for _, caption in captions if caption.final for word in caption.words]
        errors.append(word_errors(text, " ".join(word.text for word in words)))
        of_one, of_all = unstable([caption for _, caption in captions])
        changed, shown = changed + of_one, shown + of_all
        parts += sum(caption.final for _, caption in captions)
        if reference.words and words:
            first.append(captions[0][0] - reference.words[0].start)
            final.append(next(time for time, caption in reversed(captions) if caption.final) - reference.words[-1].end)
        if [word.text for word in words] == [word.text for word in reference.words]:
            starts += [abs(a.start - b.start) for a, b in zip(words, reference.words, strict=True)]
            ends += [abs(a.end - b.end) for a, b in zip(words, reference.words, strict=True)]
    counts = total(errors)
    return {
        "latency_ms": latency_ms,
        "window": window,
        **options,
        "wer": counts.rate,
        "counts": [counts.hits, counts.substitutions, counts.deletions, counts.insertions],
        "first_ms": 1000 * median(first),
        "final_ms": 1000 * median(final),
        "unstable": changed / max(shown, 1),
        "shown": shown,
        "parts": parts,
        "start_ms": 1000 * median(starts) if starts else None,
        "end_ms": 1000 * median(ends) if ends else None,
    }


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--row", action="store_true", help="the utterances of a speaker one after the other")
    parser.add_argument("--latency", type=float, nargs="+", default=[160, 320, 640, 1280], metavar="MS")
    parser.add_argument(
        "--lookahead-share", type=float, default=LOOKAHEAD_SHARE, metavar="X", help="of a window (default: %(default)s)"
    )
    parser.add_argument(
        "--pause", type=float, default=PAUSE_SECONDS, metavar="S", help="that ends an utterance (default: %(default)s)"
    )
    parser.add_argument("--vad", action="store_true", help="silero-vad listens, too")
    parser.add_argument("--model", default=SHIPPED, metavar="PATH", help="(default: the one that ships)")
    add_json(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.model)
    spoken = recordings(options.manifest, options.row)
    whole = [model.transcribe(waveform) for waveform, _ in spoken]
    counts = total([word_errors(text, found.text) for (_, text), found in zip(spoken, whole, strict=True)])
    print(f"{len(spoken)} recordings, {counts.reference} words; offline WER {100 * counts.rate:.2f} %")
    print("latency, ms  window  WER, %  first, ms  final, ms  unstable, %  start, ms  end, ms  utterances")
    rows = []
    for latency_ms in options.latency:
        window = window_of(latency_ms, model.frames_per_second, options.lookahead_share)
        settings = {"pause_seconds": options.pause, "vad": options.vad}
        row = measure(model, spoken, whole, latency_ms, window, settings)
        rows.append({**context(), "offline_wer": counts.rate, **row})
        chunk, lookahead = row["window"]
        print(
            f"{latency_ms:11g}  {f'{chunk}+{lookahead}':>6}  {100 * row['wer']:6.2f}  {row['first_ms']:9.0f}  "
            f"{row['final_ms']:9.0f}  {100 * row['unstable']:11.2f}  {row['start_ms'] or 0:9.0f}  "
            f"{row['end_ms'] or 0:7.0f}  {row['parts']:10}",
            flush=True,
        )
        write(rows, options.json)


if __name__ == "__main__":
    main()
