"""Words with their times, of tokens with theirs."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from sru_asr.decode import Path
from sru_asr.text import Tokenizer

# CTC emits a token somewhere within what it stands for, which of a word that is one token is a frame: a while after it
# began and before it ends. The medians of alphanum-en against forced alignment of AN4's development part (docs/log.md).
LEAD_SECONDS, TAIL_SECONDS = 0.08, 0.33
# Between the end of a word and the start of the next, where an utterance ends.
PAUSE_SECONDS = 0.5


class Word(NamedTuple):
    """A word and about when it was said, in seconds from the start. Words do not overlap.

    The confidence, 0 to 1, is the product of those of its tokens: about the share of such words that are right, where
    the model has been trained on such speech (docs/log.md has its calibration), and too high elsewhere.
    """

    text: str
    start: float
    end: float
    confidence: float = 1.0


def words_of(
    path: Path, tokenizer: Tokenizer, rate: float, seconds: float = math.inf, delay: int = 0, earliest: float = 0.0
) -> list[Word]:
    """The words of a decoded path. Each lasts until the next one begins, but no longer than words do.

    Args:
        path: its tokens, without blanks, their frames and confidences.
        tokenizer: theirs.
        rate: frames per second.
        seconds: length of the audio, behind which no word goes on.
        delay: frames by which the model has learned to emit late, see `Recognizer.delay`.
        earliest: end of the last word before them.
    """
    spans = word_spans(path.tokens, tokenizer)
    frames = [max(frame - delay, 0) for frame in path.frames]
    emitted = [(frames[first] / rate, (frames[last] + 1) / rate) for _, first, last in spans]
    starts: list[float] = []
    for first, last in emitted:
        starts.append(max(first - LEAD_SECONDS, earliest))
        earliest = max(last, earliest)
    starts.append(max(seconds, earliest))
    return [
        Word(
            text,
            round(start, 3),
            round(min(last + TAIL_SECONDS, end), 3),
            round(math.prod(path.confidences[first_token : last_token + 1]), 3),
        )
        for (text, first_token, last_token), (start, end), (_, last) in zip(
            spans, pairwise(starts), emitted, strict=True
        )
    ]


def utterances(words: Sequence[Word], pause_seconds: float = PAUSE_SECONDS) -> list[list[Word]]:
    """Divide words where nothing is said for longer than a pause."""
    found: list[list[Word]] = []
    for word in words:
        if found and word.start - found[-1][-1].end <= pause_seconds:
            found[-1].append(word)
        else:
            found.append([word])
    return found


def word_spans(tokens: Sequence[int], tokenizer: Tokenizer) -> list[tuple[str, int, int]]:
    """Divide tokens into words.

    Args:
        tokens: without blanks.
        tokenizer: theirs.

    Returns:
        Each word with the numbers of its first and its last token, which say where in `tokens` they are.
    """
    pieces = [tokenizer.pieces[token] for token in tokens]
    ends = list(accumulate(map(len, pieces)))
    return [
        (found[0], bisect_right(ends, found.start()), bisect_right(ends, found.end() - 1))
        for found in re.finditer(r"\S+", "".join(pieces))
    ]
