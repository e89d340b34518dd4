"""Many live sessions on one model: what has come in from all of them is computed together, again and again."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sru_asr.audio import SAMPLE_RATE
from sru_asr.decoding import GREEDY, Decoding
from sru_asr.live import PAUSE_SECONDS, Caption, Live, hear
from sru_asr.precision import arithmetic
from sru_asr.source import Pcm
from sru_asr.stream import advance

if TYPE_CHECKING:
    from sru_asr.model import Recognizer

# Audio that may wait to be computed, in seconds for each session; who sends more waits.
MOST_WAITING_SECONDS = 10.0
# Of a session's audio, computed in a batch at most: who sends a file as fast as possible must not keep others waiting.
ROUND_SECONDS = 0.5
# The same, of rates above 52 kHz.
MOST_WAITING_BYTES = 1 << 20
# Pieces that may wait for the rest of a window: there is no end of them where each has a single sample.
MOST_PIECES = 100
# Final captions that may wait to be read; who reads none of so many has gone.
MOST_UNREAD = 1000

INTERNAL = "an internal error; the server's log has more"

logger = logging.getLogger(__name__)


class Busy(Exception):
    """There are as many sessions as there may be, or the engine is closing."""


class SessionError(Exception):
    """A session has ended early; the message is for its client."""


class Ended(Exception):
    """There was more audio after the end of a session, be it its client's or the server's."""


class Round(NamedTuple):
    """What a batch was like, for whoever counts."""

    audio_seconds: float
    compute_seconds: float
    lag_seconds: list[float]  # of each window, or end: between the arrival of the last of its audio and its captions


class Turn(NamedTuple):
    """What is computed of a session in a batch."""

    pcm: bytes
    since: float | None  # when the first window of it could have been computed; None if none can be
    ended: bool  # whether nothing will follow


class Said(NamedTuple):
    """What came of a turn."""

    captions: list[Caption]
    computed: bool = False  # whether of a window, or the end
    error: str | None = None  # that ends the session


class Session:
    """One speaker. All methods are for the thread of the event loop; `Engine.open` makes one.

    Bytes stay what they are until their turn: a window has several messages, each of which would cost as much as all
    of them to convert.

    Args:
        live: of the engine's model.
        rate: of the samples that are sent, in Hz.
        wake: tells the engine that there is something to do for this one.
    """

    def __init__(self, live: Live, rate: int, wake: Callable[[Session], None]) -> None:
        self._live = live
        self._pcm = Pcm(rate)
        self._wake = wake
        self._rate = rate
        self._most_bytes = min(int(MOST_WAITING_SECONDS * 2 * rate), MOST_WAITING_BYTES)
        self._round_bytes = int(ROUND_SECONDS * 2 * rate)
        self._inbox: deque[tuple[bytes, float]] = deque()  # with the time when it came
        self._waiting = 0  # bytes in it
        self._taken = 0  # bytes before it
        self._missing = self._bytes_missing()  # by the stream as it was before what is computed now
        self._ending = False
        self._ended = math.inf
        self._over = False
        self._error: str | None = None
        self._heard = time.monotonic()
        self._room = asyncio.Event()
        self._room.set()
        self._final: deque[Caption] = deque()
        self._partial: Caption | None = None
        self._news = asyncio.Event()

    async def send(self, pcm: bytes) -> None:
        """Take in samples as `Pcm` has them, any number of bytes; waits while too much is waiting.

        Raises:
            SessionError: the session has ended early.
            Ended: `end` has been called; this is not recognised.
        """
        for i in range(0, len(pcm), self._round_bytes):
            if not self._room.is_set():
                await self._room.wait()
            if self._error is not None:
                raise SessionError(self._error)
            if self._ending:
                raise Ended("this session has been ended: open another one for the next utterances")
            piece = pcm[i : i + self._round_bytes]
            self._heard = time.monotonic()
            self._inbox.append((piece, self._heard))
            self._waiting += len(piece)
            if self._waiting > self._most_bytes:
                self._room.clear()
            if self._due():
                self._wake(self)

    def end(self) -> None:
        """Say that nothing will follow. Captions of what was sent still come."""
        if not self._ending:
            self._ending = True
            self._ended = time.monotonic()
            self._wake(self)

    def abort(self, why: str = "the session was closed") -> None:
        """Forget what waits; nothing more will come."""
        self._error = self._error or why
        self._inbox.clear()
        self._over = True
        self._room.set()
        self._news.set()

    async def next(self) -> Caption | None:
        """The next caption; None after the last. Of several that are not final the newest is enough.

        Raises:
            SessionError: the session has ended early.
        """
        while True:
            if self._final:
                return self._final.popleft()
            if self._partial is not None:
                partial, self._partial = self._partial, None
                return partial
            if self._over:
                if self._error is not None:
                    raise SessionError(self._error)
                return None
            self._news.clear()
            await self._news.wait()

    @property
    def seconds(self) -> float:
        """Of audio, computed so far."""
        return self._live.stream.samples / SAMPLE_RATE

    @property
    def idle_seconds(self) -> float:
        """For how long no audio has come; 0 while too much is waiting."""
        return time.monotonic() - self._heard if self._room.is_set() else 0.0

    def _due(self) -> bool:
        """Whether a window can be computed; of less nothing can be said. Or whether too much waits for one."""
        enough = self._waiting >= self._missing or len(self._inbox) >= MOST_PIECES or not self._room.is_set()
        return not self._over and (self._ending or enough)

    def _bytes_missing(self) -> int:
        """For the next window."""
        stream = self._live.stream
        return 2 * self._pcm.needed(stream.samples + stream.missing) - self._taken

    def _take(self) -> Turn:
        since = None
        pieces: list[bytes] = []
        n_bytes = 0
        while self._inbox and (not pieces or n_bytes + len(self._inbox[0][0]) <= self._round_bytes):
            piece, came = self._inbox.popleft()
            pieces.append(piece)
            n_bytes += len(piece)
            if since is None and n_bytes >= self._missing:
                since = came
        ended = self._ending and not self._inbox
        if ended and since is None:
            since = self._ended
        self._waiting -= n_bytes
        self._taken += n_bytes
        if not self._room.is_set() and self._waiting <= self._most_bytes:
            self._heard = time.monotonic()
            self._room.set()
        return Turn(b"".join(pieces), since, ended)

    def _deliver(self, said: Said, ended: bool) -> None:
        if self._over:
            return
        for caption in said.captions:
            if caption.final:
                self._final.append(caption)
            self._partial = None if caption.final else caption
        if said.error is not None:
            return self.abort(said.error)
        if len(self._final) > MOST_UNREAD:
            return self.abort(f"{MOST_UNREAD} captions were not read")
        self._missing = self._bytes_missing()
        if self._due():
            self._wake(self)
        self._over = ended
        self._news.set()


class Engine:
    """Computes for all sessions, in a thread of its own; the event loop stays free.

    Args:
        model: in evaluation mode.
        most_sessions: that may be open at a time.
        count: is told of every batch.
        vad: as `Live` has it.
        precision: see `sru_asr.precision.arithmetic`.
        decoding: as `Live` has it.
    """

    def __init__(
        self,
        model: Recognizer,
        most_sessions: int = 200,
        count: Callable[[Round], None] = lambda _: None,
        vad: bool = False,
        precision: str = "float32",
        decoding: Decoding = GREEDY,
    ) -> None:
        self.model = model
        self.precision = precision
        self.decoding = decoding
        self.vad = vad
        self.most_sessions = most_sessions
        self.sessions: set[Session] = set()
        self.closing = self.failed = False
        self._count = count
        self._due: set[Session] = set()
        self._work = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "engine")

    def open(
        self, chunk: int, lookahead: int, rate: int = SAMPLE_RATE, pause_seconds: float = PAUSE_SECONDS
    ) -> Session:
        """A new session.

        Args:
            chunk: see `Live`.
            lookahead: likewise.
            rate: of the samples that will be sent, in Hz.
            pause_seconds: see `Live`.

        Raises:
            Busy: there is no room for it.
            ValueError: a window, a rate or a time that means nothing.
        """
        if self.failed:
            raise Busy("the server has failed, and has to be started anew; its log has more")
        if self.closing:
            raise Busy("the server is about to stop: try again in a moment")
        if len(self.sessions) >= self.most_sessions:
            raise Busy(f"all of {self.most_sessions} sessions are taken: try again later")
        live = Live(self.model, chunk, lookahead, pause_seconds, vad=self.vad, decoding=self.decoding)
        session = Session(live, rate, self._wake)
        self.sessions.add(session)
        return session

    def close(self, session: Session) -> None:
        """Forget a session. Whoever opened one must do so, whatever happens."""
        session.abort()
        self.sessions.discard(session)
        self._due.discard(session)

    def _wake(self, session: Session) -> None:
        self._due.add(session)
        self._work.set()

    async def run(self) -> None:
        """Compute until cancelled. If that fails, which nothing should make it, all sessions end and none may begin."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                due = [session for session in self._due if session._due()]
                self._due.clear()
                if not due:
                    continue
                turns = [session._take() for session in due]
                start = time.monotonic()
                done = await loop.run_in_executor(self._thread, self._compute, due, turns)
                for session, said, turn in zip(due, done, turns, strict=True):
                    session._deliver(said, turn.ended)
                now = time.monotonic()
                seconds = sum(len(turn.pcm) / (2 * session._rate) for session, turn in zip(due, turns, strict=True))
                lags = [
                    now - turn.since for turn, said in zip(turns, done, strict=True) if turn.since and said.computed
                ]
                self._count(Round(seconds, now - start, lags))
        except Exception:
            logger.exception("the engine failed")
            self.failed = True
            for session in self.sessions:
                session.abort(INTERNAL)
        finally:
            self._thread.shutdown(wait=False)

    async def drain(self, seconds: float) -> None:
        """Take no new sessions, end those that there are, and give them some time to be computed and read."""
        self.closing = True
        for session in self.sessions:
            session.end()
        until = time.monotonic() + seconds
        while self.sessions and time.monotonic() < until:
            await asyncio.sleep(0.01)

    def _compute(self, sessions: list[Session], turns: list[Turn]) -> list[Said]:
        """One batch. What is wrong with one session's audio is that session's fault alone."""
        failed = Said([], error=INTERNAL)
        done = [failed for _ in sessions]
        waveforms: dict[int, Tensor] = {}
        for number, (session, turn) in enumerate(zip(sessions, turns, strict=True)):
            try:
                waveform = session._pcm.push(turn.pcm)
                if turn.ended:
                    waveform = torch.cat([waveform, session._pcm.finish()])
                session._live.stream.accept(waveform)
                if turn.ended:
                    session._live.stream.end()
                waveforms[number] = waveform
            except Exception:
                logger.exception("a session's audio could not be taken in")
        lives = [sessions[number]._live for number in waveforms]
        try:
            hear(lives, list(waveforms.values()))
            with arithmetic(self.model, self.precision):
                computed = advance([live.stream for live in lives])
            for number, live, log_probs in zip(waveforms, lives, computed, strict=True):
                ended = turns[number].ended
                done[number] = Said(live.take(log_probs), len(log_probs) > 0 or ended)
        except Exception:
            logger.exception("a batch of %d sessions failed", len(lives))
            for number in waveforms:
                done[number] = failed
        return done
