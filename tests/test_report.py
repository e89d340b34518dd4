"""The page that shows an evaluation: what it says is what was measured, and nothing in it is more than text."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sru_asr.evaluation import Evaluation, Result
from sru_asr.metrics import char_errors, pair_words, word_errors
from sru_asr.report import report


def result(number, reference, hypothesis, speaker="ann", confidences=()):
    return Result(
        f"u{number}",
        speaker,
        2.0,
        reference,
        hypothesis,
        word_errors(reference, hypothesis),
        char_errors(reference, hypothesis),
        list(confidences),
    )


EVALUATION = Evaluation(
    [
        result(0, "ONE TWO THREE", "ONE TOO", "ann", [0.9, 0.3]),
        result(1, "FOUR", "FOUR", "bob", [0.99]),
        result(2, "FIVE SIX", "OH FIVE SIX", "bob", [0.2, 0.8, 0.9]),
    ],
    ["line 4: no audio"],
)


class Text(HTMLParser):
    """Text, tags and attributes of a page."""

    def __init__(self, page):
        super().__init__()
        self.text, self.tags, self.attributes = "", [], set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.text += f"{data} "


def test_words_are_paired():
    assert pair_words("ONE TWO THREE", "ONE TOO") == [("ONE", "ONE"), ("TWO", "TOO"), ("THREE", "")]
    assert pair_words("", "OH NO") == [("", "OH"), ("", "NO")]
    assert pair_words("", "") == []


def test_it_says_what_was_measured():
    page = Text(report(EVALUATION, "dev.jsonl", {"model": "mine"}))
    text = " ".join(page.text.split())
    assert "50.00 % word error rate" in text
    assert "TWO → TOO 1" in text
    assert "THREE 1" in text
    assert "OH 1" in text
    assert "ann 3 2 66.67 %" in text
    assert text.index("ann 3 2") < text.index("bob 3 1")
    assert "u0 · ann · 2.0 s · 2 of 3 words wrong" in text
    assert "line 4: no audio" in text
    assert "model mine" in text
    assert page.tags.count("circle") == len(EVALUATION.calibration.bins)


def test_groups_have_a_table():
    some = [replace(one, group=group) for one, group in zip(EVALUATION.results, ("child", "child", ""), strict=True)]
    text = " ".join(Text(report(Evaluation(some, grouped_by="age"), "dev", {})).text.split())
    assert "By age age words errors WER child 4 2 50.00 % (not said) 2 1 50.00 %" in text


def test_of_many_groups_it_says_how_many():
    some = [replace(EVALUATION.results[0], group=f"g{number}") for number in range(300)]
    text = " ".join(Text(report(Evaluation(some, grouped_by="age"), "dev", {})).text.split())
    assert "The 200 with the most words, of 300." in text


def test_bars_of_lengths_are_as_long_as_their_rates():
    """They used to be measured by the highest rate of speakers, and cut off there."""
    some = [
        result(0, "ONE", "TWO", ""),
        result(1, "ONE TWO THREE FOUR", "ONE TWO THREE", ""),
        result(2, " ".join(["ONE"] * 20), " ".join(["ONE"] * 20), ""),
    ]
    page = report(Evaluation(some), "dev", {})
    assert re.findall(r'<div style="width: ([0-9.]+)%', page)[:3] == ["100.0", "25.0", "0.0"]


def test_what_comes_from_files_is_text():
    evil = '<script>alert(1)</script><img src=x onerror="alert(1)">'
    page = Text(report(Evaluation([result(0, evil, "A", evil), result(1, "A", "B", "x")], [evil]), evil, {evil: evil}))
    assert not {"script", "img"} & set(page.tags)
    assert "onerror" not in page.attributes
    assert "<script>alert(1)</script>" in page.text


def test_it_loads_nothing_from_elsewhere():
    page = report(EVALUATION, "dev", {})
    assert not re.search(r"(src|href)=|@import|url\(", page)


def test_what_has_no_words_no_speakers_or_no_errors_is_shown_too():
    for evaluation in (
        Evaluation([result(0, "", "", "")]),
        Evaluation([result(0, "", "OH", "")]),
        Evaluation([result(0, "A", "A", ""), result(1, "B", "B", "")]),
    ):
        assert "<h1>none</h1>" in report(evaluation, "none", {})
    page = " ".join(Text(report(Evaluation([result(0, "", "OH", "")]), "none", {})).text.split())
    assert "By length" in page
    assert page.partition("By length")[2].split()[:9].count("0") >= 1


@pytest.mark.slow
def test_the_page_of_ten_hours_is_small():
    some = [result(n, "ONE TWO THREE FOUR " * 4, "ONE TOO FOUR " * 4, f"s{n % 300}", [0.9] * 12) for n in range(7_000)]
    page = report(Evaluation(some), "long", {})
    assert len(page) < 2_000_000
    assert "100 of the 7000 with errors" in page
