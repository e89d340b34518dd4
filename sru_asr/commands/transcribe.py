"""`sru-asr transcribe`: files to text."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sru_asr.commands.options import (
    OK,
    SOME_FAILED,
    UNUSABLE,
    CommandError,
    add_decoding,
    add_model,
    command,
    decoding_of,
    load,
    progress,
)

if TYPE_CHECKING:
    from torch import Tensor


def add(commands: Any) -> None:
    """Describe its options."""
    parser = command(
        commands,
        "transcribe",
        run,
        "print what is said in audio files",
        "Files that cannot be read are named on standard error, the others are transcribed.\n"
        "exit status: 0 all files transcribed, 1 some, 2 none\n"
        "example: sru-asr transcribe a.wav b.flac\n"
        "example: sru-asr transcribe --model runs/alphanum --format json *.mp3 > transcripts.jsonl\n"
        "example: sru-asr transcribe --format srt lecture.mp3 > lecture.srt\n"
        "example: sru-asr transcribe --hotwords names.txt --n-best 5 --format json form.wav",
    )
    add_model(parser)
    parser.add_argument(
        "--format",
        choices=("txt", "json", "srt", "vtt"),
        default="txt",
        help="txt: one line per file, its name and a tab first if there are several; json: an object per line, "
        "with words, their times and when tokens were emitted, or with `error` instead; srt, vtt: subtitles of a "
        "single file (default: txt)",
    )
    add_decoding(parser)
    parser.add_argument(
        "--n-best", type=int, default=1, metavar="N", help="texts that --format json names, with scores (default: 1)"
    )
    parser.add_argument("audio", nargs="+", metavar="AUDIO", help="WAV, FLAC, MP3, Ogg, Opus, ... of any rate")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    if args.format in {"srt", "vtt"} and len(args.audio) > 1:
        raise CommandError(f"--format {args.format}: subtitles are of one file, found {len(args.audio)}")
    if "-" in args.audio:
        raise CommandError("transcribe reads files, not standard input; `sru-asr stream -` reads raw samples from it")
    if args.n_best < 1 or (args.n_best > 1 and args.format != "json"):
        raise CommandError("--n-best: expected at least 1, and --format json for more than one")
    decoding = decoding_of(args, args.n_best)
    model = load(args, decoding)
    from sru_asr import subtitles
    from sru_asr.audio import AudioError
    from sru_asr.precision import arithmetic
    from sru_asr.transcribe import recognise

    n_failed = 0
    for path in args.audio:
        try:
            with arithmetic(model, args.precision):
                transcript = recognise(model, _pieces(path), path, decoding)
        except AudioError as error:
            n_failed += 1
            print(f"sru-asr: {error}", file=sys.stderr)
            if args.format == "json":
                print(_json({"audio": path, "error": str(error)}), flush=True)
            continue
        if args.format == "json":
            found = asdict(transcript)
            for name in ("words", "alternatives"):
                found[name] = [one._asdict() for one in getattr(transcript, name)]
            print(_json({"audio": path, **found}), flush=True)
        elif args.format != "txt":
            print(getattr(subtitles, args.format)(transcript.words), end="", flush=True)
        else:
            print(f"{path}\t{transcript}" if len(args.audio) > 1 else transcript, flush=True)
    if n_failed == len(args.audio):
        return UNUSABLE
    return SOME_FAILED if n_failed else OK


def _json(found: Mapping[str, Any]) -> str:
    """On one line, of what standard output can be written in."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    return json.dumps(found, ensure_ascii=not is_unicode, allow_nan=False)


def _pieces(path: str) -> Iterable[Tensor]:
    """Of a file, as `recognise` takes them; where it is long and somebody looks, with how far it is."""
    from sru_asr.audio import blocks, header
    from sru_asr.transcribe import LONGEST_WHOLE_SECONDS

    pieces = blocks(path, LONGEST_WHOLE_SECONDS)
    n_pieces = math.ceil(header(path).seconds / LONGEST_WHOLE_SECONDS) if sys.stderr.isatty() else 1
    return progress(pieces, n_pieces) if n_pieces > 1 else pieces
