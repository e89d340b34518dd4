"""Live audio by WebSocket: audio in and captions out, until both have ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any, Literal

from fastapi import WebSocket
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocketDisconnect

from sru_asr import __version__
from sru_asr.audio import SAMPLE_RATE
from sru_asr.live import PAUSE_SECONDS, Caption
from sru_asr.serve.engine import Ended, Engine, Session
from sru_asr.serve.guard import allowed, bearer
from sru_asr.serve.limits import Limits
from sru_asr.source import HIGHEST_RATE, LOWEST_RATE, ODD
from sru_asr.windows import window_of

# What a client may take before it says how it wants to be heard, and between pieces of audio.
START_SECONDS, IDLE_SECONDS = 10.0, 30.0
MOST_MESSAGE_BYTES = 1 << 20
MOST_TEXT = 4096  # characters of a message that is no audio; all of it is looked at while everybody else waits


class Refused(Exception):
    """What a client of a live session did that it may not; the message is for it."""


class Start(BaseModel):
    """The first message of a live session."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["start"]
    sample_rate: int = Field(SAMPLE_RATE, ge=LOWEST_RATE, le=HIGHEST_RATE)
    latency_ms: float = Field(320.0, ge=80, le=10_000)
    pause_seconds: float = Field(PAUSE_SECONDS, gt=0, le=60)
    api_key: str | None = None


async def converse(socket: WebSocket, engine: Engine, name: str, limits: Limits) -> None:
    """All of a session, on a connection that has been accepted; the caller says what was wrong, and closes.

    Raises:
        Refused: the client did what it may not.
        Busy, SessionError: as the engine says.
        WebSocketDisconnect: the client has gone.
    """
    start = await _start(socket, limits)
    window = window_of(start.latency_ms, engine.model.frames_per_second, limits.lookahead_share)
    session = engine.open(*window, rate=start.sample_rate, pause_seconds=start.pause_seconds)
    try:
        ready = {"type": "ready", "model": name, "chunk": window[0], "lookahead": window[1], "version": __version__}
        await say(socket, ready)
        reader = Reader()
        telling = asyncio.create_task(_tell(socket, session, reader))
        hearing = asyncio.create_task(_hear(socket, session, start, limits))
        silence = asyncio.create_task(
            _watch(lambda: session.idle_seconds, 'expected audio or {"type": "end"}, found nothing')
        )
        deafness = asyncio.create_task(_watch(lambda: reader.late_seconds, "nothing was read"))
        tasks = {telling, hearing, silence, deafness}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            fault = next((task.exception() for task in (deafness, hearing, silence) if task.done()), None)
            if isinstance(fault, Refused) and not deafness.done():
                session.end()  # what was said before is told
            elif fault is not None:
                raise fault
            # Which ends when the session does, be it because the server stops.
            await asyncio.wait({telling, deafness}, return_when=asyncio.FIRST_COMPLETED)
            await (telling if telling.done() else deafness)
            if fault is not None:
                raise fault
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
        await say(socket, {"type": "end", "seconds": round(session.seconds, 3)})
    finally:
        engine.close(session)


async def say(socket: WebSocket, message: dict[str, Any]) -> None:
    """Send a message to a client that reads.

    Raises:
        Refused: it does not.
        WebSocketDisconnect: it has gone.
    """
    try:
        await asyncio.wait_for(_send(socket, message), IDLE_SECONDS)
    except asyncio.TimeoutError:  # another one than Python's own before 3.11
        raise Refused(f"nothing was read for {IDLE_SECONDS:g} s") from None


async def _send(socket: WebSocket, message: dict[str, Any]) -> None:
    try:
        await socket.send_json(message)
    except RuntimeError as error:  # Starlette's and uvicorn's for a connection that is closed
        raise WebSocketDisconnect(reason=str(error)) from error


async def _start(socket: WebSocket, limits: Limits) -> Start:
    try:
        message = await asyncio.wait_for(_receive(socket), START_SECONDS)
    except asyncio.TimeoutError:  # another one than Python's own before 3.11
        raise Refused(f"expected a start message within {START_SECONDS:g} s") from None
    if isinstance(message, bytes):
        raise Refused('expected {"type": "start"} first, found audio')
    try:
        start = Start.model_validate(message)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused(f"start: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if not allowed(limits, start.api_key or bearer(socket.headers)):
        raise Refused("expected this server's api_key in the start message, or as 'Authorization: Bearer KEY'")
    return start


class Reader:
    """How a client takes what it is told."""

    def __init__(self) -> None:
        self.told: float | None = None  # since when it has been told what it has not taken

    @property
    def late_seconds(self) -> float:
        """For how long it has not."""
        return 0.0 if self.told is None else time.monotonic() - self.told


async def _tell(socket: WebSocket, session: Session, reader: Reader) -> None:
    while (caption := await session.next()) is not None:
        reader.told = time.monotonic()
        await _send(socket, _message(caption))
        reader.told = None


async def _watch(seconds: Callable[[], float], what: str) -> None:
    """Wait until something has lasted for too long; a time-out for each message would cost as much as the message.

    Raises:
        Refused: it has.
    """
    while (left := IDLE_SECONDS - seconds()) > 0:
        await asyncio.sleep(left)
    raise Refused(f"{what} for {IDLE_SECONDS:g} s")


async def _hear(socket: WebSocket, session: Session, start: Start, limits: Limits) -> None:
    """Take in audio until the client ends the session, or the server, which is about to stop."""
    loop = asyncio.get_running_loop()
    opened, n_bytes = loop.time(), 0
    with contextlib.suppress(Ended):
        while isinstance(message := await _receive(socket), bytes):
            n_bytes += len(message)
            too_much = n_bytes > 2 * start.sample_rate * limits.most_stream_seconds
            if too_much or loop.time() - opened > limits.most_stream_seconds + IDLE_SECONDS:
                raise Refused(f"a session lasts at most {limits.most_stream_seconds:g} s: open another one")
            await session.send(message)
        if message != {"type": "end"}:
            raise Refused('expected audio or {"type": "end"}')
        session.end()
        if n_bytes % 2:
            raise Refused(ODD)


async def _receive(socket: WebSocket) -> bytes | dict[str, Any]:
    """The next message: audio, or an object."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    if (audio := message.get("bytes")) is not None:
        return audio
    if len(text := message["text"]) > MOST_TEXT:
        raise Refused(f"expected a JSON object of at most {MOST_TEXT} characters or binary audio, found {len(text)}")
    try:
        found = json.loads(text)
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
