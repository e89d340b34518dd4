"""The words that may be recognised, where no others may."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path

from sru_asr.text import normalize

MOST_BYTES = 256 << 20


class LexiconError(ValueError):
    """There is no lexicon in what was given."""


class Lexicon:
    """A set of words that knows how each of them begins.

    Args:
        words: normalised, as transcripts are (`sru_asr.text.normalize`).

    Raises:
        LexiconError: there are none.
    """

    def __init__(self, words: Iterable[str]) -> None:
        if isinstance(words, str):
            raise LexiconError(f"expected words one by one, found a text: [{words[:40]!r}], or text.split()")
        # Sorted, the words that begin in one way are neighbours: no table of beginnings has to be kept.
        self.words = sorted({part for word in words for part in normalize(word).split()})
        if not self.words:
            raise LexiconError("expected words, found none")

    def __contains__(self, word: str) -> bool:
        place = bisect_left(self.words, word)
        return place < len(self.words) and self.words[place] == word

    def begins(self, part: str) -> bool:
        """Whether a word begins so."""
        place = bisect_left(self.words, part)
        return place < len(self.words) and self.words[place].startswith(part)


def read_lexicon(path: str | os.PathLike[str]) -> Lexicon:
    """Read a file of words: one on each line, pronunciations behind it being passed over, or texts.

    Args:
        path: UTF-8. Of a line with a tab only what stands before it counts, of others all words.

    Raises:
        LexiconError: it cannot be read, or has no words.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise LexiconError(f"{path}: expected at most {MOST_BYTES} bytes, found {path.stat().st_size}")
        with path.open(encoding="utf-8-sig") as lines:
            return Lexicon(line.partition("\t")[0] for line in lines)
    except (OSError, UnicodeDecodeError) as error:
        raise LexiconError(f"{path}: cannot be read as text: {error}") from error
    except LexiconError as error:
        raise LexiconError(f"{path}: {error}") from error
