"""What is said live: text that grows while somebody speaks, and is final once they pause.

Decoded greedily, a word that has been shown does not change, because a frame is recognised once, when all that its
window holds is there; only the last one may still become longer, and its end is a guess until the next one begins. A
beam search may change its mind about an utterance until it is over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from sru_asr.audio import SAMPLE_RATE
from sru_asr.decoding import GREEDY, Decoding
from sru_asr.stream import Stream, advance
from sru_asr.voice import Activity, listen
from sru_asr.words import Word, word_spans, words_of

if TYPE_CHECKING:
    from sru_asr.decode import Path
    from sru_asr.model import Recognizer

# Less than most people pause for between sentences, more than within a spelled name or a telephone number.
PAUSE_SECONDS = 0.8
# Somebody who never pauses is written down in parts of this length.
LONGEST_SECONDS = 30.0
# Somebody who hums, or music, is not waited for longer than so many pauses.
VOICE_PAUSES = 3


@dataclass(frozen=True)
class Caption:
    """What is recognised of an utterance so far.

    Attributes:
        words: one after the other; none where a search has taken back what was shown of it.
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
        """When the first word begins, if there is one."""
        return self.words[0].start

    @property
    def end(self) -> float:
        """When the last word so far ends, if there is one."""
        return self.words[-1].end


class Live:
    """Somebody speaking: audio in, captions out.

    Args:
        model: in evaluation mode.
        chunk: frames recognised at a time; `sru_asr.window_of` divides a latency.
        lookahead: frames that are waited for behind them.
        pause_seconds: without a token for so long, an utterance is over.
        longest_seconds: longer ones are made final in parts, between words, or where they are, if they are one word.
        vad: whether silero-vad listens, too: an utterance is not over while somebody still speaks, if only for
            `VOICE_PAUSES` pauses without a token. What is recognised stays the same.
        decoding: greedy, or by a search.

    Raises:
        ValueError: a window or a time that means nothing.
        VoiceError: with `vad`, if silero-vad is not installed.
    """

    def __init__(
        self,
        model: Recognizer,
        chunk: int,
        lookahead: int,
        pause_seconds: float = PAUSE_SECONDS,
        longest_seconds: float = LONGEST_SECONDS,
        vad: bool = False,
        decoding: Decoding = GREEDY,
    ) -> None:
        if not 0 < pause_seconds < math.inf or not longest_seconds > 0:
            raise ValueError(f"expected finite times above 0 s, found {pause_seconds=} and {longest_seconds=}")
        self.stream = Stream(model, chunk, lookahead)
        self._decoder = decoding.decoder(model.tokenizer.pieces)
        self._pause = max(round(pause_seconds * model.frames_per_second), 1)
        self._longest = longest_seconds * model.frames_per_second
        self._activity = Activity(round(SAMPLE_RATE / model.frames_per_second)) if vad else None
        self._shown: list[int] = []  # the tokens of the caption that was given last
        self._open = False  # whether words of the utterance have been shown
        self._said_until = 0.0  # end of the last word that is final

    def push(self, waveform: Tensor) -> list[Caption]:
        """Take in (samples,) float32 at 16 kHz, any number; see `take`.

        Raises:
            AudioError: not a waveform; nothing of it has been taken in.
            RuntimeError: `finish` has been called.
        """
        self.stream.accept(waveform)
        hear([self], [waveform])
        return self.take(advance([self.stream])[0])

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
        # Frame by frame, so that captions do not depend on the pieces that frames come in.
        for _ in self._decoder.steps(log_probs):
            captions += self._ended()
        if self.stream.finished:  # whatever `path` has: at the end of a text its last word counts
            captions += self._final()
        path = self._decoder.path
        if path.tokens != self._shown:
            self._shown = list(path.tokens)
            words = self._words(path)
            if words or self._open:
                captions.append(Caption(words, final=False))
                self._open = bool(words)
        return captions

    def _ended(self) -> list[Caption]:
        """The final caption, if the utterance is over, or too long."""
        path = self._decoder.path
        tokens, frames = path.tokens, path.frames
        spoken = -1 if self._activity is None else self._activity.last_spoken(self._decoder.n_frames)
        if not tokens:
            return []
        since = max(frames[-1], min(spoken, frames[-1] + VOICE_PAUSES * self._pause))
        if self._decoder.n_frames - since > self._pause:
            return self._final()
        if self._decoder.n_frames - frames[0] > self._longest:
            spans = word_spans(tokens, self.stream.model.tokenizer)
            if len(spans) < 2:
                return self._final()
            words = self._words(path)[:-1]
            self._decoder.forget(spans[-1][1])
            return [self._written_down(words)]
        return []

    def _final(self) -> list[Caption]:
        """Make the utterance final; of one without words, of which none have been shown, there is no caption."""
        words = self._words(self._decoder.end()[0].path)
        said = bool(words) or self._open
        self._decoder.restart()
        caption = self._written_down(words)
        return [caption] if said else []

    def _written_down(self, words: list[Word]) -> Caption:
        self._shown, self._open = [], False
        self._said_until = words[-1].end if words else self._said_until
        return Caption(words, final=True)

    def _words(self, path: Path) -> list[Word]:
        stream, model = self.stream, self.stream.model
        seconds = self._decoder.n_frames / model.frames_per_second
        if stream.finished:
            seconds = min(seconds, stream.samples / SAMPLE_RATE)
        return words_of(path, model.tokenizer, model.frames_per_second, seconds, model.delay, self._said_until)


def hear(lives: Sequence[Live], waveforms: Sequence[Tensor]) -> None:
    """Let silero-vad hear what their streams have taken in, for those who advance many together; see `Live.take`.

    Args:
        lives: each of them once; those without `vad` are passed over.
        waveforms: of each (samples,) float32 at 16 kHz.
    """
    pairs = zip(lives, waveforms, strict=True)
    heard = [(live._activity.voice, waveform) for live, waveform in pairs if live._activity is not None]
    listen([voice for voice, _ in heard], [waveform for _, waveform in heard])
