"""Words with times to subtitles, as SubRip (.srt) and WebVTT (.vtt) files have them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sru_asr.words import Word

# What subtitlers recommend: two lines of 42 characters at most, no longer than seven seconds, a new one after a pause.
LINE_CHARACTERS, LINES = 42, 2
LONGEST_SECONDS = 7.0
PAUSE_SECONDS = 0.7
# A cue is there a little before its first word and stays a little after its last.
BEFORE_SECONDS, AFTER_SECONDS = 0.1, 0.3


class Cue(NamedTuple):
    """What is shown at a time, in seconds; lines with line feeds between them."""

    start: float
    end: float
    text: str


def cues(words: Sequence[Word]) -> list[Cue]:
    """Divide words into cues, which do not overlap.

    Args:
        words: in the order in which they were said.
    """
    groups: list[list[Word]] = []
    for word in words:
        group = groups[-1] if groups else []
        fits = len(_lines([*group, word])) <= LINES and word.end - group[0].start <= LONGEST_SECONDS if group else False
        if group and fits and word.start - group[-1].end <= PAUSE_SECONDS:
            group.append(word)
        else:
            groups.append([word])
    found: list[Cue] = []
    for number, group in enumerate(groups):
        start = max(group[0].start - BEFORE_SECONDS, found[-1].end if found else 0.0)
        # Not into the next one's first word.
        latest = groups[number + 1][0].start if number + 1 < len(groups) else group[-1].end + AFTER_SECONDS
        found.append(Cue(start, max(min(group[-1].end + AFTER_SECONDS, latest), start), "\n".join(_lines(group))))
    return found


def _lines(words: Iterable[Word]) -> list[str]:
    """Fill lines one after the other; a word that is longer than one has a line of its own."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word.text) <= LINE_CHARACTERS:
            lines[-1] += f" {word.text}"
        else:
            lines.append(word.text)
    return lines


def srt(words: Sequence[Word]) -> str:
    """A SubRip file."""
    return "".join(
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{cue.text}\n\n"
        for number, cue in enumerate(cues(words), 1)
    )


def vtt(words: Sequence[Word]) -> str:
    """A WebVTT file."""
    escapes = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
    return "WEBVTT\n\n" + "".join(
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{cue.text.translate(escapes)}\n\n" for cue in cues(words)
    )


def _time(seconds: float, point: str) -> str:
    """As 01:02:03.456."""
    milliseconds = round(1000 * seconds)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
