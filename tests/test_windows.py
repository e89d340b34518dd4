"""How a latency is divided into chunk and lookahead; what windows compute is tested with the SRU."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sru_asr.windows import window_of


@given(st.floats(80, 10_000), st.sampled_from([25.0, 50.0]))
def test_a_window_fills_its_latency_and_no_more(latency, rate):
    chunk, lookahead = window_of(latency, rate)
    assert chunk >= 1
    assert lookahead >= 1
    milliseconds = 1000 * (chunk + lookahead) / rate
    assert milliseconds <= latency + 1e-3
    assert milliseconds > latency - 1000 / rate - 1e-3


def test_latencies_that_are_whole_frames_are_taken_whole():
    """0.04 s is no binary fraction."""
    for rate in (25.0, 50.0):
        for frames in range(2, 200):
            assert sum(window_of(1000 * frames / rate, rate)) == frames


@pytest.mark.parametrize("latency", [0, 79.9, -320, math.nan, math.inf])
def test_what_has_no_room_is_refused(latency):
    with pytest.raises(ValueError, match="at least 80 ms, two frames"):
        window_of(latency, 25.0)


@pytest.mark.parametrize(("rate", "share"), [(0.0, 0.5), (-25.0, 0.5), (math.nan, 0.5), (25.0, -1.0), (25.0, 1.1)])
def test_what_means_nothing_is_refused(rate, share):
    with pytest.raises(ValueError, match="frames_per_second above 0 and lookahead_share from 0 to 1"):
        window_of(320, rate, share)
