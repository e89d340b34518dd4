"""Trains a recogniser on CMU AN4 and measures it on held-out speakers.

The synthetic corpus that ships in data/alphanum, which has the same kind of sentences, is trained on as well.

example: python recipes/an4/train.py --corpus-dir ~/corpora/an4 --output-dir runs/an4
"""

import sys
from argparse import Namespace
from pathlib import Path

from prepare import ROOT, prepare

from sru_asr.script import run

sys.path.append(str(ROOT / "recipes"))
from alphanum.prepare import prepare as prepare_alphanum
from an4.words import prepare_words

SYNTHETIC_UTTERANCES = 1000  # about as much speech as AN4 has; more would take its share of the steps


def main() -> None:
    """Parses the command line, prepares, trains."""
    # Here, as they load the kernels, which `run` may have to report.
    from sru_asr.recipe import train
    from sru_asr.settings import FEW_HOURS, training_parser

    parser = training_parser(
        "an4",
        __doc__,
        **FEW_HOURS,
        trainer__max_epochs=20,
        trainer__check_val_every_n_epoch=2,
        data__vocab_size=250,  # all its words
        model__hidden_size=208,
    )
    parser.add_argument("--corpus-dir", type=Path, help="the corpus, if you have it (default: fetch it)")
    parser.add_argument("--an4-only", action="store_true", help="do not train on data/alphanum as well")
    parser.add_argument(
        "--prepared-dir", type=Path, default=ROOT / "data/prepared", help="where manifests go, in folders for corpora"
    )
    parser.add_argument("--download-dir", type=Path, default=ROOT / "data/downloads", help="where archives go")

    def manifests(args: Namespace) -> dict[str, list[Path]]:
        found = prepare(args.corpus_dir, args.prepared_dir / "an4", args.download_dir)
        splits = {split: [path] for split, path in found.items()}
        splits["train"].append(prepare_words(found["train"], args.prepared_dir / "an4/words.jsonl.gz"))
        if not args.an4_only:
            alphanum = prepare_alphanum(ROOT / "data/alphanum", args.prepared_dir / "alphanum", SYNTHETIC_UTTERANCES)
            splits["train"].append(alphanum["train"])
        return splits

    train(parser, manifests)


if __name__ == "__main__":
    run(main)
