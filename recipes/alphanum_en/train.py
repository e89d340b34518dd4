"""Trains the model that the package ships: English letters, digits, numbers, dates and commands.

On AN4, the Free Spoken Digit Dataset and data/alphanum, seen at full context and through windows of all sizes.

example: python recipes/alphanum_en/train.py --corpora-dir ~/corpora --output-dir runs/alphanum_en
"""

from argparse import Namespace
from pathlib import Path

from prepare import DIGITS, add_folders, prepare

from sru_asr.script import run

CORPORA = ("an4", "fsdd", "alphanum")


def main() -> None:
    """Parses the command line, prepares, trains."""
    # Here, as they load the kernels, which `run` may have to report.
    from sru_asr.recipe import train
    from sru_asr.settings import FEW_HOURS, training_parser

    parser = training_parser(
        "alphanum_en",
        __doc__,
        **FEW_HOURS,
        trainer__max_epochs=10,
        trainer__check_val_every_n_epoch=2,
        data__vocab_size=250,
        augment__clip_words=list(DIGITS),
        model__hidden_size=208,
    )
    add_folders(parser)

    def manifests(args: Namespace) -> dict[str, list[Path]]:
        corpora = prepare(args.corpora_dir, args.prepared_dir, args.download_dir)
        splits = {split: [corpora[name][split] for name in CORPORA] for split in ("train", "dev")}
        return splits | {"train": [*splits["train"], corpora["an4"]["words"]]}

    train(parser, manifests)


if __name__ == "__main__":
    run(main)
