"""Measures a model on data/alphanum: voices that it has not been trained on.

example: python recipes/alphanum/evaluate.py --model runs/alphanum --split test
"""

import sys
from pathlib import Path

from prepare import ROOT, prepare

from sru_asr.script import evaluate_split, run, split_parser


def main() -> int:
    """Parses the command line; options it does not know go to `sru-asr evaluate`."""
    parser = split_parser("alphanum", __doc__, ("dev", "test"), "test")
    parser.add_argument("--corpus-dir", type=Path, default=ROOT / "data/alphanum", help="default: %(default)s")
    parser.add_argument(
        "--prepared-dir", type=Path, default=ROOT / "data/prepared/alphanum", help="default: %(default)s"
    )
    return evaluate_split(parser, lambda args: prepare(args.corpus_dir, args.prepared_dir))


if __name__ == "__main__":
    sys.exit(run(main))
