"""Running the server: where it listens, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

from sru_asr.serve.app import DRAIN_SECONDS, MOST_MESSAGE_BYTES

CLOSE_SECONDS = 5  # that connections have to end once they are told to


class Server(uvicorn.Server):
    """uvicorn, which closes WebSockets at once when it is told to stop, but for what is still to be computed."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the engine finish first; a second Ctrl-C is not waited for."""
        draining = asyncio.create_task(self.config.app.state.engine.drain(DRAIN_SECONDS))  # type: ignore[union-attr]
        while not draining.done() and not self.force_exit:
            await asyncio.sleep(0.02)
        draining.cancel()
        await super().shutdown(sockets)


def run(app: FastAPI, host: str, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        app: of `create_app`.
        host: address to listen on.
        port: 0 for any that is free; which one is said on standard error.

    Raises:
        OSError: it cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=2048) as listening:
        address = f"[{host}]" if ":" in host else host
        print(f"listening on http://{address}:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
        config = uvicorn.Config(
            app,
            log_level="warning",
            ws_max_size=MOST_MESSAGE_BYTES,
            ws_per_message_deflate=False,  # samples do not get smaller, and a small message could become a large one
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        # uvicorn raises again, when all is done, what told it to stop. There is nothing left to be stopped then.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(Server(config).serve([listening]))
