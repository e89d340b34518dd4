"""N-gram language models: trained by kaldingram, read by KenLM (Heafield 2011), ARPA files and its binaries."""

from __future__ import annotations

import io
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from contextlib import nullcontext, redirect_stderr
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sru_asr.text import normalize
from sru_asr.whole import whole

if TYPE_CHECKING:
    from kaldingram.train import NgramCounts

# What stands for a space in models over characters, whose units are divided by spaces.
SPACE = "\u2581"
# What a word is worth at least that the model does not know: the <unk> of many models is as good as forbidden.
UNKNOWN = math.log(1e-5)
ORDERS = 2, 5  # KenLM reads no unigrams alone
# Of the count of an n-gram, what is kept at most for those that have not been seen. By the usual estimate that would be
# all of it for what occurs once, where nothing occurs twice: a model that has learned no more than words.
MOST_DISCOUNT = 0.9
SPECIAL = {"<s>", "</s>", "<unk>"}
# Units of an ARPA file that are looked at, to see whether it is of the kind that it is taken for.
LOOKED_AT = 1000
LONGEST_LINE = 10_000


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
    """A model that KenLM reads. What it does not know has the probability of its `<unk>`, or 1e-5 if that is more.

    Args:
        path: an ARPA file, or a binary of KenLM.
        unit: what its units are; those of a model over characters are single ones, with U+2581 for the space.

    Raises:
        LanguageModelError: there is no such model, or the extra `lm` is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], unit: Literal["word", "character"] = "word") -> None:
        path = Path(path)
        try:
            import kenlm
        except ModuleNotFoundError as error:
            raise LanguageModelError("language models need kenlm: pip install 'sru-asr[lm]'") from error
        if not path.is_file():
            raise LanguageModelError(f"{path}: expected an ARPA file or a binary of KenLM, found no file")
        try:
            _check_arpa(path, unit)
        except OSError as error:
            raise LanguageModelError(f"{path}: cannot be read: {error.strerror}") from error
        self.unit = unit
        self._new_state = kenlm.State
        try:
            config = kenlm.Config()
            config.show_progress = False
            config.arpa_complain = kenlm.ARPALoadComplain.NONE
            self._model = kenlm.Model(str(path), config)
        except (OSError, RuntimeError, UnicodeDecodeError) as error:  # it quotes bytes of what is no text
            binary = isinstance(error, UnicodeDecodeError)
            found = "found bytes of another kind" if binary else f"which says: {str(error).splitlines()[-1]}"
            raise LanguageModelError(f"{path}: expected an ARPA file or a binary of KenLM, {found}") from error

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
        found = self._model.BaseFullScore(state, unit, after)
        value = found.log_prob * math.log(10)
        return max(value, UNKNOWN) if found.oov else value, after

    def end(self, state: Any) -> float:
        """See `LanguageModel`."""
        return self.score(state, "</s>")[0]


def _check_arpa(path: Path, unit: Literal["word", "character"]) -> None:
    """Refuse an ARPA file of which KenLM would make nothing, or crash; others, such as binaries, are left to it."""
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = iter(partial(file.readline, LONGEST_LINE), "")
        if next(lines, "").strip() != "\\data\\":
            return
        for line in lines:
            if line.startswith("ngram "):
                count = line.partition("=")[2].strip()
                if not (count.isascii() and count.isdigit() and int(count) <= path.stat().st_size):
                    raise LanguageModelError(f"{path}: expected a number of n-grams, found {line.strip()[:80]!r}")
            elif line.strip():
                break
        # A line is a log, a unit and, perhaps, another log.
        entries = (line.split() for line in islice(lines, LOOKED_AT))
        units = {entry[1] for entry in entries if len(entry) > 1} - SPECIAL
    if not units:
        return
    strange = {one for one in units if one != SPACE and normalize(one) != one}
    if 2 * len(strange) > len(units):
        raise LanguageModelError(
            f"{path}: expected units as models write them here, in upper case without punctuation, found "
            f"{min(strange)!r} and others; `sru-asr lm train` normalises the texts that it learns from"
        )
    if unit == "character" and any(len(one) > 1 for one in units):
        raise LanguageModelError(
            f"{path}: expected a model over characters, found {max(units, key=len)!r} among its units: it is one over "
            "words (--lm-unit word)"
        )
    if unit == "word" and SPACE in units and all(len(one) == 1 for one in units):
        raise LanguageModelError(
            f"{path}: expected a model over words, found one over characters (--lm-unit character)"
        )


def _interpolate(counts: NgramCounts) -> None:
    """Add to what is discounted what the lower orders say (Chen and Goodman 1998); kaldingram itself only backs off.

    Without that what has been seen once may come to less than what has not been seen.
    """
    for order in counts.counts:
        for entry in order.values():
            entry.word_to_bow = dict.fromkeys(entry.word_to_f)
    for shorter, order in pairwise(counts.counts):
        for history, entry in order.items():
            kept = 1 - sum(entry.word_to_f.values())
            lower = shorter[history[1:]].word_to_f
            entry.word_to_f = {word: value + kept * lower[word] for word, value in entry.word_to_f.items()}
            shorter[history[:-1]].word_to_bow[history[-1]] = kept


def _add_unknown(path: Path) -> None:
    """Give an ARPA file a word for those that it does not know, which kaldingram leaves out."""
    text = path.read_text(encoding="utf-8")
    count = re.search(r"^ngram 1=(\d+)$", text, re.MULTILINE)
    if count is None or "\t<unk>" in text:
        return
    text = text.replace(count[0], f"ngram 1={int(count[1]) + 1}", 1)
    log10 = UNKNOWN / math.log(10)
    path.write_text(text.replace("\\1-grams:\n", f"\\1-grams:\n{log10:.4f}\t<unk>\n", 1), encoding="utf-8")


def train_ngram(texts: Iterable[str], path: Path, order: int, unit: Literal["word", "character"] = "word") -> int:
    """Train a model with Kneser and Ney's smoothing, and write it as an ARPA file.

    Args:
        texts: normalised, as `sru_asr.text.normalize` has them. What some corpora write where nobody understood a word,
            <unk>, is left out: KenLM would take <UNK> for all words that the model does not know.
        path: the file.
        order: the n of its n-grams, 2 to 5.
        unit: what its units are.

    Returns:
        The number of units that it has learned from.

    Raises:
        LanguageModelError: there are too few texts for that, or the extra `lm` is not installed.
    """
    try:
        from kaldingram.train import NgramCounts, default_encoding
    except ModuleNotFoundError as error:
        raise LanguageModelError("training a language model needs kaldingram: pip install 'sru-asr[lm]'") from error
    least, most = ORDERS
    if not least <= order <= most:
        raise LanguageModelError(f"expected an order of {least} to {most}, found {order}")
    n_units = 0
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "texts"
        with corpus.open("w", encoding="utf-8") as lines:
            for text in texts:
                words = [word for word in text.split() if word.lower() not in SPECIAL]
                units = words if unit == "word" else [SPACE if c == " " else c for c in " ".join(words)]
                if units:
                    n_units += len(units)
                    lines.write(" ".join(units) + "\n")
        if not n_units:
            raise LanguageModelError("expected texts to learn from, found none")
        unfinished = Path(folder) / "arpa"
        try:
            # Its progress bars are for those who look.
            with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
                counts = NgramCounts(order)
                counts.add_raw_counts_from_file(str(corpus))
                if not counts.counts[-1]:
                    raise ValueError("no text is as long")
                counts.cal_discounting_constants()
                counts.d = [min(discount, MOST_DISCOUNT) for discount in counts.d]
                counts.cal_f()
                _interpolate(counts)
                with unfinished.open("w", encoding=default_encoding) as file:
                    counts.print_as_arpa(fout=file)
            _add_unknown(unfinished)
            with whole(path) as part:
                shutil.copyfile(unfinished, part)
        except (ArithmeticError, ValueError, KeyError, AssertionError) as error:
            raise LanguageModelError(
                f"{n_units} units are too few for {order}-grams ({error}): take more text"
                + (", or a lower order" if order > least else "")
            ) from error
        except OSError as error:
            raise LanguageModelError(f"{path}: cannot be written: {error.strerror}") from error
    return n_units
