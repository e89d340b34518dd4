"""N-gram language models, by KenLM (Heafield 2011): ARPA files and KenLM's binaries."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, Protocol

# What stands for a space in models over characters, whose units are divided by spaces.
SPACE = "\u2581"


class LanguageModelError(ValueError):
    """A language model cannot be used."""


class LanguageModel(Protocol):
    """What the beam search asks of a language model; states are its own affair, and never change."""

    unit: Literal["word", "character"]

    def start(self) -> Any:
        """The state before the first unit."""

    def score(self, state: Any, unit: str) -> tuple[float, Any]:
        """The natural log of the probability of the next unit, and the state behind it."""

    def end(self, state: Any) -> float:
        """The natural log of the probability that the text ends here."""


class Ngram:
    """A model that KenLM reads. Words that it does not know have the probability of its `<unk>`.

    Args:
        path: an ARPA file, or a binary of KenLM.
        unit: what its units are; those of a model over characters are single ones, with U+2581 for the space.

    Raises:
        LanguageModelError: there is no such model, or the extra `lm` is not installed.
    """

    def __init__(self, path: Path, unit: Literal["word", "character"] = "word") -> None:
        try:
            import kenlm
        except ModuleNotFoundError as error:
            raise LanguageModelError("language models need kenlm: pip install 'sru-asr[lm]'") from error
        if not path.is_file():
            raise LanguageModelError(f"{path}: expected an ARPA file or a binary of KenLM, found no file")
        self.unit = unit
        self._new_state = kenlm.State
        try:
            config = kenlm.Config()
            config.show_progress = False
            config.arpa_complain = kenlm.ARPALoadComplain.NONE
            self._model = kenlm.Model(str(path), config)
        except (OSError, RuntimeError) as error:
            raise LanguageModelError(
                f"{path}: expected an ARPA file or a binary of KenLM, which says: {str(error).splitlines()[-1]}"
            ) from error

    @property
    def order(self) -> int:
        """The n of its n-grams."""
        return int(self._model.order)

    def start(self) -> Any:
        """See `LanguageModel`."""
        state = self._new_state()
        self._model.BeginSentenceWrite(state)
        return state

    def score(self, state: Any, unit: str) -> tuple[float, Any]:
        """See `LanguageModel`."""
        after = self._new_state()
        return self._model.BaseScore(state, unit, after) * math.log(10), after

    def end(self, state: Any) -> float:
        """See `LanguageModel`."""
        return self.score(state, "</s>")[0]
