"""Word and character error counts, their sums, and the alignment behind them."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import zip_longest

import jiwer


@dataclass(frozen=True)
class ErrorCounts:
    """What a least-cost alignment of a hypothesis with its reference counts, in words or in characters.

    Counts are added and the rate is taken of their sum: a rate of a corpus is not the mean of its utterances' rates.
    """

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def reference(self) -> int:
        """How many words or characters the reference has."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per word or character of the reference; 1.0 is 100 %, and insertions can take it beyond.

        Of an empty reference it is 0.0 without errors and infinite with them; never NaN.
        """
        if self.reference:
            return self.errors / self.reference
        return math.inf if self.errors else 0.0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    def to_dict(self) -> dict[str, int | float | None]:
        """The four counts, `reference`, `errors` and `rate`; an infinite rate is None, which JSON can hold."""
        rate = self.rate if math.isfinite(self.rate) else None
        return {**asdict(self), "reference": self.reference, "errors": self.errors, "rate": rate}


def word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Counts word errors; words are what white space separates, compared exactly (normalise both texts before)."""
    return _counts(_align(reference, hypothesis))


def char_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Counts character errors; each run of white space between words is one character, at the ends it is none."""
    return _counts(jiwer.process_characters(_single_spaced(reference), _single_spaced(hypothesis)))


def align_words(reference: str, hypothesis: str) -> str:
    """Shows which words were matched, in three lines without trailing spaces.

    Returns:
        For example, with `*` where a word is missing and S, D, I for the errors::

            REF: THE QUICK ***   FOX
            HYP: THE  SICK RED   FOX
                         S   I
    """
    shown = jiwer.visualize_alignment(_align(reference, hypothesis), show_measures=False, skip_correct=False)
    _, lines = shown.split("\n\n", 1)  # the heading that numbers the sentence
    return "\n".join(line.rstrip() for line in lines.rstrip("\n").split("\n"))


def right_words(reference: str, hypothesis: str) -> list[bool]:
    """Of each word of the hypothesis, whether it is matched with the same one of the reference."""
    right = [False] * len(hypothesis.split())
    for chunk in _align(reference, hypothesis).alignments[0]:
        if chunk.type == "equal":
            right[chunk.hyp_start_idx : chunk.hyp_end_idx] = [True] * (chunk.hyp_end_idx - chunk.hyp_start_idx)
    return right


def pair_words(reference: str, hypothesis: str) -> list[tuple[str, str]]:
    """What was said with what was heard of it, word by word; an empty text where there is none."""
    output = _align(reference, hypothesis)
    said, heard = output.references[0], output.hypotheses[0]
    return [
        pair
        for chunk in output.alignments[0]
        for pair in zip_longest(
            said[chunk.ref_start_idx : chunk.ref_end_idx], heard[chunk.hyp_start_idx : chunk.hyp_end_idx], fillvalue=""
        )
    ]


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """The sum, all zeros for no counts."""
    return sum(counts, ErrorCounts())


def by_group(items: Iterable[tuple[str, ErrorCounts]]) -> dict[str, ErrorCounts]:
    """Sums counts by name, for example by speaker; names in order of first appearance."""
    groups: dict[str, ErrorCounts] = {}
    for name, counts in items:
        groups[name] = groups.get(name, ErrorCounts()) + counts
    return groups


def _align(reference: str, hypothesis: str) -> jiwer.WordOutput:
    return jiwer.process_words(_single_spaced(reference), _single_spaced(hypothesis))


def _counts(output: jiwer.WordOutput | jiwer.CharacterOutput) -> ErrorCounts:
    return ErrorCounts(output.hits, output.substitutions, output.deletions, output.insertions)


def _single_spaced(text: str) -> str:
    # jiwer takes a single tab or newline for a part of a word.
    return " ".join(text.split())
