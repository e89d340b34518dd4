"""The `sru-asr` command.

What a subcommand needs is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sru_asr import __version__
from sru_asr.build import BuildError
from sru_asr.commands import evaluate, info, lm, serve, stream, transcribe
from sru_asr.commands.options import OK, UNUSABLE, CommandError

COMMANDS = (transcribe, stream, serve, evaluate, lm, info)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 if all went well, 1 if some files could not be processed, 2 if nothing could be, 130 after
        Ctrl-C.
    """
    open_stderr()
    args = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold what the terminal's encoding has not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if sys.stdout is None:
            raise CommandError("expected somewhere to write to: standard output is closed")
        status = args.run(args)
        sys.stdout.flush()
        return status
    except (CommandError, BuildError) as error:
        print(f"sru-asr: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:  # what Python flushes when it ends goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever read our output has seen enough
            return OK
        with suppress(OSError):  # it may be of standard error itself
            print(f"sru-asr: {error}", file=sys.stderr)
        return UNUSABLE


def open_stderr() -> None:
    """Give a process without standard error, as `2>&-` makes it, one that goes nowhere: much writes to it."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sru-asr", description="Speech recognition on Simple Recurrent Units.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"sru-asr {__version__}")
    commands = parser.add_subparsers(required=True, title="commands", metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
