"""`sru-asr serve`: recognition for others."""

from __future__ import annotations

import argparse
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sru_asr.commands.options import OK, CommandError, add_decoding, add_model, add_vad, command, decoding_of, load

DEFAULT_PORTS = {"http": 80, "https": 443}  # which browsers do not name


def add(commands: Any) -> None:
    """Describe its options."""
    parser = command(
        commands,
        "serve",
        run,
        "recognise files and live audio for others, by HTTP and WebSocket",
        "POST /v1/audio/transcriptions takes what the `openai` client sends, /v1/stream live audio; docs/serving.md\n"
        "describes both.\n"
        "Needs the extra serve: pip install 'sru-asr[serve]'. Ctrl-C stops it once what has been sent is recognised.\n"
        "example: sru-asr serve\n"
        "example: sru-asr serve --host 0.0.0.0 --port 8080 --api-key-file key.txt",
    )
    add_model(parser)
    add_decoding(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (default: 127.0.0.1, this machine)"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free (default: 8000)")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="a key that clients have to name")
    parser.add_argument(
        "--origin",
        action="append",
        default=[],
        metavar="URL",
        help="of pages elsewhere whose scripts may ask and stream, as https://example.org; may be given again",
    )
    add_vad(parser)
    parser.add_argument(
        "--lookahead-share",
        type=float,
        default=0.875,
        metavar="SHARE",
        help="the lookahead's share of the latency that clients ask for: with 0.5 about three times as many can be "
        "listened to, with more errors (default: 0.875)",
    )
    parser.add_argument("--streams", type=int, default=200, metavar="N", help="live sessions at a time (default: 200)")
    parser.add_argument("--megabytes", type=int, default=25, metavar="N", help="of an uploaded file (default: 25)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    decoding = decoding_of(args)
    key = None
    if args.api_key_file is not None:
        try:
            key = args.api_key_file.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"--api-key-file: {args.api_key_file} cannot be read: {error}") from error
        if not key:
            raise CommandError(f"--api-key-file: {args.api_key_file} is empty, expected a key")
        if not key.isprintable():  # as no header can carry
            raise CommandError(f"--api-key-file: expected one key in {args.api_key_file}, found several lines, or tabs")
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
    from sru_asr.model import SHIPPED, folder_of
    from sru_asr.voice import Voice, VoiceError

    try:
        if args.vad:
            Voice()
    except VoiceError as error:
        raise CommandError(str(error)) from error
    model = load(args, decoding)
    limits = Limits(
        api_key=key,
        hosts=(*LOOPBACK, args.host) if _is_loopback(args.host) else (),
        origins=tuple(map(_origin, args.origin)),
        most_streams=args.streams,
        most_bytes=args.megabytes << 20,
        lookahead_share=args.lookahead_share,
    )
    name = folder_of(SHIPPED if args.model is None else Path(args.model))
    try:
        listening = listen(args.host, args.port)
    except (OSError, TypeError, UnicodeError) as error:  # of a name that no encoding knows
        why = error.strerror if isinstance(error, OSError) else error
        raise CommandError(f"cannot listen on {args.host}:{args.port}: {why}") from error
    serve(create_app(model, name, limits, args.vad, args.precision, decoding), listening)
    return OK


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _origin(text: str) -> str:
    """As browsers name it."""
    try:
        parts = urlsplit(text)
        origin = (
            parts.scheme in DEFAULT_PORTS and parts.path in {"", "/"} and not parts.query and "@" not in parts.netloc
        )
        if origin and parts.hostname:
            host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
            host = f"[{host}]" if ":" in host else host
            port = "" if parts.port in {None, DEFAULT_PORTS[parts.scheme]} else f":{parts.port}"
            return f"{parts.scheme}://{host}{port}"
    except ValueError:  # half an IPv6 address, no port, a name that cannot be
        pass
    raise CommandError(f"--origin: expected scheme and host of pages, as https://example.org, found {text!r}")
