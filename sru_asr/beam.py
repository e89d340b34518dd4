"""Prefix beam search for CTC (Hannun et al. 2014, arXiv:1408.2873), of an utterance that comes piece by piece."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from sru_asr.decode import Hypothesis, Path
from sru_asr.scorer import Context, Scorer
from sru_asr.text import BLANK

WIDTH = 16
# Tokens of a frame that may go on with a hypothesis: at most so many, and none that is less likely than the best one by
# more than this, in natural logs. Two thirds of alphanum-en's frames then have one, the blank (docs/log.md).
MOST_TOKENS, TOKEN_RANGE = 32, 7.0
# Frames after which what no hypothesis goes on from is forgotten.
FORGET_FRAMES = 64


class _Prefix:
    """Tokens, as the last one and the prefix before it. There is one object for each sequence."""

    __slots__ = ("after", "before", "confidence", "context", "frame", "loudest", "token", "value")

    def __init__(self, before: _Prefix | None, token: int, context: Context, value: float) -> None:
        self.before = before
        self.token = token
        self.context = context
        self.value = value  # of its text
        self.frame = 0
        self.confidence = 0.0
        self.loudest = -math.inf  # how likely its last token was in the frame where it is said to be
        self.after: dict[int, _Prefix | None] = {}  # None: the scorer has no such text


class _Alive(NamedTuple):
    """A prefix with the logs of the probabilities that it has been said so far and the last frame was blank, or not."""

    blank: float
    token: float


class BeamSearch:
    """Finds what has most likely been said, by its sound and by what the text is worth.

    Frames of a path are those where its tokens were most likely emitted; its score is the natural log of the
    probability of all alignments that the search has kept.

    Args:
        scorer: of texts.
        pieces: what each token adds to a text; `Tokenizer.pieces`.
        width: hypotheses that are kept.
        most_tokens: of a frame, that may go on with a hypothesis.
        token_range: less likely ones, by more than so many natural logs, may not.

    Attributes:
        n_frames: frames taken in.
    """

    def __init__(
        self,
        scorer: Scorer,
        pieces: Sequence[str],
        width: int = WIDTH,
        most_tokens: int = MOST_TOKENS,
        token_range: float = TOKEN_RANGE,
    ) -> None:
        if width < 1 or most_tokens < 1 or not token_range >= 0:
            raise ValueError(f"expected sizes of at least 1, found {width=}, {most_tokens=}, {token_range=}")
        self.n_frames = 0
        self._scorer = scorer
        self._pieces = pieces
        self._width = width
        self._most_tokens = most_tokens
        self._range = token_range
        self.restart()

    def restart(self) -> None:
        """See `Decoder`."""
        context = self._scorer.start()
        self._beam = {_Prefix(None, BLANK, context, self._scorer.value(context)): _Alive(0.0, -math.inf)}

    def push(self, log_probs: Tensor) -> None:
        """See `Decoder`."""
        for _ in self.steps(log_probs):
            pass

    def steps(self, log_probs: Tensor) -> Iterator[None]:
        """See `Decoder`."""
        if log_probs.shape[0] == 0:
            return
        best, tokens = log_probs.topk(min(self._most_tokens, log_probs.shape[1]), -1)
        rows = log_probs.cpu().numpy()
        for row, values, ids in zip(rows, best.tolist(), tokens.tolist(), strict=True):
            least = values[0] - self._range
            self._step(row, [(id, value) for id, value in zip(ids, values, strict=True) if value >= least])
            yield

    def _step(self, row: Sequence[float], tokens: list[tuple[int, float]]) -> None:
        blank = float(row[BLANK])
        tokens = [(token, value) for token, value in tokens if token != BLANK]
        if not tokens:
            self._beam = {
                prefix: _Alive(_add(*alive) + blank, alive.token + float(row[prefix.token]))
                for prefix, alive in self._beam.items()
            }
            self.n_frames += 1
            return
        beam: dict[_Prefix, list[float]] = {}
        for prefix, alive in self._beam.items():
            total = _add(*alive)
            # The same text goes on: a blank, or the last token once more.
            same = beam.setdefault(prefix, [-math.inf, -math.inf])
            same[0] = _add(same[0], total + blank)
            if prefix.before is not None:
                again = float(row[prefix.token])
                same[1] = _add(same[1], alive.token + again)
                if alive.token > alive.blank:  # it is still being said
                    prefix.confidence = max(prefix.confidence, min(math.exp(again), 1.0))
            for token, value in tokens:
                after = prefix.after[token] if token in prefix.after else self._extend(prefix, token)
                if after is None:
                    continue
                # What is said twice has a blank between.
                said = (alive.blank if token == prefix.token and prefix.before is not None else total) + value
                if said == -math.inf:
                    continue
                if said > after.loudest:
                    after.loudest, after.frame, after.confidence = said, self.n_frames, min(math.exp(value), 1.0)
                grown = beam.setdefault(after, [-math.inf, -math.inf])
                grown[1] = _add(grown[1], said)
        self.n_frames += 1
        scored = [(_add(*logs) + prefix.value, prefix, logs) for prefix, logs in beam.items()]
        if len(scored) > self._width:
            scored.sort(key=lambda one: -one[0])
            del scored[self._width :]
        self._beam = {prefix: _Alive(*logs) for _, prefix, logs in scored}
        if self.n_frames % FORGET_FRAMES == 0:
            self._forget_the_dead()

    def _extend(self, prefix: _Prefix, token: int) -> _Prefix | None:
        context = self._scorer.extend(prefix.context, self._pieces[token])
        after = None if context is None else _Prefix(prefix, token, context, self._scorer.value(context))
        prefix.after[token] = after
        return after

    def _forget_the_dead(self) -> None:
        alive: set[_Prefix] = set()
        for prefix in self._beam:
            one: _Prefix | None = prefix
            while one is not None and one not in alive:
                alive.add(one)
                one = one.before
        for one in alive:
            one.after = {token: after for token, after in one.after.items() if after in alive}

    @property
    def path(self) -> Path:
        """See `Decoder`. It may still become another one."""
        prefix = self._best()
        return _path(prefix, _add(*self._beam[prefix]))

    def _best(self) -> _Prefix:
        return max(self._beam, key=lambda prefix: _add(*self._beam[prefix]) + prefix.value)

    def forget(self, n_tokens: int) -> None:
        """See `Decoder`. Hypotheses that begin otherwise are dropped with them."""
        if n_tokens < 1:
            return
        best = self._best()
        first = _beginning(best, n_tokens)
        if first is None or first is best:
            return self.restart()
        self._beam = {prefix: alive for prefix, alive in self._beam.items() if _beginning(prefix, n_tokens) is first}
        first.before = None  # what is known of the text before it, it knows itself

    def end(self, n: int = 1) -> list[Hypothesis]:
        """See `Decoder`. There are no more than the width of the search."""
        found = []
        for prefix, alive in self._beam.items():
            worth = self._scorer.finish(prefix.context)
            if worth is not None:
                sound = _add(*alive)
                found.append(Hypothesis(_path(prefix, sound), sound + worth))
        found.sort(key=lambda one: -one.score)
        # Where the lexicon has none of them, since all end within a word, what there is is better than nothing.
        return found[:n] or [Hypothesis(self.path, self.path.score)]


def _add(a: float, b: float) -> float:
    """The log of the sum of what these are the logs of."""
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))


def _beginning(prefix: _Prefix, n_tokens: int) -> _Prefix | None:
    """The first tokens of a prefix; None if it has fewer."""
    prefixes = []
    one: _Prefix | None = prefix
    while one is not None:
        prefixes.append(one)
        one = one.before
    return prefixes[-1 - n_tokens] if len(prefixes) > n_tokens else None


def _path(prefix: _Prefix, score: float) -> Path:
    tokens: list[int] = []
    frames: list[int] = []
    confidences: list[float] = []
    while prefix.before is not None:
        tokens.append(prefix.token)
        # A prefix that has been gone on from may become likelier later, and its last token with it.
        frames.append(min(prefix.frame, frames[-1] - 1) if frames else prefix.frame)
        confidences.append(prefix.confidence)
        prefix = prefix.before
    return Path(tokens[::-1], frames[::-1], confidences[::-1], score)
