"""Trains a recogniser on CMU AN4 and measures it on held-out speakers.

example: python recipes/an4/train.py --corpus-dir ~/corpora/an4 --output-dir runs/an4
"""

from pathlib import Path

from prepare import ROOT, prepare

from sru_asr.recipe import run, train, training_parser


def main() -> None:
    """Parses the command line, prepares, trains."""
    parser = training_parser("an4", __doc__, trainer__max_epochs=60, data__max_batch_seconds=45.0)
    parser.add_argument("--corpus-dir", type=Path, help="the corpus, if you have it (default: fetch it)")
    parser.add_argument("--prepared-dir", type=Path, default=ROOT / "data/prepared/an4", help="where manifests go")
    parser.add_argument("--download-dir", type=Path, default=ROOT / "data/downloads", help="where archives go")
    args = parser.parse_args()
    train(args, lambda: prepare(args.corpus_dir, args.prepared_dir, args.download_dir))


if __name__ == "__main__":
    run(main)
