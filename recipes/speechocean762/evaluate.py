"""Measures a model on speechocean762: the held-out development speakers, or the official test part where present.

example: python recipes/speechocean762/evaluate.py --split test --corpus-dir ~/corpora/speechocean762
"""

import sys
from pathlib import Path

from prepare import ROOT, prepare

from sru_asr.script import evaluate_split, run, split_parser


def main() -> int:
    """Parses the command line; options it does not know go to `sru-asr evaluate`."""
    parser = split_parser("speechocean762", __doc__, ("dev", "test"), "dev")
    parser.add_argument("--corpus-dir", type=Path, help="the corpus, if you have it (default: fetch it)")
    parser.add_argument(
        "--prepared-dir", type=Path, default=ROOT / "data/prepared/speechocean762", help="default: %(default)s"
    )
    parser.add_argument("--download-dir", type=Path, default=ROOT / "data/downloads", help="default: %(default)s")
    return evaluate_split(parser, lambda args: prepare(args.corpus_dir, args.prepared_dir, args.download_dir))


if __name__ == "__main__":
    sys.exit(run(main))
