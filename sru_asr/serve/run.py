"""Running the server: where it listens, and how it stops."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
import time
from typing import Any

import uvicorn
from fastapi import FastAPI

try:
    from uvloop import run as run_loop  # takes half the time that asyncio's loop takes for a small message
except ModuleNotFoundError:  # as on Windows
    from asyncio import run as run_loop  # type: ignore[assignment]

from sru_asr.memory import keep_freed_memory
from sru_asr.serve.conversation import MOST_MESSAGE_BYTES

SWITCH_SECONDS = 0.0005
CLOSE_SECONDS = 5  # that connections have to end once they are told to
# What may wait in memory for a client to read it: more than any answer, and pongs come without end.
MOST_UNREAD_BYTES = 16 << 20
TICKS = 10  # of uvicorn's, a tenth of a second each, after which connections are looked at


class Server(uvicorn.Server):
    """uvicorn, which closes WebSockets at once when it is told to stop, but for what is still to be computed.

    And which would wait for ever for a client to read the end of what it is told.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending: dict[Any, float] = {}  # connections that are about to close, and since when

    async def on_tick(self, counter: int) -> bool:
        """Drop connections of clients that do not read; see uvicorn."""
        if counter % TICKS == 0:
            now, before, self._ending = time.monotonic(), self._ending, {}
            for connection in list(self.server_state.connections):
                transport = connection.transport
                if transport.is_closing():
                    self._ending[connection] = before.get(connection, now)
                late = now - self._ending.get(connection, now) > CLOSE_SECONDS
                if late or transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
                    transport.abort()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let engine and files finish first; a second Ctrl-C is not waited for."""
        state = self.config.app.state  # type: ignore[union-attr]
        draining = asyncio.create_task(state.drain())
        while not draining.done() and not self.force_exit:
            await asyncio.sleep(0.02)
        draining.cancel()
        state.stop()
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn would leave what runs to the loop, which cancels it: tracebacks
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            if self.server_state.tasks:
                await asyncio.wait(self.server_state.tasks, timeout=1)
            await self.lifespan.shutdown()


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve on.

    Args:
        host: address to listen on.
        port: 0 for any that is free; which one is said on standard error.

    Raises:
        OSError: it cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=2048)
    address = f"[{host}]" if ":" in host else host
    print(f"listening on http://{address}:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
    return listening


def run(app: FastAPI, listening: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM; the process is meant to end then, and passes over any more of them.

    Args:
        app: of `create_app`.
        listening: of `listen`; it is closed in the end.
    """
    with listening:
        config = uvicorn.Config(
            app,
            log_level="warning",
            ws_max_size=MOST_MESSAGE_BYTES,
            ws_per_message_deflate=False,  # samples do not get smaller, and a small message could become a large one
            ws_ping_timeout=None,  # who sends faster than is computed is read from late, its pongs, too
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        server = Server(config)
        # While it serves uvicorn has handlers of its own. A signal may come before that; and when all is done uvicorn
        # raises again what told it to stop, and another may come, with nothing left to be stopped.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, server.handle_exit)
        keep_freed_memory()
        # What has been loaded is not looked through for garbage again: that would keep everybody waiting.
        gc.collect()
        gc.freeze()
        # Two threads take turns in Python: none may have to wait 5 ms, the default, for its next.
        sys.setswitchinterval(SWITCH_SECONDS)
        run_loop(server.serve([listening]))
