"""What a text is worth besides its sound: language model, lexicon and hotwords, as it grows piece by piece."""

from __future__ import annotations

from typing import Any, NamedTuple

from sru_asr.hotwords import Hotwords
from sru_asr.lexicon import Lexicon
from sru_asr.lm import SPACE, LanguageModel

# Chosen on AN4's development part, with a bigram of its training part (docs/log.md).
LM_WEIGHT, WORD_BONUS = 0.2, 2.0
MOST = 1e6  # of either; scores have to remain numbers


class Context(NamedTuple):
    """What has to be known of a text to go on with it.

    Attributes:
        word: the last one, which may not be whole yet.
        whole: words before it.
        given: natural log that all that is whole adds to the score.
        state: of the language model.
        hot: state of the hotwords.
    """

    word: str
    whole: int
    given: float
    state: Any
    hot: int


class Scorer:
    """Adds to the score of a hypothesis, in natural logs, what its text is worth; without arguments nothing.

    A word counts when the next one begins, or the text ends.

    Args:
        lm: language model.
        lm_weight: that its logs are multiplied with.
        word_bonus: for each word, since every word that is added costs the language model's score something; by default
            `WORD_BONUS` with a language model, else 0.
        lexicon: other words may not be recognised.
        hotwords: phrases that are likelier.

    Raises:
        ValueError: a number is none.
    """

    def __init__(
        self,
        lm: LanguageModel | None = None,
        lm_weight: float = LM_WEIGHT,
        word_bonus: float | None = None,
        lexicon: Lexicon | None = None,
        hotwords: Hotwords | None = None,
    ) -> None:
        if word_bonus is None:
            word_bonus = 0.0 if lm is None else WORD_BONUS
        if not (abs(lm_weight) <= MOST and abs(word_bonus) <= MOST):
            raise ValueError(f"expected numbers from -{MOST:g} to {MOST:g}, found {lm_weight=} and {word_bonus=}")
        self.lm = lm
        self.lm_weight = lm_weight
        self.word_bonus = word_bonus
        self.lexicon = lexicon
        self.hotwords = hotwords

    def start(self) -> Context:
        """Before the first piece."""
        return Context(
            "",
            0,
            0.0,
            None if self.lm is None else self.lm.start(),
            0 if self.hotwords is None else self.hotwords.start,
        )

    def extend(self, context: Context, piece: str) -> Context | None:
        """Behind one more piece of text; None if the lexicon has no such word.

        Args:
            context: before it.
            piece: characters, among them spaces where words end.
        """
        word, whole, given, state, hot = context
        for character in piece:
            if character.isspace():
                if not word:
                    continue
                if self.lexicon is not None and word not in self.lexicon:
                    return None
                value, state = self._whole(word, state)
                given += value
                word, character = "", " "
                whole += 1
            else:
                if self.lm is not None and self.lm.unit == "character":
                    for unit in (SPACE, character) if whole and not word else (character,):
                        value, state = self.lm.score(state, unit)
                        given += self.lm_weight * value
                word += character
            if self.hotwords is not None:
                hot, boost = self.hotwords.step(hot, character)
                given += boost
        if word and self.lexicon is not None and not self.lexicon.begins(word):
            return None
        return Context(word, whole, given, state, hot)

    def _whole(self, word: str, state: Any) -> tuple[float, Any]:
        """What a word that ends here adds."""
        if self.lm is None or self.lm.unit != "word":
            return self.word_bonus, state
        value, state = self.lm.score(state, word)
        return self.word_bonus + self.lm_weight * value, state

    def value(self, context: Context) -> float:
        """What the text is worth if it goes on; phrases that have begun count in part."""
        return context.given if self.hotwords is None else context.given + self.hotwords.begun(context.hot)

    def finish(self, context: Context) -> float | None:
        """What the text is worth if it ends here; None if its last word is not in the lexicon."""
        word, _, given, state, hot = context
        if word:
            if self.lexicon is not None and word not in self.lexicon:
                return None
            value, state = self._whole(word, state)
            given += value
            if self.hotwords is not None:
                given += self.hotwords.step(hot, " ")[1]
        if self.lm is not None:
            given += self.lm_weight * self.lm.end(state)
        return given
