"""Error counts against an independent edit distance, their arithmetic, and the alignment."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sru_asr.metrics import ErrorCounts, align_words, by_group, char_errors, total, word_errors

# Few different words and letters, so that hits are common and alignments ambiguous.
words = st.lists(st.sampled_from(["A", "B", "AB", "BA", "IT'S"]), max_size=8)
counts = st.builds(ErrorCounts, *[st.integers(0, 50)] * 4)


def edit_distance(reference, hypothesis):
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, start=1):
        above, row = row, [i]
        for j, found in enumerate(hypothesis, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (expected != found)))
    return row[-1]


def check(result, reference, hypothesis):
    assert result.errors == edit_distance(reference, hypothesis)
    assert result.reference == len(reference)
    assert result.hits + result.substitutions + result.insertions == len(hypothesis)
    assert min(result.hits, result.substitutions, result.deletions, result.insertions) >= 0


@given(words, words)
def test_word_errors_are_a_least_cost_alignment(reference, hypothesis):
    check(word_errors(" ".join(reference), " ".join(hypothesis)), reference, hypothesis)


@given(words, words)
def test_char_errors_are_a_least_cost_alignment_that_counts_spaces(reference, hypothesis):
    reference, hypothesis = " ".join(reference), " ".join(hypothesis)
    check(char_errors(reference, hypothesis), reference, hypothesis)


@given(words, words, st.sampled_from(["  ", "\t", "\n", " \t\n "]))
def test_white_space_between_words_does_not_matter(reference, hypothesis, gap):
    plain = " ".join(reference), " ".join(hypothesis)
    spaced = gap + gap.join(reference), gap.join(hypothesis) + gap
    assert word_errors(*spaced) == word_errors(*plain)
    assert char_errors(*spaced) == char_errors(*plain)
    assert align_words(*spaced) == align_words(*plain)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("A B C", "A B C", ErrorCounts(hits=3)),
        ("A B C", "A X C", ErrorCounts(hits=2, substitutions=1)),
        ("A B C", "A C", ErrorCounts(hits=2, deletions=1)),
        ("A C", "A B C", ErrorCounts(hits=2, insertions=1)),
        ("A B", "", ErrorCounts(deletions=2)),
        ("", "A B", ErrorCounts(insertions=2)),
        (" ", "", ErrorCounts()),
    ],
)
def test_each_kind_of_error_has_its_count(reference, hypothesis, expected):
    assert word_errors(reference, hypothesis) == expected


def test_the_rate_of_an_empty_reference_is_zero_or_infinite():
    assert word_errors("", "").rate == 0.0
    assert word_errors("", "A").rate == math.inf
    assert word_errors("A", "B C D").rate == 3.0


@given(counts)
def test_a_dict_is_valid_json_and_consistent(item):
    row = json.loads(json.dumps(item.to_dict(), allow_nan=False))
    assert row["errors"] == row["substitutions"] + row["deletions"] + row["insertions"]
    assert row["reference"] == row["hits"] + row["substitutions"] + row["deletions"]
    if row["rate"] is None:
        assert row["reference"] == 0 < row["errors"]
    else:
        assert row["rate"] * row["reference"] == pytest.approx(row["errors"] if row["reference"] else 0)


@given(st.lists(st.tuples(st.sampled_from("abc"), counts)))
def test_groups_add_up_to_the_total(items):
    groups = by_group(iter(items))
    everything = total(item for _, item in items)
    assert list(groups) == list(dict.fromkeys(name for name, _ in items))
    assert total(groups.values()) == everything
    for field in ("hits", "substitutions", "deletions", "insertions"):
        assert getattr(everything, field) == sum(getattr(item, field) for _, item in items)


def test_a_total_of_nothing_is_zero():
    assert total([]) == ErrorCounts(0, 0, 0, 0)


def test_an_alignment_is_readable():
    assert align_words("THE QUICK BROWN FOX JUMPS HIGH", "THE QUICKER FOX JUMPS VERY HIGH").split("\n") == [
        "REF: THE   QUICK BROWN FOX JUMPS **** HIGH",
        "HYP: THE QUICKER ***** FOX JUMPS VERY HIGH",
        "               S     D              I",
    ]


@given(words, words)
def test_an_alignment_holds_both_texts_and_marks_every_error(reference, hypothesis):
    lines = align_words(" ".join(reference), " ".join(hypothesis)).split("\n")
    assert [line[:4] for line in lines[:2]] == ["REF:", "HYP:"]
    assert [word for word in lines[0][4:].split() if set(word) != {"*"}] == reference
    assert [word for word in lines[1][4:].split() if set(word) != {"*"}] == hypothesis
    result = word_errors(" ".join(reference), " ".join(hypothesis))
    marks = [lines[2].count(mark) for mark in "SDI"]
    assert marks == [result.substitutions, result.deletions, result.insertions]
