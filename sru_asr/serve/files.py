"""Uploaded files, recognised one after the other in a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from torch import Tensor

from sru_asr.audio import AudioError, blocks, header
from sru_asr.decoding import GREEDY, Decoding
from sru_asr.precision import arithmetic
from sru_asr.serve.limits import Limits
from sru_asr.transcribe import LONGEST_WHOLE_SECONDS, Transcript, recognise

if TYPE_CHECKING:
    from sru_asr.model import Recognizer

# What is decoded to learn how long a file is, for each second that it may last: as much as a film's sound has.
MOST_VALUES_PER_SECOND = 2 * 48_000
STOPS = "the server is about to stop: try again in a moment"
NO_ROOM = "the server has no room for the upload: try again later"

logger = logging.getLogger(__name__)

# After which one looks again whether a client still waits.
LOOK_SECONDS = 0.5


class Gone(Exception):
    """Who sent a file does not wait for it any more."""


class Full(Exception):
    """There is no room for a file now; the message is for its client."""


class Files:
    """The thread and its queue. All methods are for the thread of the event loop.

    Args:
        model: in evaluation mode.
        limits: of what is recognised.
        precision: see `sru_asr.precision.arithmetic`.
        decoding: greedy, or by a search.

    Attributes:
        taken: places.
        closing: whether no new files are taken.
    """

    def __init__(
        self, model: Recognizer, limits: Limits, precision: str = "float32", decoding: Decoding = GREEDY
    ) -> None:
        self._model = model
        self._limits = limits
        self._precision = precision
        self._decoding = decoding
        self.taken = 0
        self.closing = self.stopped = False
        self._thread = ThreadPoolExecutor(1, "files")

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Room for a file, from before it is uploaded until its answer is sent.

        Raises:
            Full: there is none.
        """
        if self.closing:
            raise Full(STOPS)
        if self.taken >= self._limits.most_files:
            raise Full("too many files are waiting: try again later")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def recognise(self, content: bytes, has_gone: Callable[[], Awaitable[bool]]) -> Transcript:
        """What is said in a file.

        Args:
            content: of the file.
            has_gone: whether nobody waits for it any more.

        Raises:
            AudioError: it is none, or longer than may be; the message says nothing of where the server keeps it.
            Full: the server has no time left for it.
            Gone: nobody waits for it.
        """
        gone = Event()
        try:
            working = asyncio.get_running_loop().run_in_executor(self._thread, self._recognise, content, gone)
            while not (await asyncio.wait({working}, timeout=LOOK_SECONDS))[0]:
                if await has_gone():
                    gone.set()
                    working.cancel()
                    raise Gone
            return working.result()
        except (RuntimeError, asyncio.CancelledError) as error:  # of the executor, which has been shut down
            gone.set()
            if self.stopped:
                raise Full(STOPS) from error
            raise

    async def drain(self, seconds: float) -> None:
        """Take no new files, and give those that there are some time."""
        self.closing = True
        until = time.monotonic() + seconds
        while self.taken and time.monotonic() < until:
            await asyncio.sleep(0.02)

    def stop(self) -> None:
        """Leave off. What is being recognised ends within its next half minute of audio, a fraction of a second."""
        self.closing = self.stopped = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _recognise(self, content: bytes, gone: Event) -> Transcript:
        most_seconds = self._limits.most_seconds
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "upload"
            try:
                path.write_bytes(content)
            except OSError as error:
                logger.error("an upload could not be kept: %s", error)
                raise Full(NO_ROOM) from error
            try:
                seconds = header(path, int(most_seconds * MOST_VALUES_PER_SECOND)).seconds
                if seconds > most_seconds:
                    raise AudioError(f"expected audio of at most {most_seconds:g} s, found {seconds:.0f} s")
                with arithmetic(self._model, self._precision):
                    pieces = self._while_wanted(blocks(path, LONGEST_WHOLE_SECONDS), gone)
                    return recognise(self._model, pieces, "the file", self._decoding)
            except AudioError as error:
                message = str(error).replace(f"{os.fspath(path)}: ", "").replace(os.fspath(path), "FILE")
                raise AudioError(message) from error

    def _while_wanted(self, pieces: Iterator[Tensor], gone: Event) -> Iterator[Tensor]:
        for piece in pieces:
            if self.stopped:
                raise Full(STOPS)
            if gone.is_set():
                raise Gone
            yield piece
