"""Prepares what `alphanum-en` is trained and measured on: AN4, the Free Spoken Digit Dataset, and data/alphanum."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from sru_asr.script import run

sys.path.append(str(Path(__file__).resolve().parents[1]))  # recipes are scripts beside each other, no package
from alphanum.prepare import ROOT
from alphanum.prepare import prepare as prepare_alphanum
from an4.prepare import prepare as prepare_an4
from an4.words import prepare_words
from fsdd.prepare import WORDS
from fsdd.prepare import prepare as prepare_fsdd
from rows import prepare_rows

DIGITS = WORDS  # the only words that the Free Spoken Digit Dataset has
EXAMPLE = "example: python recipes/alphanum_en/prepare.py --corpora-dir ../shared/corpora"


def prepare(corpora_dir: Path | None, prepared_dir: Path, download_dir: Path) -> dict[str, dict[str, Path]]:
    """Writes the manifests of the three corpora.

    Args:
        corpora_dir: Holds `an4` and `fsdd`, each as its distribution has it. None fetches them.
        prepared_dir: Where manifests go, in a folder for each corpus.
        download_dir: Where archives go if they have to be fetched.

    Returns:
        The manifests by corpus (`an4`, `fsdd`, `alphanum`) and split: `train` and `dev`, and `test` where there is one.
        `an4_row` has AN4's development part only, all that a speaker says in one recording.
        AN4's `words` are those of its training part, one by one.

    Raises:
        ValueError: A corpus is not as expected, or could not be fetched.
    """
    an4, fsdd = (None if corpora_dir is None else corpora_dir / name for name in ("an4", "fsdd"))
    of_an4 = prepare_an4(an4, prepared_dir / "an4", download_dir)
    return {
        "an4": of_an4 | {"words": prepare_words(of_an4["train"], prepared_dir / "an4/words.jsonl.gz")},
        "an4_row": {"dev": prepare_rows(of_an4["dev"], prepared_dir / "an4_row")},
        "fsdd": prepare_fsdd(fsdd, prepared_dir / "fsdd", download_dir),
        "alphanum": prepare_alphanum(ROOT / "data/alphanum", prepared_dir / "alphanum"),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the preparation from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folders(parser)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(lambda: prepare(arguments.corpora_dir, arguments.prepared_dir, arguments.download_dir))


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where the corpora are, and where what is made of them goes."""
    parser.add_argument("--corpora-dir", type=Path, help="holds an4 and fsdd, if you have them (default: fetch them)")
    parser.add_argument(
        "--prepared-dir", type=Path, default=ROOT / "data/prepared", help="where manifests go, in folders for corpora"
    )
    parser.add_argument("--download-dir", type=Path, default=ROOT / "data/downloads", help="where archives go")


if __name__ == "__main__":
    main()
