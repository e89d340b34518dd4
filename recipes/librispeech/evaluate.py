"""Measures a model on a part of LibriSpeech.

example: python recipes/librispeech/evaluate.py --split test-clean --corpus-dir ~/corpora/LibriSpeech
"""

import argparse
import sys
from pathlib import Path

from prepare import PARTS, ROOT, prepare

from sru_asr import cli


def main() -> int:
    """Parses the command line; options it does not know go to `sru-asr evaluate`."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Further options are those of `sru-asr evaluate`: --json, --alignments, --speakers.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="runs/librispeech", help="default: %(default)s")
    parser.add_argument("--split", choices=tuple(PARTS), default="test-clean", help="default: %(default)s")
    parser.add_argument("--corpus-dir", type=Path, help="the corpus, if you have it (default: fetch it)")
    parser.add_argument(
        "--prepared-dir", type=Path, default=ROOT / "data/prepared/librispeech-evaluation", help="default: %(default)s"
    )
    parser.add_argument("--download-dir", type=Path, default=ROOT / "data/downloads", help="default: %(default)s")
    args, others = parser.parse_known_args()
    try:
        manifests = prepare(args.corpus_dir, args.prepared_dir, args.download_dir, "960", [args.split])
    except ValueError as error:
        sys.exit(f"error: {error}")
    if args.split not in manifests:
        sys.exit(f"error: this corpus has no split {args.split}, only {', '.join(manifests)}")
    return cli.main(["evaluate", "--model", args.model, "--manifest", str(manifests[args.split]), *others])


if __name__ == "__main__":
    sys.exit(main())
