"""Trains a recogniser on the synthetic corpus that ships in data/alphanum, and measures it on unseen voices.

example: python recipes/alphanum/train.py --output-dir runs/alphanum
"""

from pathlib import Path

from prepare import ROOT, prepare

from sru_asr.script import run


def main() -> None:
    """Parses the command line, prepares, trains."""
    # Here, as they load the kernels, which `run` may have to report.
    from sru_asr.recipe import train
    from sru_asr.settings import training_parser

    parser = training_parser(
        "alphanum",
        __doc__,
        trainer__max_epochs=32,
        data__max_batch_seconds=24.0,
        data__vocab_size=120,
        loss__windowed=0.0,  # half the time, for a demonstration
        model__hidden_size=192,
        model__num_layers=4,
    )
    parser.add_argument(
        "--corpus-dir", type=Path, default=ROOT / "data/alphanum", help="as data/alphanum/make.py writes it"
    )
    parser.add_argument("--prepared-dir", type=Path, default=ROOT / "data/prepared/alphanum", help="where manifests go")
    parser.add_argument(
        "--most-train", type=int, default=1500, help="train on so many utterances, for a short demonstration; 0 for all"
    )
    train(
        parser,
        lambda args: {
            split: [path]
            for split, path in prepare(args.corpus_dir, args.prepared_dir, args.most_train or None).items()
        },
    )


if __name__ == "__main__":
    run(main)
