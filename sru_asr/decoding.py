"""How what is said is found in log-probabilities: greedily, or by a search that minds what texts are worth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sru_asr.beam import WIDTH, BeamSearch
from sru_asr.decode import Decoder, Greedy
from sru_asr.hotwords import DEFAULT_BOOST, read_hotwords
from sru_asr.lexicon import read_lexicon
from sru_asr.lm import Ngram
from sru_asr.scorer import LM_WEIGHT, Scorer


@dataclass(frozen=True)
class Decoding:
    """A way of decoding; by default the greedy one.

    Attributes:
        scorer: what texts are worth; with one there is a search.
        width: hypotheses that the search keeps; 1 without a scorer is greedy.
        n_best: hypotheses that are told.
    """

    scorer: Scorer | None = None
    width: int = 1
    n_best: int = 1

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"expected a beam of at least 1 hypothesis, found {self.width}")
        if not 1 <= self.n_best <= self.width:
            raise ValueError(f"expected n-best from 1 to the beam's {self.width} hypotheses, found {self.n_best}")

    def decoder(self, pieces: Sequence[str]) -> Decoder:
        """Of one utterance, or of one stream of them.

        Args:
            pieces: `Tokenizer.pieces`.
        """
        if self.scorer is None and self.width == 1:
            return Greedy()
        return BeamSearch(self.scorer or Scorer(), pieces, self.width)


GREEDY = Decoding()


def read_decoding(
    lm: str | os.PathLike[str] | None = None,
    lm_unit: Literal["word", "character"] = "word",
    lm_weight: float = LM_WEIGHT,
    word_bonus: float | None = None,
    lexicon: str | os.PathLike[str] | None = None,
    hotwords: str | os.PathLike[str] | None = None,
    boost: float = DEFAULT_BOOST,
    width: int | None = None,
    n_best: int = 1,
) -> Decoding:
    """A way of decoding, from files.

    Args:
        lm: see `Ngram`, as for the next.
        lm_unit: what its units are.
        lm_weight: see `Scorer`.
        word_bonus: likewise.
        lexicon: see `read_lexicon`.
        hotwords: see `read_hotwords`, as for the next.
        boost: of phrases without one of their own.
        width: by default `WIDTH` if there is anything to search for, else 1.
        n_best: see `Decoding`.

    Raises:
        ValueError: a file is not as expected, or a number.
    """
    scorer = None
    if lm is not None or lexicon is not None or hotwords is not None or word_bonus is not None:
        scorer = Scorer(
            None if lm is None else Ngram(lm, lm_unit),
            lm_weight,
            word_bonus,
            None if lexicon is None else read_lexicon(lexicon),
            None if hotwords is None else read_hotwords(hotwords, boost),
        )
    if width is None:
        width = max(WIDTH, n_best) if scorer is not None or n_best > 1 else 1
    return Decoding(scorer, width, n_best)
