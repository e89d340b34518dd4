"""The server's addresses: what may be asked, by whom, how much of it, and what the answers look like.

POST /v1/audio/transcriptions   a file, as the `openai` client sends it
WS   /v1/stream                 live audio; see `stream` for the protocol
GET  /v1/models, /health, /metrics
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.websockets import WebSocketDisconnect

from sru_asr import __version__
from sru_asr.audio import SAMPLE_RATE, AudioError, header
from sru_asr.live import PAUSE_SECONDS, Caption
from sru_asr.serve.engine import Busy, Ended, Engine, Round, Session, SessionError
from sru_asr.source import HIGHEST_RATE, LOWEST_RATE, Pcm
from sru_asr.subtitles import srt, vtt
from sru_asr.transcribe import Transcript
from sru_asr.windows import window_of

if TYPE_CHECKING:
    from sru_asr.model import Recognizer

# What a client may take before it says how it wants to be heard, and between pieces of audio.
START_SECONDS, IDLE_SECONDS = 10.0, 30.0
MOST_MESSAGE_BYTES = 1 << 20
MULTIPART_BYTES = 1 << 16  # a form's other fields, and what is between them
DRAIN_SECONDS = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What clients may ask for.

    Attributes:
        api_key: that they have to name; None for none.
        origins: of pages, besides the server's own, whose scripts may open a WebSocket.
        most_streams: live sessions at a time.
        most_stream_seconds: of a live session's audio.
        most_bytes: of an uploaded file.
        most_seconds: of its audio.
        most_files: being recognised or waiting to be; who comes then is told to come later.
    """

    api_key: str | None = None
    origins: tuple[str, ...] = ()
    most_streams: int = 200
    most_stream_seconds: float = 4 * 3600.0
    most_bytes: int = 25 << 20
    most_seconds: float = 3600.0
    most_files: int = 8


class Start(BaseModel):
    """The first message of a live session."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["start"]
    sample_rate: int = Field(SAMPLE_RATE, ge=LOWEST_RATE, le=HIGHEST_RATE)
    latency_ms: float = Field(320.0, ge=80, le=10_000)
    pause_seconds: float = Field(PAUSE_SECONDS, gt=0, le=60)
    api_key: str | None = None


class Metrics:
    """What Prometheus may know."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        streams = Gauge("sru_asr_streams", "live sessions that are open", **make)
        streams.set_function(lambda: len(engine().sessions))
        self.audio = Counter("sru_asr_audio_seconds", "audio recognised", ["kind"], **make)
        self.errors = Counter("sru_asr_errors", "requests and sessions that ended with an error", ["kind"], **make)
        self.batch = Histogram(
            "sru_asr_batch_sessions", "sessions computed together", buckets=(1, 2, 5, 10, 20, 50, 100, 200), **make
        )
        self.compute = Histogram(
            "sru_asr_batch_seconds", "time a batch takes", buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5), **make
        )

    def count(self, batch: Round) -> None:
        """Take in a batch of live audio."""
        self.audio.labels("live").inc(batch.audio_seconds)
        self.batch.observe(batch.sessions)
        self.compute.observe(batch.compute_seconds)


def error_response(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    """An error as OpenAI's API has them."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


def create_app(model: Recognizer, name: str = "alphanum-en", limits: Limits | None = None) -> FastAPI:
    """The server as an ASGI application; `sru-asr serve` runs it.

    Args:
        model: in evaluation mode.
        name: what clients see it called.
        limits: what they may ask for.
    """
    limits = limits or Limits()
    metrics = Metrics(lambda: app.state.engine)
    files = ThreadPoolExecutor(1, "files")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.engine = Engine(model, limits.most_streams, metrics.count)
        computing = asyncio.create_task(app.state.engine.run())
        yield
        await app.state.engine.drain(DRAIN_SECONDS)
        computing.cancel()
        files.shutdown()

    # No pages of FastAPI's own: they load scripts from elsewhere.
    app = FastAPI(title="sru_asr", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.files = 0
    app.state.limits = limits

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.url.path.startswith("/v1/") and not _allowed(limits, _bearer(request.headers.get("authorization"))):
            return error_response(401, "expected 'Authorization: Bearer KEY' with this server's key", code="no_key")
        size = request.headers.get("content-length", "0")
        if not size.isdecimal() or int(size) > limits.most_bytes + MULTIPART_BYTES:
            return error_response(413, f"expected a file of at most {limits.most_bytes} bytes", "file", "too_large")
        if "chunked" in request.headers.get("transfer-encoding", ""):
            return error_response(411, "expected a Content-Length; requests in chunks are not taken")
        return await answer(request)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = str(first["loc"][-1]) if first.get("loc") else None
        return error_response(400, f"{param}: {first['msg']}", param)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": name, "streams": len(app.state.engine.sessions)}

    @app.get("/metrics")
    async def show_metrics() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "sru_asr"}]}

    @app.post("/v1/audio/transcriptions")
    async def transcriptions(
        file: Annotated[UploadFile, File()],
        response_format: Annotated[Literal["json", "text", "srt", "vtt", "verbose_json"], Form()] = "json",
        language: Annotated[str, Form(max_length=20)] = "en",
    ) -> Response:
        """What is said in a file. Fields of OpenAI's API that mean nothing here are passed over."""
        if language.lower() not in {"en", "english"}:
            raise HTTPException(400, f"language: this model knows English (en) only, found {language!r}")
        if app.state.files >= limits.most_files:
            raise HTTPException(503, "too many files are waiting: try again later")
        app.state.files += 1
        try:
            content = await file.read()
            loop = asyncio.get_running_loop()
            transcript = await loop.run_in_executor(files, _transcribe, model, content, limits)
        except AudioError as error:
            metrics.errors.labels("file").inc()
            raise HTTPException(400, f"file: {error}") from error
        finally:
            app.state.files -= 1
        metrics.audio.labels("file").inc(transcript.seconds)
        return _formatted(transcript, response_format)

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        """Live audio.

        The client sends `{"type": "start", "sample_rate": 16000, "latency_ms": 320}`, then binary messages of raw
        samples (signed 16 bits, little-endian, one channel), then `{"type": "end"}`. The server answers
        `{"type": "ready"}`, as words are recognised `{"type": "partial" or "final", "text": ..., "words": [{"text",
        "start", "end"}, ...]}`, and in the end `{"type": "end"}`; or `{"type": "error", "message": ...}`, and closes.
        Times are seconds of the stream.
        """
        if not _same_origin(socket, limits):
            await socket.close(1008)
            return
        await socket.accept()
        session: Session | None = None
        try:
            start = await _start(socket, limits)
            window = window_of(start.latency_ms, model.frames_per_second)
            session = app.state.engine.open(*window, pause_seconds=start.pause_seconds)
            await socket.send_json(
                {"type": "ready", "model": name, "chunk": window[0], "lookahead": window[1], "version": __version__}
            )
            await _converse(socket, session, start, limits)
        except (Refused, Busy, SessionError, AudioError) as error:
            metrics.errors.labels("stream").inc()
            code = 1013 if isinstance(error, Busy) else 1008
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await socket.send_json({"type": "error", "message": str(error)})
                await socket.close(code)
        except WebSocketDisconnect:
            pass
        finally:
            if session is not None:
                app.state.engine.close(session)

    return app


class Refused(Exception):
    """What a client of a live session did that it may not; the message is for it."""


async def _start(socket: WebSocket, limits: Limits) -> Start:
    try:
        message = await asyncio.wait_for(_receive(socket), START_SECONDS)
    except TimeoutError:
        raise Refused(f"expected a start message within {START_SECONDS:g} s") from None
    if isinstance(message, bytes):
        raise Refused('expected {"type": "start"} first, found audio')
    try:
        start = Start.model_validate(message)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused(f"start: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if not _allowed(limits, start.api_key or _bearer(socket.headers.get("authorization"))):
        raise Refused("expected this server's api_key in the start message, or as 'Authorization: Bearer KEY'")
    return start


async def _converse(socket: WebSocket, session: Session, start: Start, limits: Limits) -> None:
    """Audio in and captions out, until both have ended."""

    async def tell() -> None:
        while (caption := await session.next()) is not None:
            try:
                await asyncio.wait_for(socket.send_json(_message(caption)), IDLE_SECONDS)
            except TimeoutError:
                raise Refused(f"captions were not read for {IDLE_SECONDS:g} s") from None

    telling, hearing = asyncio.create_task(tell()), asyncio.create_task(_hear(socket, session, start, limits))
    try:
        await asyncio.wait({telling, hearing}, return_when=asyncio.FIRST_COMPLETED)
        if hearing.done():
            hearing.result()
        await telling  # which ends when the session does, be it because the server stops
        await socket.send_json({"type": "end", "seconds": round(session.seconds, 3)})
        await socket.close()
    finally:
        for task in (telling, hearing):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _hear(socket: WebSocket, session: Session, start: Start, limits: Limits) -> None:
    """Take in audio until the client ends the session, or the server, which is about to stop."""
    with contextlib.suppress(Ended):
        await _take_in(socket, session, start, limits)


async def _take_in(socket: WebSocket, session: Session, start: Start, limits: Limits) -> None:
    pcm, n_bytes = Pcm(start.sample_rate), 0
    while True:
        try:
            message = await asyncio.wait_for(_receive(socket), IDLE_SECONDS)
        except TimeoutError:
            raise Refused(f'expected audio or {{"type": "end"}}, found nothing for {IDLE_SECONDS:g} s') from None
        if not isinstance(message, bytes):
            if message != {"type": "end"}:
                raise Refused('expected audio or {"type": "end"}')
            await session.send(pcm.finish())
            session.end()
            return
        n_bytes += len(message)
        if n_bytes > 2 * start.sample_rate * limits.most_stream_seconds:
            raise Refused(f"a session has at most {limits.most_stream_seconds:g} s of audio: open another one")
        await session.send(pcm.push(message))


async def _receive(socket: WebSocket) -> bytes | dict[str, Any]:
    """The next message: audio, or an object."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    if (audio := message.get("bytes")) is not None:
        return audio
    try:
        found = json.loads(message["text"])
    except (ValueError, RecursionError):
        raise Refused("expected a JSON object or binary audio, found other text") from None
    if not isinstance(found, dict):
        raise Refused("expected a JSON object or binary audio, found other JSON")
    return found


def _message(caption: Caption) -> dict[str, Any]:
    return {
        "type": "final" if caption.final else "partial",
        "text": caption.text,
        "words": [word._asdict() for word in caption.words],
    }


def _bearer(authorization: str | None) -> str | None:
    return authorization.removeprefix("Bearer ") if authorization else None


def _allowed(limits: Limits, key: str | None) -> bool:
    """Whether a client may ask at all; takes as long whatever it says."""
    return limits.api_key is None or hmac.compare_digest((key or "").encode(), limits.api_key.encode())


def _same_origin(socket: WebSocket, limits: Limits) -> bool:
    """Whether the page that opens a WebSocket is one of ours; programs that are no browsers name none."""
    origin = socket.headers.get("origin")
    if origin is None or origin in limits.origins:
        return True
    try:
        return urlsplit(origin).netloc == socket.headers.get("host")
    except ValueError:  # half an IPv6 address
        return False


def _transcribe(model: Recognizer, content: bytes, limits: Limits) -> Transcript:
    """Recognise an uploaded file; in the thread for that."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        path.write_bytes(content)
        try:
            seconds = header(path).seconds
            if seconds > limits.most_seconds:
                raise AudioError(f"expected audio of at most {limits.most_seconds:g} s, found {seconds:.0f} s")
            return model.transcribe(path)
        except AudioError as error:
            raise AudioError(str(error).replace(f"{os.fspath(path)}: ", "").replace(os.fspath(path), "it")) from error


def _formatted(transcript: Transcript, response_format: str) -> Response:
    """As OpenAI's API has it."""
    if response_format == "text":
        return PlainTextResponse(f"{transcript.text}\n")
    if response_format in {"srt", "vtt"}:
        return PlainTextResponse((srt if response_format == "srt" else vtt)(transcript.words))
    if response_format == "json":
        return JSONResponse({"text": transcript.text})
    words = [{"word": word.text, "start": word.start, "end": word.end} for word in transcript.words]
    start, end = (words[0]["start"], words[-1]["end"]) if words else (0.0, 0.0)
    segment = {
        "id": 0,
        "seek": 0,
        "start": start,
        "end": end,
        "text": transcript.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": transcript.score,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }
    return JSONResponse(
        {
            "task": "transcribe",
            "language": "english",
            "duration": transcript.seconds,
            "text": transcript.text,
            "segments": [segment] if words else [],
            "words": words,
        }
    )
