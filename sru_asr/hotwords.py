"""Phrases that are likelier than the model thinks: names, codes, the vocabulary of a form; no retraining.

An automaton of Aho and Corasick (1975) over the characters of all phrases follows a text as it grows. A phrase that has
begun is worth a part of its boost at once, so that it survives a beam; the part is taken back if the text goes on
differently.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from sru_asr.text import normalize

DEFAULT_BOOST = 5.0
MOST_PHRASES, MOST_CHARACTERS = 100_000, 200
MOST_STATES = 500_000  # about the characters of all phrases; they take 300 bytes each
MOST_BYTES = 16 << 20
MOST_BOOST = 100.0


class HotwordError(ValueError):
    """A phrase or its boost is not as expected."""


class Hotwords:
    """Phrases with their boosts. A state, an int, stands for what of them the end of a text may be the beginning of.

    Args:
        boosts: natural logs that a whole phrase adds to the score of a hypothesis, by phrase, which is normalised as
            transcripts are (`sru_asr.text.normalize`). Negative ones make a phrase unlikelier.

    Raises:
        HotwordError: a phrase is empty or too long, all together are, or a boost is no number.
    """

    def __init__(self, boosts: Mapping[str, float]) -> None:
        if len(boosts) > MOST_PHRASES:
            raise HotwordError(f"expected at most {MOST_PHRASES} phrases, found {len(boosts)}")
        self.boosts = {normalize(phrase): boost for phrase, boost in boosts.items()}
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self._whole = [0.0]  # the boosts of the phrases that end in a state
        self._begun = [0.0]  # what the best of those that have begun is worth so far
        for phrase, boost in self.boosts.items():
            self._add(phrase, boost)
        self._link()
        self.start = self._follow(0, " ")

    def _add(self, phrase: str, boost: float) -> None:
        _check(phrase, boost)
        # Spaces around it, so that it is whole words only.
        text, state = f" {phrase} ", 0
        if len(self._next) + len(text) > MOST_STATES:
            raise HotwordError(f"expected phrases of {MOST_STATES} characters in all at most, found more")
        for number, character in enumerate(text):
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._fail.append(0)
                self._whole.append(0.0)
                self._begun.append(0.0)
            state = self._next[state][character]
            if boost > 0 and number < len(text) - 1:  # its first space is no sign of it
                self._begun[state] = max(self._begun[state], boost * number / (len(text) - 1))
        self._whole[state] += boost

    def _link(self) -> None:
        """Where to go on when a character fits none of the phrases begun: to the longest end that begins another."""
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            fail = self._fail[state]
            self._whole[state] += self._whole[fail]
            self._begun[state] = max(self._begun[state], self._begun[fail])
            for character, after in self._next[state].items():
                self._fail[after] = self._follow(fail, character)
                waiting.append(after)

    def _follow(self, state: int, character: str) -> int:
        while character not in self._next[state]:
            if state == 0:
                return 0
            state = self._fail[state]
        return self._next[state][character]

    def step(self, state: int, character: str) -> tuple[int, float]:
        """The state behind one more character, a space where words end, and the boosts of phrases that end there."""
        state = self._follow(state, character)
        return state, self._whole[state]

    def begun(self, state: int) -> float:
        """What a phrase that has begun is worth until it is whole, or is not."""
        return self._begun[state]


def _check(phrase: str, boost: float) -> None:
    """Refuse what is no phrase, as it is once normalised, or no boost."""
    if not phrase:
        raise HotwordError("expected a phrase, found nothing that could be said")
    if len(phrase) > MOST_CHARACTERS:
        raise HotwordError(f"expected a phrase of at most {MOST_CHARACTERS} characters, found {len(phrase)}")
    if not -MOST_BOOST <= boost <= MOST_BOOST:
        raise HotwordError(f"expected a boost from -{MOST_BOOST:g} to {MOST_BOOST:g}, found {boost} for {phrase!r}")


def read_hotwords(path: str | os.PathLike[str], boost: float = DEFAULT_BOOST) -> Hotwords:
    """Read a file with a phrase on each line, and its boost behind a tab where it has one of its own.

    Args:
        path: UTF-8; empty lines and those that begin with # mean nothing.
        boost: of phrases without one.

    Raises:
        HotwordError: it cannot be read, or a line is not as described.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise HotwordError(f"{path}: expected at most {MOST_BYTES} bytes, found {path.stat().st_size}")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HotwordError(f"{path}: cannot be read as text: {error}") from error
    if not -MOST_BOOST <= boost <= MOST_BOOST:
        raise HotwordError(f"expected a boost from -{MOST_BOOST:g} to {MOST_BOOST:g}, found {boost}")
    boosts: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        phrase, tab, own = line.partition("\t")
        try:
            value = float(own) if tab else boost
        except ValueError:
            value = math.nan
        if math.isnan(value):
            raise HotwordError(f"{path}, line {number}: expected PHRASE, or PHRASE, a tab and a boost, found {line!r}")
        phrase = normalize(phrase)
        try:
            _check(phrase, value)
        except HotwordError as error:
            raise HotwordError(f"{path}, line {number}, {line[:80]!r}: {error}") from None
        if boosts.setdefault(phrase, value) != value:
            raise HotwordError(
                f"{path}, line {number}, {line[:80]!r}: expected one boost for a phrase, found that it has been given "
                f"{boosts[phrase]:g} before"
            )
    if not boosts:
        raise HotwordError(f"{path}: expected a phrase on each line, found none")
    try:
        return Hotwords(boosts)
    except HotwordError as error:
        raise HotwordError(f"{path}: {error}") from error
