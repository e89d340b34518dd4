"""How far the times of recognised words are from those of a forced alignment, at full context and live.

    pip install 'sru-asr[align]'
    python recipes/an4/words.py --split dev --output dev-words.tsv
    python benchmarks/word_times.py data/prepared/an4/dev.jsonl.gz dev-words.tsv

The aligner is PocketSphinx with a model of its own. Only utterances count in which the words are those that it aligned.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import median, quantiles

import torch
from context import add_json, context, write
from torch import Tensor

from sru_asr import load_model
from sru_asr.data import load_waveform
from sru_asr.decoding import GREEDY
from sru_asr.manifest import load_manifest
from sru_asr.model import SHIPPED, Recognizer
from sru_asr.script import run
from sru_asr.windows import window_of
from sru_asr.words import Word, words_of


def read_times(path: Path) -> dict[str, list[tuple[str, float, float]]]:
    """Words of each utterance with start and end in seconds, as recipes/an4/words.py writes them."""
    words = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            words[row["utterance"]].append((row["word"], int(row["start"]) / 100, int(row["end"]) / 100))
    return words


def recognise(model: Recognizer, waveform: Tensor, chunk: int, lookahead: int) -> list[Word]:
    """The words of one utterance through windows; the same as live."""
    with torch.inference_mode():
        log_probs, _ = model(waveform[None], torch.tensor([len(waveform)]), chunk, lookahead)
    decoder = GREEDY.decoder(model.tokenizer.pieces)
    decoder.push(log_probs[0])
    return words_of(decoder.end()[0].path, model.tokenizer, model.frames_per_second, delay=model.delay)


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("times", type=Path, help="when each word is said, from recipes/an4/words.py")
    parser.add_argument("--latency", type=float, nargs="*", default=[640, 320, 160], metavar="MS")
    parser.add_argument("--model", default=SHIPPED, metavar="PATH", help="(default: the one that ships)")
    add_json(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.model)
    times = read_times(options.times)
    cuts = [(load_waveform(cut), times[cut.id]) for cut in load_manifest(options.manifest) if cut.id in times]
    if not cuts:
        parser.error(f"{options.times} has no utterance of {options.manifest}")
    print(f"{len(cuts)} utterances aligned, {sum(len(words) for _, words in cuts)} words")
    print("latency, ms  words  start, ms: half, 90 % within  end, ms: half, 90 % within")
    rows = []
    for latency_ms in [None, *options.latency]:
        chunk, lookahead = window_of(latency_ms, model.frames_per_second) if latency_ms else (0, 0)
        starts, ends = [], []
        for waveform, aligned in cuts:
            found = recognise(model, waveform, chunk, lookahead)
            if [word.text for word in found] == [text for text, _, _ in aligned]:
                starts += [abs(word.start - start) for word, (_, start, _) in zip(found, aligned, strict=True)]
                ends += [abs(word.end - end) for word, (_, _, end) in zip(found, aligned, strict=True)]
        if len(starts) < 2:
            parser.error("expected two words or more in utterances that are recognised as they were aligned")
        row = {
            "latency_ms": latency_ms,
            "words": len(starts),
            **{f"{name}_ms": 1000 * median(all_) for name, all_ in (("start", starts), ("end", ends))},
            **{f"{name}_90_ms": 1000 * quantiles(all_, n=10)[-1] for name, all_ in (("start", starts), ("end", ends))},
        }
        rows.append({**context(), **row})
        print(
            f"{latency_ms or 'offline':>11}  {row['words']:5}  {row['start_ms']:15.0f} {row['start_90_ms']:12.0f}  "
            f"{row['end_ms']:13.0f} {row['end_90_ms']:12.0f}",
            flush=True,
        )
        write(rows, options.json)


if __name__ == "__main__":
    run(main)
