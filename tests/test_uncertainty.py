"""Intervals and calibration against formulas for cases that have one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sru_asr import uncertainty as module
from sru_asr.metrics import ErrorCounts
from sru_asr.uncertainty import calibration, difference, interval


def counts(n_errors, n_words=10):
    return ErrorCounts(n_words - n_errors, n_errors, 0, 0)


def test_the_interval_is_that_of_a_binomial_share():
    """400 utterances of one word each, a tenth of them wrong: 10 % +- 1.96 sqrt(0.1 0.9 / 400)."""
    low, high = interval([counts(int(i % 10 == 0), 1) for i in range(400)])
    margin = 1.96 * math.sqrt(0.1 * 0.9 / 400)
    assert low == pytest.approx(0.1 - margin, abs=0.003)
    assert high == pytest.approx(0.1 + margin, abs=0.003)


def test_drawing_in_blocks_changes_nothing(monkeypatch):
    some = [counts(number % 4, 3 + number % 5) for number in range(50)]
    whole = interval(some), interval(some[:7])
    monkeypatch.setattr(module, "BLOCK", 120)
    assert (interval(some), interval(some[:7])) == whole


def test_where_errors_come_together_less_is_known():
    apart = interval([counts(1) for _ in range(5)] + [counts(0) for _ in range(45)])
    together = interval([counts(5)] + [counts(0) for _ in range(49)])
    assert together.high - together.low > apart.high - apart.low


@given(st.lists(st.integers(0, 10), min_size=2, max_size=30))
def test_the_interval_holds_what_the_extremes_allow(errors):
    found = interval([counts(n) for n in errors])
    assert min(errors) / 10 <= found.low <= found.high <= max(errors) / 10
    assert found == interval([counts(n) for n in errors])


def test_of_one_utterance_or_no_words_nothing_is_known():
    assert interval([counts(1)]) is None
    assert interval([]) is None
    assert interval([ErrorCounts(insertions=1)] * 3) is None


def test_a_paired_difference():
    rng = np.random.default_rng(0)
    first = [counts(int(n)) for n in rng.integers(0, 5, 200)]
    same = difference(first, first)
    assert same == (0.0, (0.0, 0.0), 0.0)
    one_better = difference(first, [counts(max(one.errors - 1, 0)) for one in first])
    assert one_better.rate < one_better.interval.high < 0
    assert one_better.better == 1.0
    # Paired: the utterances are as different as ever, but the second system always errs once less.
    certain = difference([counts(n) for n in (3, 9, 5)], [counts(n) for n in (2, 8, 4)])
    assert certain.rate == pytest.approx(-0.1)
    assert certain.interval == pytest.approx((-0.1, -0.1))
    for other in (first[:-1], [counts(0, 9)] * 200):
        with pytest.raises(ValueError, match="the same two or more utterances"):
            difference(first, other)


def test_calibration_by_hand():
    found = calibration([0.95, 0.97, 0.55, 1.0, 0.0], [True, False, True, True, False])
    assert found.bins == [
        (1, 0.0, 0.0),
        (1, 0.55, 1.0),
        (3, pytest.approx((0.95 + 0.97 + 1.0) / 3), pytest.approx(2 / 3)),
    ]
    assert found.error == pytest.approx((0 + 0.45 + 3 * (2.92 / 3 - 2 / 3)) / 5)
    assert calibration([], []) is None
