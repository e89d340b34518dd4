"""The server's addresses: what may be asked, and what the answers look like.

POST /v1/audio/transcriptions   a file, as the `openai` client sends it
WS   /v1/stream                 live audio; see `stream` for the protocol
GET  /                          a page on which one speaks, or hands in a file, and reads along
GET  /v1/models, /health, /metrics
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Route
from starlette.websockets import WebSocketDisconnect

from sru_asr import __version__
from sru_asr.audio import AudioError
from sru_asr.decoding import GREEDY, Decoding
from sru_asr.serve.conversation import Refused, converse, say
from sru_asr.serve.engine import INTERNAL, Busy, Engine, Round, SessionError
from sru_asr.serve.files import NO_ROOM, Files, Full, Gone
from sru_asr.serve.guard import UPLOADS, Guard, error_response
from sru_asr.serve.limits import Limits
from sru_asr.subtitles import srt, vtt
from sru_asr.transcribe import Transcript
from sru_asr.words import utterances

if TYPE_CHECKING:
    from sru_asr.model import Recognizer

PAGE = Path(__file__).with_name("page")  # on which one speaks and reads along
logger = logging.getLogger(__name__)

# What live sessions have to be computed and read, and files to be recognised, once the server is told to stop.
LIVE_DRAIN_SECONDS, FILE_DRAIN_SECONDS = 10.0, 60.0


class Metrics:
    """What Prometheus may know."""

    def __init__(self, engine: Callable[[], Engine], files: Files) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        streams = Gauge("sru_asr_streams", "live sessions that are open", **make)
        streams.set_function(lambda: len(engine().sessions))
        places = Gauge("sru_asr_files", "files being uploaded, recognised or waiting to be", **make)
        places.set_function(lambda: files.taken)
        self.audio = Counter("sru_asr_audio_seconds", "audio recognised", ["kind"], **make)
        self.errors = Counter("sru_asr_errors", "requests and sessions that ended with an error", ["kind"], **make)
        self.batch = Histogram(
            "sru_asr_batch_sessions", "sessions computed together", buckets=(1, 2, 5, 10, 20, 50, 100, 200), **make
        )
        self.compute = Histogram(
            "sru_asr_batch_seconds", "time a batch takes", buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5), **make
        )
        self.lag = Histogram(
            "sru_asr_lag_seconds",
            "time between the arrival of live audio and its recognition",
            buckets=(0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5),
            **make,
        )

    def count(self, batch: Round) -> None:
        """Take in a batch of live audio."""
        self.audio.labels("live").inc(batch.audio_seconds)
        self.batch.observe(len(batch.lag_seconds))
        self.compute.observe(batch.compute_seconds)
        for seconds in batch.lag_seconds:
            self.lag.observe(seconds)


def create_app(
    model: Recognizer,
    name: str = "alphanum-en",
    limits: Limits | None = None,
    vad: bool = False,
    precision: str = "float32",
    decoding: Decoding = GREEDY,
) -> FastAPI:
    """The server as an ASGI application; `sru-asr serve` runs it.

    Args:
        model: in evaluation mode.
        name: what clients see it called.
        limits: what they may ask for.
        vad: whether live sessions are heard by silero-vad, too; see `sru_asr.Live`.
        precision: of the arithmetic; see `sru_asr.precision`.
        decoding: greedy, or by a search.
    """
    limits = limits or Limits()
    files = Files(model, limits, precision, decoding)
    about = {"id": name, "object": "model", "created": 0, "owned_by": "sru_asr"}
    metrics = Metrics(lambda: app.state.engine, files)

    async def drain() -> None:
        """Take nothing new and finish what there is, in the time that it has."""
        await asyncio.gather(app.state.engine.drain(LIVE_DRAIN_SECONDS), files.drain(FILE_DRAIN_SECONDS))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.engine = Engine(model, limits.most_streams, metrics.count, vad, precision, decoding)
        computing = asyncio.create_task(app.state.engine.run())
        try:
            yield
            if not files.stopped:
                await drain()
        finally:
            computing.cancel()
            files.stop()

    # No pages of FastAPI's own: they load scripts from elsewhere.
    app = FastAPI(title="sru_asr", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.drain, app.state.stop = drain, files.stop
    app.add_middleware(Guard, limits=limits, files=files, count_error=metrics.errors.labels("request").inc)
    if limits.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=limits.origins, allow_methods=["GET", "POST"], allow_headers=["*"]
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = str(first["loc"][-1]) if first.get("loc") else None
        if param == "file" and "UploadFile" in first["msg"]:
            return error_response(400, "file: expected a file, found text; for curl -F file=@speech.wav", param)
        return error_response(400, f"{param}: {first['msg']}", param)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        if isinstance(error.__cause__, OSError):  # of the folder for temporary files, where a form waits
            logger.error("an upload could not be kept: %s", error.__cause__)
            return error_response(503, NO_ROOM)
        return error_response(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        metrics.errors.labels("request").inc()  # this answer does not pass by the guard
        return error_response(500, INTERNAL)

    @app.get("/health")
    async def health() -> JSONResponse:
        engine = app.state.engine
        status = "failed" if engine.failed else "stopping" if engine.closing else "ok"
        found = {"status": status, "model": name, "streams": len(engine.sessions)}
        return JSONResponse(found, 200 if status == "ok" else 503)

    @app.get("/metrics")
    async def show_metrics() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [about]}

    @app.get("/v1/models/{model_name}")
    async def one_model(model_name: str) -> dict[str, Any]:
        if model_name != name:
            raise HTTPException(404, f"expected the model {name!r}, found {model_name!r}")
        return about

    @app.post(UPLOADS)
    async def transcriptions(
        request: Request,
        file: Annotated[UploadFile, File()],
        response_format: Annotated[Literal["json", "text", "srt", "vtt", "verbose_json"], Form()] = "json",
        language: Annotated[str, Form(max_length=20)] = "en",
        stream: Annotated[bool, Form()] = False,
    ) -> Response:
        """What is said in a file. Fields of OpenAI's API that mean nothing here are passed over."""
        if re.split("[-_]", language.strip().lower())[0] not in {"en", "eng", "english"}:
            raise HTTPException(400, f"language: this model knows English (en) only, found {language!r}")
        if stream and response_format not in {"json", "text"}:
            raise HTTPException(400, f"stream: expected a response_format of json or text, found {response_format!r}")
        try:
            transcript = await files.recognise(await file.read(), request.is_disconnected)
        except AudioError as error:
            raise HTTPException(400, f"file: {error}") from error
        except Gone:
            return Response(status_code=499)  # as nginx calls it; nobody reads it
        except Full as error:
            raise HTTPException(503, str(error)) from error
        metrics.audio.labels("file").inc(transcript.seconds)
        if stream:
            return _events(transcript.text)
        return _formatted(transcript, response_format, model.frames_per_second)

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        """Live audio.

        The client sends `{"type": "start", "sample_rate": 16000, "latency_ms": 320}`, then binary messages of raw
        samples (signed 16 bits, little-endian, one channel), then `{"type": "end"}`. The server answers
        `{"type": "ready"}`, as words are recognised `{"type": "partial" or "final", "text": ..., "words": [{"text",
        "start", "end"}, ...]}`, and in the end `{"type": "end"}`; or `{"type": "error", "message": ...}`, and closes.
        Times are seconds of the stream.
        """
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect, Refused):  # who has gone, or does not read, is not told
            code = 1000
            try:
                await converse(socket, app.state.engine, name, limits)
            except WebSocketDisconnect:
                raise
            except Exception as error:
                metrics.errors.labels("stream").inc()
                message = str(error)
                if not isinstance(error, (Refused, Busy, SessionError)):
                    logger.exception("a live session failed")
                    message = INTERNAL
                code = 1013 if isinstance(error, Busy) else 1008
                await say(socket, {"type": "error", "message": message})
            with contextlib.suppress(RuntimeError):  # Starlette's for a connection that is closed
                await socket.close(code)

    for path in PAGE.iterdir():
        app.router.routes.append(Route("/" if path.name == "index.html" else f"/{path.name}", _file(path)))
    return app


def _file(path: Path) -> Callable[[Request], FileResponse]:
    return lambda request: FileResponse(path)


def _events(text: str) -> Response:
    """As OpenAI's API has answers that come in pieces: all of it is one."""
    events = [
        {"type": "transcript.text.delta", "delta": text},
        {"type": "transcript.text.done", "text": text},
    ]
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return Response(f"{lines}data: [DONE]\n\n", media_type="text/event-stream")


def _formatted(transcript: Transcript, response_format: str, frames_per_second: float) -> Response:
    """As OpenAI's API has it."""
    if response_format == "text":
        return PlainTextResponse(f"{transcript.text}\n")
    if response_format in {"srt", "vtt"}:
        return PlainTextResponse((srt if response_format == "srt" else vtt)(transcript.words))
    if response_format == "json":
        return JSONResponse({"text": transcript.text})
    said = utterances(transcript.words)
    # Of a segment by itself nothing is known of these but the average.
    unknown = {
        "seek": 0,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": transcript.score / max(transcript.seconds * frames_per_second, 1),
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }
    segments = [
        {"id": number, "start": of_one[0].start, "end": of_one[-1].end, "text": " ".join(word.text for word in of_one)}
        | unknown
        for number, of_one in enumerate(said)
    ]
    return JSONResponse(
        {
            "task": "transcribe",
            "language": "english",
            "duration": transcript.seconds,
            "text": transcript.text,
            "segments": segments,
            "words": [{"word": word.text, "start": word.start, "end": word.end} for word in transcript.words],
        }
    )
