"""Words with their times, of tokens with theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sru_asr.text import Tokenizer


class Word(NamedTuple):
    """A word and when it was said, in seconds from the start: its first and its last token's frame.

    Where a word is one token that is a single frame somewhere within it: what CTC promises is order, not boundaries.
    """

    text: str
    start: float
    end: float


def words_of(tokens: Sequence[int], frames: Sequence[int], tokenizer: Tokenizer, rate: float) -> list[Word]:
    """The words of a decoded path.

    Args:
        tokens: without blanks.
        frames: of each token, the one in which it was first emitted.
        tokenizer: theirs.
        rate: frames per second.
    """
    return [
        Word(text, round(frames[first] / rate, 3), round((frames[last] + 1) / rate, 3))
        for text, first, last in word_spans(tokens, tokenizer)
    ]


def word_spans(tokens: Sequence[int], tokenizer: Tokenizer) -> list[tuple[str, int, int]]:
    """Divide tokens into words.

    Args:
        tokens: without blanks.
        tokenizer: theirs.

    Returns:
        Each word with the numbers of its first and its last token, which say where in `tokens` they are.
    """
    spans: list[tuple[str, int, int]] = []
    word, first, last = "", 0, 0
    for number in range(len(tokens)):
        # Alone, a piece that begins a word and one that goes on with it read the same; behind others they do not.
        parts = tokenizer.decode(tokens[first : number + 1]).split()
        if len(parts) > 1:
            spans.append((word, first, last))
            word, first, parts = "", number, parts[1:]
        if parts and parts[0] != word:
            if not word:  # only spaces came before
                first = number
            word, last = parts[0], number
    if word:
        spans.append((word, first, last))
    return spans
