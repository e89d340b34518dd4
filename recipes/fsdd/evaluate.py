"""Measures a model on the Free Spoken Digit Dataset: two speakers who are never trained on, or the other four.

example: python recipes/fsdd/evaluate.py --model runs/fsdd --corpus-dir ~/corpora/fsdd --speakers
"""

import sys
from pathlib import Path

from prepare import ROOT, prepare

from sru_asr.script import evaluate_split, run, split_parser


def main() -> int:
    """Parses the command line; options it does not know go to `sru-asr evaluate`."""
    parser = split_parser("fsdd", __doc__, ("dev", "train"), "dev")
    parser.add_argument("--corpus-dir", type=Path, help="the corpus, if you have it (default: fetch it)")
    parser.add_argument("--prepared-dir", type=Path, default=ROOT / "data/prepared/fsdd", help="default: %(default)s")
    parser.add_argument("--download-dir", type=Path, default=ROOT / "data/downloads", help="default: %(default)s")
    return evaluate_split(parser, lambda args: prepare(args.corpus_dir, args.prepared_dir, args.download_dir))


if __name__ == "__main__":
    sys.exit(run(main))
