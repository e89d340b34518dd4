"""Measures a model on a part of LibriSpeech.

example: python recipes/librispeech/evaluate.py --split test-clean --corpus-dir ~/corpora/LibriSpeech
"""

import sys
from pathlib import Path

from prepare import PARTS, ROOT, prepare

from sru_asr.script import evaluate_split, run, split_parser


def main() -> int:
    """Parses the command line; options it does not know go to `sru-asr evaluate`."""
    parser = split_parser("librispeech", __doc__, tuple(PARTS), "test-clean")
    parser.add_argument("--corpus-dir", type=Path, help="the corpus, if you have it (default: fetch it)")
    parser.add_argument(
        "--prepared-dir", type=Path, default=ROOT / "data/prepared/librispeech-evaluation", help="default: %(default)s"
    )
    parser.add_argument("--download-dir", type=Path, default=ROOT / "data/downloads", help="default: %(default)s")
    return evaluate_split(
        parser, lambda args: prepare(args.corpus_dir, args.prepared_dir, args.download_dir, "960", [args.split])
    )


if __name__ == "__main__":
    sys.exit(run(main))
