"""Subtitles: every word once and in order, in cues that can be read, in files that others can read."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sru_asr.subtitles import cues, srt, vtt
from sru_asr.words import Word


@st.composite
def spoken(draw: st.DrawFn) -> list[Word]:
    """Words one after the other, with pauses."""
    words, time = [], 0.0
    for _ in range(draw(st.integers(0, 40))):
        time += draw(st.floats(0, 3))
        end = time + draw(st.floats(0.04, 0.5))
        words.append(Word(draw(st.text("ABC", min_size=1, max_size=50)), round(time, 3), round(end, 3)))
        time = end
    return words


@given(spoken())
def test_cues_have_all_words_in_order_and_can_be_read(words: list[Word]) -> None:
    found = cues(words)
    assert [text for cue in found for text in cue.text.split()] == [word.text for word in words]
    end = 0.0
    for cue in found:
        assert end <= cue.start <= cue.end
        end = cue.end
        lines = cue.text.split("\n")
        assert len(lines) <= 2
        assert all(len(line) <= 42 or " " not in line for line in lines)
        assert cue.end - cue.start <= 7 + 0.7 + 1e-9


def test_a_pause_begins_a_new_cue() -> None:
    words = [Word("ONE", 1.0, 1.1), Word("TWO", 1.7, 2.1), Word("THREE", 2.9, 3.6), Word("FOUR", 3.7, 3.8)]
    assert [cue.text for cue in cues(words)] == ["ONE TWO", "THREE FOUR"]
    assert [time for cue in cues(words) for time in cue[:2]] == pytest.approx([0.9, 2.4, 2.8, 4.1])


def test_files_are_as_their_formats_say() -> None:
    words = [Word("A<B&C", 3_661.5, 3_661.54), Word("D", 3_664.0, 3_664.04)]
    assert srt(words) == ("1\n01:01:01,400 --> 01:01:01,840\nA<B&C\n\n2\n01:01:03,900 --> 01:01:04,340\nD\n\n")
    assert vtt(words).startswith("WEBVTT\n\n01:01:01.400 --> 01:01:01.840\nA&lt;B&amp;C\n\n")
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n\n"


@given(spoken())
def test_times_in_a_file_never_go_back(words: list[Word]) -> None:
    times = [
        ((int(h) * 60 + int(m)) * 60 + int(s)) * 1000 + int(ms)
        for h, m, s, ms in re.findall(r"(\d\d):(\d\d):(\d\d),(\d{3})", srt(words))
    ]
    assert times == sorted(times)
