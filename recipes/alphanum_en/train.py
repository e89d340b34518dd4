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
    from sru_asr.settings import training_parser

    parser = training_parser(
        "alphanum_en",
        __doc__,
        trainer__max_epochs=10,
        trainer__check_val_every_n_epoch=2,
        data__max_batch_seconds=30.0,
        data__vocab_size=250,
        data__speeds=[0.85, 1.0, 1.15],
        augment__clip_words=list(DIGITS),
        augment__channel=0.9,
        augment__channel_db=10.0,
        augment__join=0.4,
        loss__consistency=0.2,
        loss__windowed=1.0,  # every second view
        model__hidden_size=208,
        model__floor=1e-10,
    )
    add_folders(parser)

    def manifests(args: Namespace) -> dict[str, list[Path]]:
        corpora = prepare(args.corpora_dir, args.prepared_dir, args.download_dir)
        splits = {split: [corpora[name][split] for name in CORPORA] for split in ("train", "dev")}
        return splits | {"train": [*splits["train"], corpora["an4"]["words"]]}

    train(parser, manifests)


if __name__ == "__main__":
    run(main)
