"""Measures a model on AN4: the held-out development speakers, or the official test part where it is present.

example: python recipes/an4/evaluate.py --model runs/an4 --corpus-dir ~/corpora/an4 --split test
"""

import sys
from pathlib import Path

from prepare import ROOT, prepare

from sru_asr.script import evaluate_split, run, split_parser


def main() -> int:
    """Parses the command line; options it does not know go to `sru-asr evaluate`."""
    parser = split_parser("an4", __doc__, ("dev", "test"), "dev")
    parser.add_argument("--corpus-dir", type=Path, help="the corpus, if you have it (default: fetch it)")
    parser.add_argument("--prepared-dir", type=Path, default=ROOT / "data/prepared/an4", help="default: %(default)s")
    parser.add_argument("--download-dir", type=Path, default=ROOT / "data/downloads", help="default: %(default)s")
    return evaluate_split(parser, lambda args: prepare(args.corpus_dir, args.prepared_dir, args.download_dir))


if __name__ == "__main__":
    sys.exit(run(main))
