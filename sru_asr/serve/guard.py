"""What is decided before a request reaches its address: whether it may come in, from where, and how large it is."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sru_asr.serve.files import STOPS, Files, Full
from sru_asr.serve.limits import Limits

UPLOADS = "/v1/audio/transcriptions"
UPLOAD_SECONDS = 300.0  # for all of a file
LOOK_SECONDS = 0.25  # after which one looks again whether the server stops
MULTIPART_BYTES = 1 << 16  # a form's other fields, and what is between them
HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::[0-9]*)?")


class Guard:
    """Middleware that refuses what may not come in.

    Args:
        app: all else.
        limits: what clients may do.
        files: where uploads take their places.
        count_error: is called for each request that is answered with an error.
    """

    def __init__(self, app: ASGIApp, limits: Limits, files: Files, count_error: Callable[[], None]) -> None:
        self._app = app
        self._limits = limits
        self._files = files
        self._count_error = count_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        if scope["type"] == "websocket":  # whose key may come in its first message, which is asked for there
            if self._is_foreign(headers):
                return await send({"type": "websocket.close", "code": 1008})
            return await self._app(scope, receive, send)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                self._count_error()
            await send(message)

        await self._answer(scope, headers, receive, counted)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope["path"], headers)
        if refusal is not None:
            return await refusal(scope, receive, send)
        if scope["method"] != "POST" or scope["path"] != UPLOADS:
            return await self._app(scope, receive, send)
        try:
            with self._files.place():
                await _Upload(self._files, receive, send).answered(self._app, scope)
        except Full as full:
            await error_response(503, str(full))(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> JSONResponse | None:
        limits = self._limits
        if self._is_foreign(headers):
            return error_response(403, "expected this server's own name and pages; --origin allows others")
        if path.startswith("/v1/") and not allowed(limits, bearer(headers)):
            return error_response(401, "expected 'Authorization: Bearer KEY' with this server's key", code="no_key")
        if "transfer-encoding" in headers:
            return error_response(411, "expected a Content-Length; requests in chunks are not taken")
        size = headers.get("content-length", "0")
        # (Of a number with thousands of digits no int is made.)
        if not size.isdecimal() or len(size) > 19 or int(size) > limits.most_bytes + MULTIPART_BYTES:
            return error_response(413, f"expected a file of at most {limits.most_bytes} bytes", "file", "too_large")
        return None

    def _is_foreign(self, headers: Headers) -> bool:
        """Whether a browser asks for a page of somebody else; programs that are no browsers name no origin."""
        host, origin, limits = headers.get("host", ""), headers.get("origin"), self._limits
        name = HOST.fullmatch(host)
        ours = {*limits.hosts, *(urlsplit(origin).hostname for origin in limits.origins)}
        if limits.hosts and (name is None or name["name"].strip("[]").lower() not in ours):
            return True
        if origin is None or origin in limits.origins:
            return False
        try:
            return urlsplit(origin).netloc != host
        except ValueError:  # half an IPv6 address
            return True


def error_response(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    """An error as OpenAI's API has them."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


def bearer(headers: Headers) -> str | None:
    """The key that a request names, as `Authorization: Bearer KEY`."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    # A header is read as Latin-1, whatever it was written in.
    return key.strip().encode("latin-1").decode(errors="replace") if scheme.lower() == "bearer" else None


def allowed(limits: Limits, key: str | None) -> bool:
    """Whether a client may ask at all; takes as long whatever it says."""
    return limits.api_key is None or hmac.compare_digest(
        (key or "").encode(errors="surrogatepass"), limits.api_key.encode()
    )


class _Upload:
    """A request whose body may take only so long, and is not waited for once the server is about to stop."""

    def __init__(self, files: Files, receive: Receive, send: Send) -> None:
        self._files = files
        self._receive = receive
        self._send = send
        self._until = asyncio.get_running_loop().time() + UPLOAD_SECONDS
        self._whole = False
        self._refusal: JSONResponse | None = None

    async def answered(self, app: ASGIApp, scope: Scope) -> None:
        """Let it be answered, or say why not all of it was waited for."""
        await app(scope, self.receive, self.send)
        if self._refusal is not None:
            await self._refusal(scope, self._receive, self._send)

    async def receive(self) -> Message:
        """As ASGI has it; what is not waited for is as what was broken off."""
        loop = asyncio.get_running_loop()
        while not self._whole:
            left = self._until - loop.time()
            if self._files.closing:
                self._refusal = error_response(503, STOPS)
            elif left <= 0:
                self._refusal = error_response(408, f"expected all of the file within {UPLOAD_SECONDS:g} s")
            if self._refusal is not None:
                return {"type": "http.disconnect"}
            try:
                message = await asyncio.wait_for(self._receive(), min(left, LOOK_SECONDS))
            except asyncio.TimeoutError:  # another one than Python's own before 3.11
                continue
            self._whole = not message.get("more_body", False)
            return message
        return await self._receive()

    async def send(self, message: Message) -> None:
        """As ASGI has it."""
        if self._refusal is None:
            await self._send(message)
