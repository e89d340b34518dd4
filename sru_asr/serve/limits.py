"""What clients of the server may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from sru_asr.windows import LOOKAHEAD_SHARE

# Names of a server that listens on this machine only.
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Limits:
    """What is allowed to whom.

    Attributes:
        api_key: that clients have to name; None for none.
        hosts: names by which the server may be called; empty for any. Where it listens on this machine only, a page
            whose name was made to lead here would otherwise be one of ours (DNS rebinding).
        origins: of pages, besides the server's own, whose scripts may ask.
        most_streams: live sessions at a time.
        most_stream_seconds: of a live session, by its audio and by the clock.
        most_bytes: of an uploaded file.
        most_seconds: of its audio.
        lookahead_share: of the latency that a client asks for; see `sru_asr.window_of`.
        most_files: being uploaded, recognised or waiting to be; who comes then is told to come later.
    """

    api_key: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    most_streams: int = 200
    most_stream_seconds: float = 4 * 3600.0
    most_bytes: int = 25 << 20
    most_seconds: float = 3600.0
    most_files: int = 8
    lookahead_share: float = LOOKAHEAD_SHARE
