"""Measures a model on data/alphanum: voices that it has not been trained on.

example: python recipes/alphanum/evaluate.py --model runs/alphanum --split test
"""

import argparse
import sys
from pathlib import Path

from prepare import ROOT, prepare

from sru_asr import cli


def main() -> int:
    """Parses the command line; options it does not know go to `sru-asr evaluate`."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Further options are those of `sru-asr evaluate`: --json, --alignments, --speakers.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="runs/alphanum", help="default: %(default)s")
    parser.add_argument("--split", choices=("dev", "test"), default="test", help="default: %(default)s")
    parser.add_argument("--corpus-dir", type=Path, default=ROOT / "data/alphanum", help="default: %(default)s")
    parser.add_argument(
        "--prepared-dir", type=Path, default=ROOT / "data/prepared/alphanum", help="default: %(default)s"
    )
    args, others = parser.parse_known_args()
    try:
        manifests = prepare(args.corpus_dir, args.prepared_dir)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if args.split not in manifests:
        sys.exit(f"error: this corpus has no split {args.split}, only {', '.join(manifests)}")
    return cli.main(["evaluate", "--model", args.model, "--manifest", str(manifests[args.split]), *others])


if __name__ == "__main__":
    sys.exit(main())
