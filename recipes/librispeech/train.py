"""Trains a recogniser on LibriSpeech: `mini` (5 hours), `100` or `960`.

example: python recipes/librispeech/train.py --subset mini
example: torchrun --nproc-per-node 4 recipes/librispeech/train.py --subset 960 --trainer.devices 4
"""

from argparse import Namespace
from pathlib import Path

from prepare import ROOT, SUBSETS, prepare

from sru_asr.script import run


def main() -> None:
    """Parses the command line, prepares, trains."""
    # Here, as they load the kernels, which `run` may have to report.
    from sru_asr.recipe import train
    from sru_asr.settings import training_parser

    parser = training_parser(
        "librispeech",
        __doc__,
        trainer__max_epochs=60,
        data__max_batch_seconds=240.0,
        model__hidden_size=384,
        model__num_layers=8,
    )
    parser.add_argument("--subset", choices=tuple(SUBSETS), default="mini", help="how much of it")
    parser.add_argument("--corpus-dir", type=Path, help="LibriSpeech or its parent, if you have it (default: fetch it)")
    parser.add_argument(
        "--prepared-dir", type=Path, default=ROOT / "data/prepared", help="where manifests go, in folders for corpora"
    )
    parser.add_argument("--download-dir", type=Path, default=ROOT / "data/downloads", help="where archives go")

    def manifests(args: Namespace) -> dict[str, list[Path]]:
        prepared = args.prepared_dir / f"librispeech-{args.subset}"
        found = prepare(args.corpus_dir, prepared, args.download_dir, args.subset)
        return {split: [path] for split, path in found.items()}

    train(parser, manifests)


if __name__ == "__main__":
    run(main)
