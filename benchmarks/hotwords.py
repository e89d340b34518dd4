"""What hotwords find, and what they cost: rare words on a list, swept over the boost.

    python benchmarks/hotwords.py --model runs/english --manifest dev.jsonl.gz --train train.jsonl.gz

Lists are drawn from the words of the manifest that training texts have at most so many times. Recall of the listed
words and error rate of the others are counted on the alignment of each utterance: a listed word that is not heard, or
heard as another, is no error of the others, one that is heard in vain is.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from pathlib import Path
from typing import Any

from context import add_json, context, write
from lhotse import CutSet

from sru_asr.decoding import Decoding
from sru_asr.evaluation import evaluate
from sru_asr.hotwords import Hotwords
from sru_asr.manifest import read_manifest, read_texts
from sru_asr.metrics import pair_words
from sru_asr.model import Recognizer, load_model
from sru_asr.scorer import Scorer
from sru_asr.script import run
from sru_asr.text import normalize


def texts(manifest: Path) -> list[str]:
    """What is said in a manifest, normalised."""
    return list(map(normalize, read_texts(manifest)[0]))


def count(pairs: list[tuple[str, str]], listed: set[str]) -> tuple[int, int, int, int]:
    """Listed words said, those of them heard, other words said, and errors that are not listed words missed.

    Args:
        pairs: of `pair_words`.
        listed: the hotwords.
    """
    said = [(a, b) for a, b in pairs if a in listed]
    others = [(a, b) for a, b in pairs if a not in listed]
    return len(said), sum(a == b for a, b in said), sum(bool(a) for a, _ in others), sum(a != b for a, b in others)


def measure(model: Recognizer, cuts: CutSet, listed: set[str], boost: float, width: int) -> dict[str, Any]:
    """One row: a list at one boost; at none the search is the same, without a list."""
    scorer = Scorer(hotwords=Hotwords(dict.fromkeys(listed, boost))) if boost else Scorer()
    results = evaluate(model, cuts, decoding=Decoding(scorer, width)).results
    counts = [count(pair_words(result.reference, result.hypothesis), listed) for result in results]
    said, found, others, errors = (sum(column) for column in zip(*counts, strict=True))
    return {"words": len(listed), "boost": boost, "said": said, "found": found, "others": others, "errors": errors}


def main() -> None:
    """Draw the lists, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_json(parser)
    parser.add_argument("--model", required=True, help="as for `sru-asr evaluate`")
    parser.add_argument("--manifest", required=True, type=Path, metavar="FILE", help="what is recognised")
    parser.add_argument("--train", required=True, type=Path, nargs="+", metavar="FILE", help="what is trained on")
    parser.add_argument("--most", type=int, default=2, help="times that training has a rare word (default: 2)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100], help="of the lists (default: 10 100)")
    parser.add_argument("--boosts", type=float, nargs="+", default=[0, 1, 2, 3, 4, 5, 6, 8, 10], help="natural logs")
    parser.add_argument("--beam", type=int, default=16, help="hypotheses that the search keeps (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of the lists (default: 0)")
    options = parser.parse_args()
    model = load_model(options.model)
    cuts, faults = read_manifest(options.manifest)
    if faults:
        raise ValueError("\n".join(faults))
    trained = Counter(word for path in options.train for text in texts(path) for word in text.split())
    said = Counter(word for text in texts(options.manifest) for word in text.split())
    rare = sorted(word for word in said if trained[word] <= options.most)
    random.Random(options.seed).shuffle(rare)
    print(f"{len(rare)} words of {options.manifest.name} occur in training at most {options.most} times")
    rows = []
    print("listed  boost     recall of listed words   WER of the other words")
    for size in options.sizes:
        listed = set(rare[:size])
        for boost in options.boosts:
            row = measure(model, cuts, listed, boost, options.beam)
            rows.append({**context(), "manifest": options.manifest.name, "beam": options.beam, **row})
            recall, rate = row["found"] / max(row["said"], 1), row["errors"] / max(row["others"], 1)
            print(
                f"{row['words']:6}  {boost:5g}  {100 * recall:6.2f} % ({row['found']} of {row['said']})"
                f"  {100 * rate:6.2f} % ({row['errors']} of {row['others']})",
                flush=True,
            )
            write(rows, options.json)


if __name__ == "__main__":
    run(main)
