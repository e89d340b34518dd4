"""Trains a recogniser of single digits on the Free Spoken Digit Dataset and measures it on held-out speakers.

example: python recipes/fsdd/train.py --corpus-dir ~/corpora/fsdd --output-dir runs/fsdd
"""

from pathlib import Path

from prepare import ROOT, WORDS, prepare

from sru_asr.script import run


def main() -> None:
    """Parses the command line, prepares, trains."""
    # Here, as they load the kernels, which `run` may have to report.
    from sru_asr.recipe import train
    from sru_asr.settings import training_parser

    # With 60 sentencepiece units each digit is one token. The shortest recordings have four frames of the encoder: too
    # few for the characters of most digits.
    parser = training_parser(
        "fsdd",
        __doc__,
        trainer__max_epochs=30,
        data__max_batch_seconds=15.0,
        data__vocab_size=60,
        augment__clip_words=list(WORDS),
        model__hidden_size=192,
        model__num_layers=4,
    )
    parser.add_argument("--corpus-dir", type=Path, help="the corpus, if you have it (default: fetch it)")
    parser.add_argument("--prepared-dir", type=Path, default=ROOT / "data/prepared/fsdd", help="where manifests go")
    parser.add_argument("--download-dir", type=Path, default=ROOT / "data/downloads", help="where archives go")
    train(
        parser,
        lambda args: {
            split: [path] for split, path in prepare(args.corpus_dir, args.prepared_dir, args.download_dir).items()
        },
    )


if __name__ == "__main__":
    run(main)
