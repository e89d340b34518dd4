"""What the commands share: options, models, exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sru_asr.whole import is_in_place, whole

if TYPE_CHECKING:
    import torch

    from sru_asr.decoding import Decoding
    from sru_asr.model import Recognizer
    from sru_asr.scorer import Scorer

OK, SOME_FAILED, UNUSABLE = 0, 1, 2
MOST_FAULTS = 5  # that are named where nothing can be used
T = TypeVar("T")


class CommandError(Exception):
    """What was asked for cannot be done at all; the message is for the user."""


def command(commands: Any, name: str, run: Any, summary: str, epilog: str) -> argparse.ArgumentParser:
    """A subcommand that calls `run` with its arguments."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which model computes, how and where; see `load`."""
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="a model.safetensors, or the output folder of a recipe that holds one (default: alphanum-en, which comes "
        "with the package and knows letters, digits, numbers, dates and commands in English)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="of the arithmetic; bfloat16 takes half the time where the processor has tiles for it (AMX), and changes "
        "a word now and then; int8 is bfloat16 with the encoder's weights in eight bits (default: float32)",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="cpu, or cuda (cuda:1, ...) for an NVIDIA GPU, whose kernels nvcc compiles at first use (default: cpu)",
    )


def add_vad(parser: argparse.ArgumentParser) -> None:
    """Whether silero-vad listens."""
    parser.add_argument(
        "--vad",
        action="store_true",
        help="while silero-vad hears somebody speak, end an utterance only after three pauses more; needs pip install "
        "'sru-asr[vad]'",
    )


def add_decoding(parser: argparse.ArgumentParser, weights: bool = True) -> None:
    """How text is found; see `decoding_of`. Without `weights` a language model's are not for the user to choose."""
    group = parser.add_argument_group("decoding", "Without these, greedy: the likeliest token of each frame.")
    group.add_argument(
        "--hotwords",
        type=Path,
        metavar="FILE",
        help="phrases that are likelier, one a line: PHRASE, or PHRASE<tab>BOOST",
    )
    group.add_argument(
        "--boost",
        type=float,
        metavar="LOG",
        help="natural log that a phrase adds to the score of a text, where it has none of its own (default: 5)",
    )
    group.add_argument("--lexicon", type=Path, metavar="FILE", help="no other words than those of this file, or text")
    group.add_argument(
        "--lm", type=Path, metavar="FILE", help="n-gram language model, ARPA or KenLM's binary; needs 'sru-asr[lm]'"
    )
    group.add_argument("--lm-unit", choices=("word", "character"), help="that the model is of (default: word)")
    if weights:
        group.add_argument("--lm-weight", type=float, metavar="X", help="of its logs (default: 0.2)")
        group.add_argument(
            "--word-bonus", type=float, metavar="LOG", help="for each word (default: 2 with a language model, else 0)"
        )
    else:
        parser.set_defaults(lm_weight=None, word_bonus=None)
    group.add_argument(
        "--beam",
        type=int,
        metavar="N",
        help="hypotheses that are kept (default: 16 where one of the others asks for a search, else 1: greedy)",
    )


def decoding_of(args: argparse.Namespace, n_best: int = 1) -> Decoding:
    """The way of decoding that the options ask for.

    Raises:
        CommandError: a file or a number is not as expected.
    """
    from sru_asr.decoding import read_decoding
    from sru_asr.hotwords import DEFAULT_BOOST
    from sru_asr.scorer import LM_WEIGHT

    for name, of in (("boost", "hotwords"), ("lm_weight", "lm"), ("lm_unit", "lm")):
        if getattr(args, name) is not None and getattr(args, of) is None:
            raise CommandError(
                f"--{name.replace('_', '-')}: expected --{of} FILE with it, without which it does nothing"
            )
    args.boost = DEFAULT_BOOST if args.boost is None else args.boost
    args.lm_unit = args.lm_unit or "word"
    try:
        return read_decoding(
            args.lm,
            args.lm_unit,
            LM_WEIGHT if args.lm_weight is None else args.lm_weight,
            args.word_bonus,
            args.lexicon,
            args.hotwords,
            args.boost,
            args.beam,
            n_best,
        )
    except ValueError as error:
        raise CommandError(str(error)) from error


def load(args: argparse.Namespace, decoding: Decoding) -> Recognizer:
    """The model that the options ask for, where they ask for it.

    Args:
        args: options.
        decoding: by which it will be used; words in it that the model cannot write are told of.

    Raises:
        CommandError: there is no such model or device, or it can write none of the words that it may.
    """
    from sru_asr.model import SHIPPED, CheckpointError, load_model

    device = _device(args)
    try:
        model = load_model(SHIPPED if args.model is None else args.model).to(device)
    except CheckpointError as error:
        raise CommandError(str(error)) from error
    if decoding.scorer is not None:
        _look_for_letters(decoding.scorer, model)
    return model


def _look_for_letters(scorer: Scorer, model: Recognizer) -> None:
    """Say of which phrases and words nothing will come, as the model has not all of their letters."""
    from sru_asr.text import spelled_out

    given = {
        "--hotwords": [] if scorer.hotwords is None else list(scorer.hotwords.boosts),
        "--lexicon": [] if scorer.lexicon is None else scorer.lexicon.words,
    }
    for option, texts in given.items():
        missing = model.tokenizer.missing("".join(set().union(*texts)))
        lacking = [text for text in texts if missing.intersection(text)]
        if not lacking:
            continue
        examples = ", ".join(map(repr, sorted(missing)[:MOST_FAULTS]))
        fault = (
            f"{option}: {len(lacking)} of {len(texts)} have what the model cannot write ({examples})"
            f"{spelled_out(missing)}"
        )
        if option == "--lexicon" and len(lacking) == len(texts):
            raise CommandError(fault)
        print(f"sru-asr: {fault}", file=sys.stderr)


def _device(args: argparse.Namespace) -> torch.device:
    import torch

    try:
        device = torch.device(args.device)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in {"cpu", "cuda"}:
        raise CommandError(f"--device: expected cpu, cuda or cuda:N, found {args.device!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CommandError(
            f"--device {args.device}: torch finds {torch.cuda.device_count()} NVIDIA GPUs here; leave --device out to "
            "use the CPU"
        )
    if device.type == "cuda" and args.precision == "int8":
        raise CommandError("--precision int8 is for CPUs; on a GPU take bfloat16")
    return device


def check_output(option: str, path: Path | None) -> None:
    """See, before anything is computed, that a file can be written there."""
    if path is not None and not path.parent.is_dir():
        raise CommandError(f"{option}: there is no folder {path.parent} to write {path.name} into")
    if path is not None and path.is_dir():
        raise CommandError(f"{option}: {path} is a folder, expected the name of a file to write")
    if path is not None and not os.access(path if is_in_place(path) else path.parent, os.W_OK):
        raise CommandError(f"{option}: {path} cannot be written: permission denied")


def write_output(option: str, path: Path, text: str) -> None:
    """Write what an option asks for."""
    try:
        with whole(path) as part:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise CommandError(f"{option}: {path} cannot be written: {error.strerror}") from error


def show_faults(faults: Sequence[str], most: int | None = None) -> None:
    """Name on standard error what cannot be used, all of it or the first few."""
    for fault in faults[:most]:
        print(f"sru-asr: {fault}", file=sys.stderr)
    if rest := len(faults) - len(faults[:most]):
        print(f"sru-asr: ... and {rest} more", file=sys.stderr)


def progress(items: Iterable[T], total: int) -> Iterable[T]:
    """A progress bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, total=total, description="", console=console, transient=True, disable=not console.is_terminal)
