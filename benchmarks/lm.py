"""What a lexicon and n-grams of a domain do to word errors, and what searching costs beside the encoder.

    python benchmarks/lm.py --model runs/an4 --manifest dev.jsonl.gz --train train.jsonl.gz

Lexicon and n-grams are of the training texts. Weight and word bonus are those by default, and those that have the
fewest errors on the other half of the speakers: the halves take turns, and their counts are added. Times are of one
thread, in its own (CPU) time, the median of several rounds in which all take turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from context import add_json, context, write
from lhotse import CutSet
from torch import Tensor

from sru_asr.audio import SAMPLE_RATE
from sru_asr.data import load_waveform
from sru_asr.decoding import GREEDY, Decoding
from sru_asr.lexicon import Lexicon
from sru_asr.lm import Ngram, train_ngram
from sru_asr.manifest import read_manifest, read_texts
from sru_asr.metrics import ErrorCounts, total
from sru_asr.model import Recognizer, load_model
from sru_asr.scorer import Scorer
from sru_asr.script import run
from sru_asr.text import normalize
from sru_asr.tuning import count_errors, hear, tune

Heard = list[tuple[str, Tensor]]  # texts with log-probabilities, as `hear` has them


def silently(numbers: Iterable[int], _: int) -> Iterable[int]:
    """No progress bar."""
    return numbers


def halves(cuts: CutSet) -> tuple[list[int], list[int]]:
    """The numbers of the utterances of every second speaker, by name, and those of the others."""
    speakers = [cut.supervisions[0].speaker or cut.id for cut in cuts]
    first = set(sorted(set(speakers))[::2])
    numbers = range(len(speakers))
    return [n for n in numbers if speakers[n] in first], [n for n in numbers if speakers[n] not in first]


def count_tuned(heard: Heard, parts: tuple[list[int], list[int]], scorer: Scorer, model: Recognizer) -> ErrorCounts:
    """Word errors with weight and bonus of the other half of the speakers."""
    counts = []
    for mine, others in (parts, parts[::-1]):
        best = tune(model, [heard[n] for n in others], scorer, 16, silently)[0]
        tuned = Scorer(scorer.lm, best.lm_weight, best.word_bonus, scorer.lexicon)
        counts.append(count_errors(model, [heard[n] for n in mine], Decoding(tuned, 16)))
    return total(counts)


def seconds(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU time of each, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.thread_time()
            way()
            times[name].append(time.thread_time() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_json(parser)
    parser.add_argument("--model", metavar="PATH", help="as for `sru-asr evaluate` (default: the one that ships)")
    parser.add_argument("--manifest", required=True, type=Path, metavar="FILE", help="what is recognised")
    parser.add_argument("--train", required=True, type=Path, metavar="FILE", help="whose texts are learned")
    parser.add_argument("--orders", type=int, nargs="+", default=[2, 3], help="of n-grams (default: 2 3)")
    parser.add_argument("--rounds", type=int, default=5, help="in which times are taken (default: 5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.model) if options.model else load_model()
    cuts, faults = read_manifest(options.manifest)
    texts = [normalize(text) for text in read_texts(options.train)[0]]
    heard, unheard = hear(model, cuts, float("inf"), silently)
    if faults or unheard or len(heard) != len(cuts):
        raise ValueError("\n".join([*faults, *unheard]) or "expected utterances of a frame at least")
    parts = halves(cuts)
    lexicon = Lexicon(texts)
    ways = {"greedy": GREEDY, "beam of 16": Decoding(width=16), "lexicon": Decoding(Scorer(lexicon=lexicon), 16)}
    found = {name: count_errors(model, heard, way) for name, way in ways.items()}
    with tempfile.TemporaryDirectory() as folder:
        for order in options.orders:
            arpa = Path(folder) / f"{order}.arpa"
            train_ngram(texts, arpa, order)
            for name, allowed in ((f"{order}-gram", None), (f"lexicon and {order}-gram", lexicon)):
                scorer = Scorer(Ngram(arpa), lexicon=allowed)
                ways[name] = Decoding(scorer, 16)
                found[name] = count_errors(model, heard, ways[name])
                found[f"{name}, tuned on the others"] = count_tuned(heard, parts, scorer, model)
    waveforms = [load_waveform(cut) for cut in cuts]
    searches = {
        name: lambda way=way: [way.decoder(model.tokenizer.pieces).push(log_probs) for _, log_probs in heard]
        for name, way in ways.items()
    }
    with torch.inference_mode():
        encoder = {"encoder": lambda: [model(x[None], torch.tensor([len(x)])) for x in waveforms]}
        times = seconds({**encoder, **searches}, options.rounds)
    audio = sum(map(len, waveforms)) / SAMPLE_RATE
    rows = []
    print(f"{options.manifest.name}: {len(heard)} utterances; {len(texts)} training texts, {len(lexicon.words)} words")
    print(f"encoder: {1000 * times['encoder'] / audio:.2f} ms for a second of audio")
    print("  WER  hits, substitutions, deletions, insertions  ms for a second of audio")
    for name, words in found.items():
        milliseconds = 1000 * times[name] / audio if name in times else None  # weights do not matter
        row = {"search": name, "words": words.to_dict(), "milliseconds": milliseconds}
        row["encoder_milliseconds"] = 1000 * times["encoder"] / audio
        rows.append({**context(), "manifest": options.manifest.name, **row})
        counts = f"{words.hits}, {words.substitutions}, {words.deletions}, {words.insertions}"
        took = "" if milliseconds is None else f"{milliseconds:.2f}"
        print(f"{100 * words.rate:5.2f}  {counts:43}  {took:>6}  {name}")
    write(rows, options.json)


if __name__ == "__main__":
    run(main)
