"""What is said live: text that grows while somebody speaks, and is final once they pause.

A word that has been shown does not change, because a frame is recognised once, when all that its window holds is there;
only the last one may still become longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from sru_asr.decode import Greedy
from sru_asr.stream import Stream

if TYPE_CHECKING:
    from sru_asr.model import Recognizer
    from sru_asr.text import Tokenizer

# Less than most people pause for between sentences, more than within a spelled name or a telephone number.
PAUSE_SECONDS = 0.8
# Somebody who never pauses is written down in parts of this length.
LONGEST_SECONDS = 30.0


class Word(NamedTuple):
    """A word and when it was said, in seconds from the start of the stream: its first and its last token's frame."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Caption:
    """What is recognised of an utterance so far.

    Attributes:
        words: one after the other.
        final: whether the utterance is over: the next caption is another one's.
    """

    words: list[Word]
    final: bool

    @property
    def text(self) -> str:
        """The words with single spaces between them."""
        return " ".join(word.text for word in self.words)

    @property
    def start(self) -> float:
        """When the first word begins."""
        return self.words[0].start

    @property
    def end(self) -> float:
        """When the last word so far ends."""
        return self.words[-1].end


class Live:
    """Somebody speaking: audio in, captions out.

    Args:
        model: in evaluation mode.
        chunk: frames recognised at a time; `sru_asr.window_of` divides a latency.
        lookahead: frames that are waited for behind them.
        pause_seconds: without a token for so long, an utterance is over.
        longest_seconds: longer ones are made final in parts, between words.
    """

    def __init__(
        self,
        model: Recognizer,
        chunk: int,
        lookahead: int,
        pause_seconds: float = PAUSE_SECONDS,
        longest_seconds: float = LONGEST_SECONDS,
    ) -> None:
        if not pause_seconds > 0 or not longest_seconds > 0:
            raise ValueError(f"expected times above 0 s, found {pause_seconds=} and {longest_seconds=}")
        self.stream = Stream(model, chunk, lookahead)
        self._greedy = Greedy()
        self._pause = max(round(pause_seconds * model.frames_per_second), 1)
        self._longest = longest_seconds * model.frames_per_second
        self._shown = 0  # tokens of the caption that was given last

    def push(self, waveform: Tensor) -> list[Caption]:
        """Take in (samples,) float32 at 16 kHz, any number; see `take`.

        Raises:
            AudioError: not a waveform; nothing of it has been taken in.
            RuntimeError: `finish` has been called.
        """
        return self.take(self.stream.push(waveform))

    def finish(self) -> list[Caption]:
        """End the stream; return what is left.

        Raises:
            RuntimeError: it has been called before.
        """
        return self.take(self.stream.finish())

    def take(self, log_probs: Tensor) -> list[Caption]:
        """What is new when `stream` has said (frames, vocab), for those who advance many streams together.

        Returns:
            Captions of utterances that are over now, then that of the current one, if it has grown.
        """
        captions = []
        scores, ids = log_probs.max(-1)
        # Frame by frame, so that captions do not depend on the pieces that frames come in.
        for token, score in zip(ids.tolist(), scores.tolist(), strict=True):
            self._greedy.step(token, score)
            captions += self._ended()
        if self.stream.finished and self._greedy.path.tokens:
            captions.append(self._final(len(self._greedy.path.tokens)))
        if len(self._greedy.path.tokens) > self._shown and (words := self._words()):
            self._shown = len(self._greedy.path.tokens)
            captions.append(Caption([word for word, _ in words], final=False))
        return [caption for caption in captions if caption.words]

    def _ended(self) -> list[Caption]:
        """The final caption, if the utterance is over, or too long."""
        tokens, frames, _ = self._greedy.path
        if not tokens:
            return []
        if self._greedy.n_frames - frames[-1] > self._pause:
            return [self._final(len(tokens))]
        if self._greedy.n_frames - frames[0] > self._longest and len(words := self._words()) > 1:
            return [self._final(words[-1][1])]
        return []

    def _final(self, n_tokens: int) -> Caption:
        """Make the first tokens final."""
        words = [word for word, first in self._words() if first < n_tokens]
        self._greedy.forget(n_tokens)
        self._shown = 0
        return Caption(words, final=True)

    def _words(self) -> list[tuple[Word, int]]:
        """The words so far, each with the number of its first token."""
        tokens, frames, _ = self._greedy.path
        rate = self.stream.model.frames_per_second
        spans = word_spans(tokens, self.stream.model.tokenizer)
        return [
            (Word(text, round(frames[first] / rate, 3), round((frames[last] + 1) / rate, 3)), first)
            for text, first, last in spans
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
