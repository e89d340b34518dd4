"""Trains a recogniser on your own recordings, or adapts one to them with --init-from.

A manifest is a file of JSON lines with `audio` (a path, relative to the manifest's folder), `text` and, optionally,
`speaker`, NeMo's (`audio_filepath`, `offset`, `duration`), or Lhotse's cuts.

example: python recipes/own/train.py --train mine/train.jsonl --dev mine/dev.jsonl --output-dir runs/mine
example: python recipes/own/train.py --train mine/train.jsonl --dev mine/dev.jsonl --output-dir runs/adapted \
--init-from alphanum-en --new-tokenizer --optimizer.learning_rate 1e-3
"""

from pathlib import Path

from sru_asr.script import run


def main() -> None:
    """Parses the command line, trains."""
    # Here, as they load the kernels, which `run` may have to report.
    from sru_asr.recipe import train
    from sru_asr.settings import FEW_HOURS, training_parser

    parser = training_parser("own", __doc__, **FEW_HOURS)
    parser.add_argument("--train", type=Path, nargs="+", required=True, metavar="MANIFEST", help="to learn from")
    parser.add_argument(
        "--dev", type=Path, nargs="+", required=True, metavar="MANIFEST", help="to measure on: of other speakers, best"
    )
    train(parser, lambda args: {"train": args.train, "dev": args.dev})


if __name__ == "__main__":
    run(main)
