"""What recipes' scripts have in common: how they prepare and evaluate, and how they end.

(How they train is in recipe.py, which takes longer to import.)
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from sru_asr.build import BuildError
from sru_asr.cli import OK, main, open_stderr

T = TypeVar("T")


def split_parser(recipe: str, description: str | None, splits: Sequence[str], split: str) -> argparse.ArgumentParser:
    """The options of a recipe's evaluate.py, to which it adds where its corpus is; see `evaluate_split`.

    Args:
        recipe: its name; its model lies in `runs/<recipe>` unless told otherwise.
        description: for the help text.
        splits: what can be measured.
        split: the default among them.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog="Further options are those of `sru-asr evaluate`: --latency, --json, --html, --compare, --speakers, "
        "--alignments, --precision, --lm and so on.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default=f"runs/{recipe}", help="default: %(default)s")
    parser.add_argument("--split", choices=splits, default=split, help="default: %(default)s")
    return parser


def evaluate_split(parser: argparse.ArgumentParser, prepare: Callable[[argparse.Namespace], Mapping[str, Path]]) -> int:
    """Run `sru-asr evaluate` on a split of a recipe; options that `parser` does not know are passed on.

    Args:
        parser: of `split_parser`.
        prepare: makes the manifests, given the parsed options; returns them by split.

    Returns:
        The exit status.

    Raises:
        ValueError: the corpus is not as expected, or has no such split.
    """
    args, others = parser.parse_known_args()
    manifests = prepare(args)
    if args.split not in manifests:
        raise ValueError(f"this corpus has no split {args.split}, only {', '.join(manifests)}")
    return main(["evaluate", "--model", args.model, "--manifest", str(manifests[args.split]), *others])


def run(work: Callable[[], T]) -> T:
    """Do the work of a recipe's script; what the user can put right ends it with a message alone.

    SRU_ASR_DEBUG=1 shows where it came from, too.

    Returns:
        What `work` does.
    """
    open_stderr()
    try:
        return work()
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.exit(OK)
    except KeyboardInterrupt:
        print("stopped; what was prepared is kept, give the same command again", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except (ValueError, OSError, BuildError) as error:
        if os.environ.get("SRU_ASR_DEBUG"):
            raise
        sys.exit(f"error: {error}")


def run_preparation(
    prepare: Callable[[Path | None, Path, Path], object],
    description: str | None,
    example: str,
    output_dir: Path,
    download_dir: Path,
    argv: Sequence[str] | None = None,
) -> None:
    """Be the command line of a recipe's prepare.py, of a corpus that can be fetched.

    Args:
        prepare: called with the folder of the corpus (None to fetch it), that of the manifests, and that of archives.
        description: for the help text.
        example: for its end.
        output_dir: where manifests go by default.
        download_dir: where archives go by default.
        argv: the arguments; those of the process if None.
    """
    parser = argparse.ArgumentParser(
        description=description, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus-dir", type=Path, help="the corpus, if you have it (default: fetch it)")
    parser.add_argument("--output-dir", type=Path, default=output_dir, help="default: %(default)s")
    parser.add_argument("--download-dir", type=Path, default=download_dir, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(lambda: prepare(arguments.corpus_dir, arguments.output_dir, arguments.download_dir))
