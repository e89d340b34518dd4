"""Prefix beam search for CTC (Hannun et al. 2014, arXiv:1408.2873), of an utterance that comes piece by piece."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import takewhile
from typing import NamedTuple, TypeVar
from weakref import ref

from torch import Tensor

from sru_asr.decode import Hypothesis, Path
from sru_asr.scorer import Context, Scorer
from sru_asr.text import BLANK

WIDTH = 16
# Tokens of a frame that may go on with a hypothesis: at most so many, and none that is less likely than the best one by
# more than this, in natural logs. Two thirds of alphanum-en's frames then have one, the blank (docs/log.md).
MOST_TOKENS, TOKEN_RANGE = 32, 7.0


class _Prefix:
    """Tokens, as the last one and the prefix before it. There is one object for each sequence.

    It is held by the beam and by those that go on from it, so that what nothing goes on from is gone at once.
    """

    __slots__ = ("__weakref__", "after", "before", "context", "token", "value")

    def __init__(self, before: _Prefix | None, token: int, context: Context, value: float) -> None:
        self.before = before  # None also where what came before has been forgotten
        self.token = token
        self.context = context
        self.value = value  # of its text
        self.after: dict[int, ref[_Prefix] | None] = {}  # None: the scorer has no such text


class _Emission:
    """When the last token of a hypothesis was emitted, how likely it was, and the same of those before it."""

    __slots__ = ("before", "confidence", "frame")

    def __init__(self, before: _Emission | None, frame: int, confidence: float) -> None:
        self.before = before
        self.frame = frame
        self.confidence = confidence


_Link = TypeVar("_Link", _Prefix, _Emission)


class _Alive(NamedTuple):
    """A prefix with the logs of the probabilities that it has been said so far and the last frame was blank, or not."""

    blank: float
    token: float
    emission: _Emission | None


class _Grown:
    """What comes together to one prefix in a frame: as in `_Alive`, with the emissions of the likeliest contribution.

    Of a token that is emitted in this very frame, `emission` is that of the token before it.
    """

    __slots__ = ("blank", "emission", "likeliest", "token", "value")

    def __init__(self) -> None:
        self.blank = self.token = self.likeliest = -math.inf
        self.emission: _Emission | None = None
        self.value: float | None = None  # the log of the probability of a token emitted in this frame


class BeamSearch:
    """Finds what has most likely been said, by its sound and by what the text is worth.

    Frames of a path are those where its tokens were emitted in about the likeliest alignment; its score is the natural
    log of the probability of all alignments that the search has kept.

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
        context = scorer.start()
        self._beam = {_Prefix(None, BLANK, context, scorer.value(context)): _Alive(0.0, -math.inf, None)}

    def __deepcopy__(self, memo: object) -> BeamSearch:
        """One that goes on by itself; copied as other objects are, prefixes would know those of the other."""
        other = copy(self)
        prefixes: dict[_Prefix, _Prefix] = {}
        emissions: dict[_Emission, _Emission] = {}
        other._beam = {
            _copied_prefix(prefix, prefixes): alive._replace(emission=_copied_emission(alive.emission, emissions))
            for prefix, alive in self._beam.items()
        }
        return other

    def restart(self) -> None:
        """See `Decoder`."""
        context, best = self._scorer.start(), self._best()
        before = self._beam[best]
        total = _add(before.blank, before.token)
        # Its last token may go on, and is none of the next utterance.
        start = _Prefix(None, best.token, context, self._scorer.value(context))
        self._beam = {start: _Alive(before.blank - total, before.token - total, None)}

    def push(self, log_probs: Tensor) -> None:
        """See `Decoder`."""
        for _ in self.steps(log_probs):
            pass

    def steps(self, log_probs: Tensor) -> Iterator[None]:
        """See `Decoder`."""
        if log_probs.shape[0] == 0:
            return
        log_probs = log_probs.detach().float()
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
                prefix: _Alive(
                    _add(alive.blank, alive.token) + blank, alive.token + float(row[prefix.token]), alive.emission
                )
                for prefix, alive in self._beam.items()
            }
        else:
            self._grow(row, blank, tokens)
        self.n_frames += 1

    def _grow(self, row: Sequence[float], blank: float, tokens: list[tuple[int, float]]) -> None:
        beam: defaultdict[_Prefix, _Grown] = defaultdict(_Grown)
        for prefix, alive in self._beam.items():
            total = _add(alive.blank, alive.token)
            # The same text goes on: a blank, or the last token once more.
            same = beam[prefix]
            stays, holds = total + blank, -math.inf
            same.blank = _add(same.blank, stays)
            if prefix.token != BLANK:
                again = float(row[prefix.token])
                holds = alive.token + again
                same.token = _add(same.token, holds)
                if alive.emission is not None and alive.token > alive.blank:  # it is still being said
                    alive.emission.confidence = max(alive.emission.confidence, min(math.exp(again), 1.0))
            if (likely := _add(stays, holds)) > same.likeliest:
                same.likeliest, same.emission, same.value = likely, alive.emission, None
            for token, value in tokens:
                after = self._extended(prefix, token)
                if after is None:
                    continue
                # What is said twice has a blank between.
                said = (alive.blank if token == prefix.token else total) + value
                if said == -math.inf:
                    continue
                grown = beam[after]
                grown.token = _add(grown.token, said)
                if said > grown.likeliest:
                    grown.likeliest, grown.emission, grown.value = said, alive.emission, value
        scored = [(_add(grown.blank, grown.token) + prefix.value, prefix, grown) for prefix, grown in beam.items()]
        if len(scored) > self._width:
            scored.sort(key=lambda one: -one[0])
            del scored[self._width :]
        self._beam = {}
        for _, prefix, grown in scored:
            emission = grown.emission
            if grown.value is not None:
                emission = _Emission(emission, self.n_frames, min(math.exp(grown.value), 1.0))
            self._beam[prefix] = _Alive(grown.blank, grown.token, emission)

    def _extended(self, prefix: _Prefix, token: int) -> _Prefix | None:
        """The prefix behind one more token; None if the scorer has no such text."""
        if token in prefix.after:
            known = prefix.after[token]
            if known is None or (after := known()) is not None:
                return None if known is None else after
        context = self._scorer.extend(prefix.context, self._pieces[token])
        new = None if context is None else _Prefix(prefix, token, context, self._scorer.value(context))
        prefix.after[token] = None if new is None else ref(new)
        return new

    @property
    def path(self) -> Path:
        """See `Decoder`. It may still become another one."""
        prefix = self._best()
        return _path(prefix, self._beam[prefix])

    def _best(self) -> _Prefix:
        return max(self._beam, key=lambda one: _add(self._beam[one].blank, self._beam[one].token) + one.value)

    def forget(self, n_tokens: int) -> None:
        """See `Decoder`. Hypotheses that begin otherwise are dropped with them."""
        if n_tokens < 1:
            return
        best = self._best()
        first = _beginning(best, n_tokens)
        if first is None:
            return self.restart()
        total = _add(self._beam[best].blank, self._beam[best].token)
        self._beam = {
            prefix: _Alive(alive.blank - total, alive.token - total, alive.emission)
            for prefix, alive in self._beam.items()
            if _beginning(prefix, n_tokens) is first
        }
        first.before = None  # what is known of the text before it, it knows itself
        for prefix, alive in self._beam.items():
            emission = alive.emission
            while emission is not None and prefix.before is not None and prefix.before.before is not None:
                prefix, emission = prefix.before, emission.before
            if emission is not None:
                emission.before = None

    def end(self, n: int = 1) -> list[Hypothesis]:
        """See `Decoder`. There are no more than the width of the search."""
        found = []
        for prefix, alive in self._beam.items():
            worth = self._scorer.finish(prefix.context)
            if worth is not None:
                path = _path(prefix, alive)
                found.append(Hypothesis(path, path.score + worth))
        found.sort(key=lambda one: -one.score)
        # Where the lexicon has none of them, since all end within a word, what there is is better than nothing.
        return found[:n] or [Hypothesis(self.path, self.path.score)]


def _copied_prefix(prefix: _Prefix, copies: dict[_Prefix, _Prefix]) -> _Prefix:
    """A copy, with all before it that are not among `copies` yet."""
    chain = list(takewhile(lambda one: one not in copies, _chain(prefix)))
    for one in reversed(chain):
        before = None if one.before is None else copies[one.before]
        copies[one] = _Prefix(before, one.token, one.context, one.value)
        if before is not None:
            before.after[one.token] = ref(copies[one])
    return copies[prefix]


def _copied_emission(emission: _Emission | None, copies: dict[_Emission, _Emission]) -> _Emission | None:
    """As `_copied_prefix`."""
    chain = list(takewhile(lambda one: one not in copies, _chain(emission)))
    for one in reversed(chain):
        copies[one] = _Emission(None if one.before is None else copies[one.before], one.frame, one.confidence)
    return None if emission is None else copies[emission]


def _chain(one: _Link | None) -> Iterator[_Link]:
    """What was given, and all before it."""
    while one is not None:
        yield one
        one = one.before


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


def _path(prefix: _Prefix, alive: _Alive) -> Path:
    tokens: list[int] = []
    frames: list[int] = []
    confidences: list[float] = []
    emission = alive.emission
    while prefix.before is not None:
        assert emission is not None  # as many as tokens, or more, of those that have been forgotten
        tokens.append(prefix.token)
        frames.append(emission.frame)
        confidences.append(emission.confidence)
        prefix, emission = prefix.before, emission.before
    return Path(tokens[::-1], frames[::-1], confidences[::-1], _add(alive.blank, alive.token))
