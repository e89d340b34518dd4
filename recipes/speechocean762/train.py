"""Trains a recogniser on speechocean762, or adapts one to it with --init-from, and measures it on held-out speakers.

example: python recipes/speechocean762/train.py --init-from alphanum-en --new-tokenizer --corpus-dir ~/speechocean762
example: python recipes/speechocean762/train.py --init-from runs/librispeech --output-dir runs/speechocean762-adapted
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
        "speechocean762",
        __doc__,
        trainer__max_epochs=11,
        optimizer__warmup=0.1,
        data__max_batch_seconds=40.0,
        data__vocab_size=1000,
        loss__consistency=0.2,
        loss__windowed=0.0,  # sentences that are read come in files, so whole
    )
    parser.add_argument("--corpus-dir", type=Path, help="the corpus, if you have it (default: fetch it)")
    parser.add_argument(
        "--prepared-dir", type=Path, default=ROOT / "data/prepared/speechocean762", help="where manifests go"
    )
    parser.add_argument("--download-dir", type=Path, default=ROOT / "data/downloads", help="where archives go")
    train(
        parser,
        lambda args: {
            split: [path] for split, path in prepare(args.corpus_dir, args.prepared_dir, args.download_dir).items()
        },
    )


if __name__ == "__main__":
    run(main)
