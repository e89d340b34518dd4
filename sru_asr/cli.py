"""The `sru-asr` command.

What a subcommand needs is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sru_asr import __version__
from sru_asr.build import BuildError

if TYPE_CHECKING:
    import torch

    from sru_asr.decoding import Decoding
    from sru_asr.live import Caption
    from sru_asr.model import Recognizer

OK, SOME_FAILED, UNUSABLE = 0, 1, 2
MOST_FAULTS = 5
T = TypeVar("T")


class CommandError(Exception):
    """What was asked for cannot be done at all; the message is for the user."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 if all went well, 1 if some files could not be processed, 2 if nothing could be, 130 after
        Ctrl-C.
    """
    args = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold what the terminal's encoding has not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except (CommandError, BuildError) as error:
        print(f"sru-asr: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough; what Python flushes when it ends goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sru-asr", description="Speech recognition on Simple Recurrent Units.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"sru-asr {__version__}")
    commands = parser.add_subparsers(required=True, title="commands", metavar="COMMAND")

    transcribe = _command(
        commands,
        "transcribe",
        _transcribe,
        "print what is said in audio files",
        "Files that cannot be read are named on standard error, the others are transcribed.\n"
        "exit status: 0 all files transcribed, 1 some, 2 none\n"
        "example: sru-asr transcribe a.wav b.flac\n"
        "example: sru-asr transcribe --model runs/alphanum --format json *.mp3 > transcripts.jsonl\n"
        "example: sru-asr transcribe --format srt lecture.mp3 > lecture.srt\n"
        "example: sru-asr transcribe --hotwords names.txt --n-best 5 --format json form.wav",
    )
    _add_model(transcribe)
    transcribe.add_argument(
        "--format",
        choices=("txt", "json", "srt", "vtt"),
        default="txt",
        help="txt: one line per file, its name and a tab first if there are several; json: an object per line, "
        "with words and tokens and their times, or with `error` instead; srt, vtt: subtitles of a single file "
        "(default: txt)",
    )
    _add_decoding(transcribe)
    transcribe.add_argument(
        "--n-best", type=int, default=1, metavar="N", help="texts that --format json names, with scores (default: 1)"
    )
    transcribe.add_argument("audio", nargs="+", metavar="AUDIO", help="WAV, FLAC, MP3, Ogg, Opus, ... of any rate")

    evaluate = _command(
        commands,
        "evaluate",
        _evaluate,
        "measure word and character error rate on a manifest",
        "A manifest is a .jsonl or .jsonl.gz file: Lhotse cuts, or objects with `audio` (relative to the manifest),\n"
        "`text` and optionally `speaker` and `id`. Entries that cannot be used are named on standard error.\n"
        "exit status: 0 all entries evaluated, 1 some, 2 none\n"
        "example: sru-asr evaluate --model runs/an4 --manifest data/prepared/an4/dev.jsonl.gz --json dev.json",
    )
    _add_model(evaluate)
    _add_decoding(evaluate)
    evaluate.add_argument("--manifest", required=True, type=Path, metavar="FILE", help="audio files and what they say")
    evaluate.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write counts, transcripts and faults there; wer and cer are fractions",
    )
    evaluate.add_argument(
        "--alignments",
        choices=("none", "errors", "all"),
        default="none",
        help="print how reference and hypothesis align, of utterances with errors or of all (default: none)",
    )
    evaluate.add_argument(
        "--latency",
        type=float,
        metavar="MS",
        help="recognise through windows of so many milliseconds, as live recognition does (default: full context)",
    )
    evaluate.add_argument("--speakers", action="store_true", help="print the WER of each speaker")

    stream = _command(
        commands,
        "stream",
        _stream,
        "recognise speech while it is spoken",
        "Of the microphone, a file, or raw samples on standard input. A line is printed when somebody pauses; on a\n"
        "terminal what has been recognised of it shows before. Ctrl-C ends it.\n"
        "exit status: 0 all went well, 1 a fault ended the audio, 2 nothing could be recognised\n"
        "example: sru-asr stream\n"
        "example: sru-asr stream --latency 640 --realtime speech.wav\n"
        "in a pipe: arecord -t raw -f S16_LE -r 16000 | sru-asr stream --format json -",
    )
    _add_model(stream)
    _add_decoding(stream)
    stream.add_argument(
        "--latency",
        type=float,
        default=320.0,
        metavar="MS",
        help="wait so many milliseconds before a sound is recognised; less is quicker and errs more (default: 320)",
    )
    stream.add_argument(
        "--window",
        type=int,
        nargs=2,
        metavar=("CHUNK", "LOOKAHEAD"),
        help="instead of --latency, for experts: frames recognised at a time, and those waited for behind them",
    )
    stream.add_argument(
        "--pause", type=float, default=0.8, metavar="S", help="seconds of silence that end a line (default: 0.8)"
    )
    _add_vad(stream)
    stream.add_argument("--realtime", action="store_true", help="read a file no faster than it would be spoken")
    stream.add_argument(
        "--rate", type=int, default=16_000, metavar="HZ", help="of the samples on standard input (default: 16000)"
    )
    stream.add_argument(
        "--device-name", metavar="NAME", help="or number of the microphone; python -m sounddevice lists them"
    )
    stream.add_argument(
        "--format",
        choices=("txt", "json"),
        default="txt",
        help="txt: a line for each utterance; json: an object for each change, with `text`, `final`, and `words` with "
        "their times in seconds (default: txt)",
    )
    stream.add_argument(
        "audio",
        nargs="?",
        metavar="AUDIO",
        help="a file, or - for raw samples (signed 16 bits, little-endian, one channel) on standard input; "
        "left out: the microphone",
    )

    serve = _command(
        commands,
        "serve",
        _serve,
        "recognise files and live audio for others, by HTTP and WebSocket",
        "POST /v1/audio/transcriptions takes what the `openai` client sends, /v1/stream live audio; docs/serving.md\n"
        "describes both.\n"
        "Needs the extra serve: pip install 'sru-asr[serve]'. Ctrl-C stops it once what has been sent is recognised.\n"
        "example: sru-asr serve\n"
        "example: sru-asr serve --host 0.0.0.0 --port 8080 --api-key-file key.txt",
    )
    _add_model(serve)
    _add_decoding(serve)
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (default: 127.0.0.1, this machine)"
    )
    serve.add_argument("--port", type=int, default=8000, help="0 for any that is free (default: 8000)")
    serve.add_argument("--api-key-file", type=Path, metavar="FILE", help="a key that clients have to name")
    serve.add_argument(
        "--origin",
        action="append",
        default=[],
        metavar="URL",
        help="of pages elsewhere whose scripts may stream, as https://example.org; may be given again",
    )
    _add_vad(serve)
    serve.add_argument(
        "--lookahead-share",
        type=float,
        default=0.875,
        metavar="SHARE",
        help="of the latency that clients ask for, what is waited for behind a chunk: with 0.5 four times as many "
        "can be listened to, with more errors (default: 0.875)",
    )
    serve.add_argument("--streams", type=int, default=200, metavar="N", help="live sessions at a time (default: 200)")
    serve.add_argument("--megabytes", type=int, default=25, metavar="N", help="of an uploaded file (default: 25)")

    info = _command(commands, "info", _info, "print versions, and which kernels run and why", "example: sru-asr info")
    info.add_argument("--format", choices=("txt", "json"), default="txt", help="default: txt")
    return parser


def _command(commands: Any, name: str, run: Any, summary: str, epilog: str) -> argparse.ArgumentParser:
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


def _add_model(parser: argparse.ArgumentParser) -> None:
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


def _add_vad(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vad",
        action="store_true",
        help="end no utterance while silero-vad hears somebody speak; needs pip install 'sru-asr[vad]'",
    )


def _add_decoding(parser: argparse.ArgumentParser) -> None:
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
        default=5.0,
        metavar="LOG",
        help="natural log that a phrase adds to the score of a text, where it has none of its own (default: 5)",
    )
    group.add_argument("--lexicon", type=Path, metavar="FILE", help="no other words than those of this file, or text")
    group.add_argument(
        "--lm", type=Path, metavar="FILE", help="n-gram language model, ARPA or KenLM's binary; needs 'sru-asr[lm]'"
    )
    group.add_argument(
        "--lm-unit", choices=("word", "character"), default="word", help="that the model is of (default: word)"
    )
    group.add_argument("--lm-weight", type=float, default=0.2, metavar="X", help="of its logs (default: 0.2)")
    group.add_argument(
        "--word-bonus", type=float, metavar="LOG", help="for each word (default: 1 with a language model, else 0)"
    )
    group.add_argument("--beam", type=int, metavar="N", help="hypotheses that are kept (default: 16)")


def _decoding(args: argparse.Namespace, n_best: int = 1) -> Decoding:
    from sru_asr.decoding import read_decoding

    try:
        return read_decoding(
            args.lm,
            args.lm_unit,
            args.lm_weight,
            args.word_bonus,
            args.lexicon,
            args.hotwords,
            args.boost,
            args.beam,
            n_best,
        )
    except ValueError as error:
        raise CommandError(str(error)) from error


def _load(args: argparse.Namespace) -> Recognizer:
    from sru_asr.model import SHIPPED, CheckpointError, load_model

    device = _device(args)
    try:
        return load_model(SHIPPED if args.model is None else args.model).to(device)
    except CheckpointError as error:
        raise CommandError(str(error)) from error


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


def _progress(items: Iterable[T], total: int) -> Iterable[T]:
    """A progress bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, total=total, description="", console=console, transient=True, disable=not console.is_terminal)


def _transcribe(args: argparse.Namespace) -> int:
    if args.format in {"srt", "vtt"} and len(args.audio) > 1:
        raise CommandError(f"--format {args.format}: subtitles are of one file, found {len(args.audio)}")
    if args.n_best < 1 or (args.n_best > 1 and args.format != "json"):
        raise CommandError("--n-best: expected at least 1, and --format json for more than one")
    decoding = _decoding(args, args.n_best)
    model = _load(args)
    from sru_asr import subtitles
    from sru_asr.audio import AudioError
    from sru_asr.precision import arithmetic

    n_failed = 0
    for path in args.audio:
        try:
            with arithmetic(model, args.precision):
                transcript = model.transcribe(path, decoding)
        except AudioError as error:
            n_failed += 1
            print(f"sru-asr: {error}", file=sys.stderr)
            if args.format == "json":
                print(json.dumps({"audio": path, "error": str(error)}, ensure_ascii=False), flush=True)
            continue
        if args.format == "json":
            found = asdict(transcript)
            for name in ("words", "alternatives"):
                found[name] = [one._asdict() for one in getattr(transcript, name)]
            print(json.dumps({"audio": path, **found}, ensure_ascii=False, allow_nan=False), flush=True)
        elif args.format != "txt":
            print(getattr(subtitles, args.format)(transcript.words), end="", flush=True)
        else:
            print(f"{path}\t{transcript}" if len(args.audio) > 1 else transcript, flush=True)
    if n_failed == len(args.audio):
        return UNUSABLE
    return SOME_FAILED if n_failed else OK


def _stream(args: argparse.Namespace) -> int:
    decoding = _decoding(args)
    model = _load(args)
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
        pieces = from_pcm(sys.stdin.buffer, args.rate)
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
                    if caption.final:
                        console.print(Text(caption.text))
                    last_line.update(Text("" if caption.final else caption.text, style="dim"))

            yield show
        return

    def write(captions: Iterable[Caption]) -> None:
        for caption in captions:
            if format == "json":
                words = [word._asdict() for word in caption.words]
                print(json.dumps({"text": caption.text, "final": caption.final, "words": words}), flush=True)
            elif caption.final:
                print(caption.text, flush=True)

    yield write


def _serve(args: argparse.Namespace) -> int:
    decoding = _decoding(args)
    key = None
    if args.api_key_file is not None:
        try:
            key = args.api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"--api-key-file: {args.api_key_file} cannot be read: {error}") from error
        if not key:
            raise CommandError(f"--api-key-file: {args.api_key_file} is empty, expected a key")
    if not 0 <= args.lookahead_share < 1:
        raise CommandError(f"--lookahead-share: expected a share from 0 to below 1, found {args.lookahead_share}")
    if args.streams < 1 or args.megabytes < 1 or not 0 <= args.port <= 65_535:
        raise CommandError("expected --streams and --megabytes of at least 1 and a --port of 0 to 65535")
    try:
        import python_multipart  # noqa: F401 (FastAPI names it only once it is missing)

        from sru_asr.serve.app import create_app
        from sru_asr.serve.limits import LOOPBACK, Limits
        from sru_asr.serve.run import listen
        from sru_asr.serve.run import run as serve
    except ModuleNotFoundError as error:
        raise CommandError(f"serving needs {error.name}: pip install 'sru-asr[serve]'") from error
    from sru_asr.voice import Voice, VoiceError

    try:
        if args.vad:
            Voice()
    except VoiceError as error:
        raise CommandError(str(error)) from error
    model = _load(args)
    limits = Limits(
        api_key=key,
        hosts=LOOPBACK if args.host in LOOPBACK else (),
        origins=tuple(args.origin),
        most_streams=args.streams,
        most_bytes=args.megabytes << 20,
        lookahead_share=args.lookahead_share,
    )
    name = "alphanum-en" if args.model is None else Path(args.model).resolve().name
    try:
        listening = listen(args.host, args.port)
    except OSError as error:
        raise CommandError(f"cannot listen on {args.host}:{args.port}: {error.strerror}") from error
    serve(create_app(model, name, limits, args.vad, args.precision, decoding), listening)
    return OK


def _evaluate(args: argparse.Namespace) -> int:
    if args.json is not None and not args.json.parent.is_dir():
        raise CommandError(f"--json: there is no folder {args.json.parent} to write {args.json.name} into")
    if args.json is not None and args.json.is_dir():
        raise CommandError(f"--json: {args.json} is a folder, expected the name of a file to write")
    decoding = _decoding(args)
    model = _load(args)
    from sru_asr.evaluation import evaluate
    from sru_asr.manifest import ManifestError, read_manifest
    from sru_asr.metrics import align_words
    from sru_asr.precision import arithmetic
    from sru_asr.windows import window_of

    try:
        cuts, faults = read_manifest(args.manifest)
    except ManifestError as error:
        raise CommandError(str(error)) from error
    try:
        window = (0, 0) if args.latency is None else window_of(args.latency, model.frames_per_second)
    except ValueError as error:
        raise CommandError(f"--latency: {error}") from error
    with arithmetic(model, args.precision):
        evaluation = evaluate(model, cuts, chunk=window[0], lookahead=window[1], decoding=decoding, progress=_progress)
    evaluation.faults[:0] = faults
    # Where nothing is right, it is another kind of file, and its first lines tell.
    shown = evaluation.faults if evaluation.results else evaluation.faults[:MOST_FAULTS]
    for fault in shown:
        print(f"sru-asr: {fault}", file=sys.stderr)
    if rest := len(evaluation.faults) - len(shown):
        print(f"sru-asr: ... and {rest} more", file=sys.stderr)
    for result in evaluation.results:
        if args.alignments == "all" or (args.alignments == "errors" and result.words.errors):
            print(f"{result.id}  {result.words.errors} of {result.words.reference} words wrong")
            print(align_words(result.reference, result.hypothesis) + "\n")
    if args.speakers:
        for speaker, counts in sorted(evaluation.speakers.items(), key=lambda item: -item[1].rate):
            print(f"{speaker or '(no speaker)'}  WER {100 * counts.rate:.2f} %  of {counts.reference} words")
    if not evaluation.results:
        raise CommandError(f"{args.manifest}: no utterance could be evaluated")
    print(evaluation.summary())
    if args.json is not None:
        try:
            args.json.write_text(
                json.dumps(
                    {
                        "precision": args.precision,
                        "device": args.device,
                        "latency_ms": args.latency,
                        "chunk": window[0],
                        "lookahead": window[1],
                        **evaluation.to_dict(),
                    },
                    indent=1,
                    ensure_ascii=False,
                    allow_nan=False,
                )
                + "\n",
                encoding="utf-8",
                errors="backslashreplace",
            )
        except OSError as error:
            raise CommandError(f"--json: {args.json} cannot be written: {error.strerror}") from error
    return SOME_FAILED if evaluation.faults else OK


def _info(args: argparse.Namespace) -> int:
    import importlib.metadata
    import platform

    import torch

    from sru_asr.build import find_nvcc, library

    facts: dict[str, Any] = {"sru_asr": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in ("torch", "torchaudio", "pytorch-lightning", "lhotse", "jiwer", "ninja"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    facts["threads"] = torch.get_num_threads()
    facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    try:
        facts["nvcc"] = find_nvcc()
    except BuildError:
        facts["nvcc"] = "not found: no kernels for GPUs"
    try:
        facts["library"] = str(library())
        from sru_asr.ops import kernel_name, kernel_reason

        facts["kernels"] = kernel_name()
        facts["because"] = kernel_reason()
        status = OK
    except BuildError as error:
        facts["kernels"] = f"unusable: {error}"
        status = UNUSABLE
    if args.format == "json":
        print(json.dumps(facts, indent=1))
    else:
        width = max(map(len, facts))
        print("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))
    return status


if __name__ == "__main__":
    sys.exit(main())
