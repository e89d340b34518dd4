"""`sru-asr stream`: text while somebody speaks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sru_asr.commands.options import (
    OK,
    SOME_FAILED,
    CommandError,
    add_decoding,
    add_model,
    add_vad,
    command,
    decoding_of,
    load,
)

if TYPE_CHECKING:
    from sru_asr.live import Caption


def add(commands: Any) -> None:
    """Describe its options."""
    parser = command(
        commands,
        "stream",
        run,
        "recognise speech while it is spoken",
        "Of the microphone, a file, or raw samples on standard input. A line is printed when somebody pauses; on a\n"
        "terminal what has been recognised of it shows before. Ctrl-C ends it.\n"
        "exit status: 0 all went well, 1 a fault ended the audio, 2 nothing could be recognised\n"
        "example: sru-asr stream\n"
        "example: sru-asr stream --latency 640 --realtime speech.wav\n"
        "in a pipe: arecord -t raw -f S16_LE -r 16000 | sru-asr stream --format json -",
    )
    add_model(parser)
    add_decoding(parser)
    parser.add_argument(
        "--latency",
        type=float,
        default=320.0,
        metavar="MS",
        help="wait so many milliseconds before a sound is recognised; less is quicker and errs more (default: 320)",
    )
    parser.add_argument(
        "--window",
        type=int,
        nargs=2,
        metavar=("CHUNK", "LOOKAHEAD"),
        help="instead of --latency, for experts: frames recognised at a time, and those waited for behind them",
    )
    parser.add_argument(
        "--pause", type=float, default=0.8, metavar="S", help="seconds of silence that end a line (default: 0.8)"
    )
    add_vad(parser)
    parser.add_argument("--realtime", action="store_true", help="read a file no faster than it would be spoken")
    parser.add_argument("--rate", type=int, metavar="HZ", help="of the samples on standard input (default: 16000)")
    parser.add_argument(
        "--device-name", metavar="NAME", help="or number of the microphone; python -m sounddevice lists them"
    )
    parser.add_argument(
        "--format",
        choices=("txt", "json"),
        default="txt",
        help="txt: a line for each utterance; json: an object for each change, with `text`, `final`, and `words` with "
        "their times in seconds (default: txt)",
    )
    parser.add_argument(
        "audio",
        nargs="?",
        metavar="AUDIO",
        help="a file, or - for raw samples (signed 16 bits, little-endian, one channel) on standard input; "
        "left out: the microphone",
    )


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    for option, given, works, wanted in (
        ("--rate", args.rate is not None, args.audio == "-", "raw samples (- as AUDIO)"),
        ("--realtime", args.realtime, args.audio not in (None, "-"), "a file as AUDIO"),
        ("--device-name", args.device_name is not None, args.audio is None, "the microphone (no AUDIO)"),
    ):
        if given and not works:
            raise CommandError(f"{option} is for {wanted}; with anything else it does nothing")
    decoding = decoding_of(args)
    model = load(args, decoding)
    from sru_asr.audio import SAMPLE_RATE
    from sru_asr.live import Live
    from sru_asr.precision import arithmetic
    from sru_asr.source import from_file, from_microphone, from_pcm, until_interrupted
    from sru_asr.voice import VoiceError
    from sru_asr.windows import window_of

    try:
        chunk, lookahead = args.window or window_of(args.latency, model.frames_per_second)
        live = Live(model, chunk, lookahead, args.pause, vad=args.vad, decoding=decoding)
    except (ValueError, VoiceError) as error:
        raise CommandError(str(error)) from error
    if args.audio is None:
        name = args.device_name
        pieces = from_microphone(int(name) if name and name.isdecimal() else name)
    elif args.audio == "-":
        if sys.stdin is None:
            raise CommandError("expected samples on standard input, which is closed")
        pieces = from_pcm(sys.stdin.buffer, SAMPLE_RATE if args.rate is None else args.rate)
    else:
        pieces = from_file(args.audio, args.realtime)
    fault = None
    with _captions(args.format) as show, arithmetic(model, args.precision):
        try:
            for piece in until_interrupted(pieces):
                show(live.push(piece))
        except ValueError as error:
            fault = error
        except KeyboardInterrupt:
            if args.audio is not None:
                show(live.finish())
                raise
        show(live.finish())
    if fault is None:
        return OK
    if live.stream.samples == 0:
        raise CommandError(str(fault)) from fault
    print(f"sru-asr: {fault}", file=sys.stderr)
    return SOME_FAILED


@contextmanager
def _captions(format: str) -> Iterator[Callable[[Iterable[Caption]], None]]:
    """Print captions: those that are not final only as JSON, or in the last line of a terminal."""
    from rich.console import Console
    from rich.live import Live as LastLine
    from rich.text import Text

    console = Console()
    if format == "txt" and console.is_terminal:
        with LastLine(console=console, transient=True, refresh_per_second=20) as last_line:

            def show(captions: Iterable[Caption]) -> None:
                for caption in captions:
                    if caption.final and caption.words:
                        console.print(Text(caption.text))
                    last_line.update(Text("" if caption.final else caption.text, style="dim"))

            yield show
        return

    def write(captions: Iterable[Caption]) -> None:
        for caption in captions:
            if format == "json":
                words = [word._asdict() for word in caption.words]
                print(json.dumps({"text": caption.text, "final": caption.final, "words": words}), flush=True)
            elif caption.final and caption.words:
                print(caption.text, flush=True)

    yield write
