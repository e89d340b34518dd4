"""What decoding is made of: hotwords, lexicons and language models from files, and what they do to texts."""

import argparse
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sru_asr.beam import WIDTH
from sru_asr.commands.options import add_decoding
from sru_asr.decode import Greedy
from sru_asr.decoding import Decoding, read_decoding
from sru_asr.hotwords import DEFAULT_BOOST, HotwordError, Hotwords, read_hotwords
from sru_asr.lexicon import Lexicon, LexiconError, read_lexicon
from sru_asr.live import Live
from sru_asr.lm import SPACE, LanguageModelError, Ngram, train_ngram
from sru_asr.model import ModelConfig, Recognizer
from sru_asr.scorer import LM_WEIGHT, WORD_BONUS, Scorer
from sru_asr.text import BLANK, CharTokenizer

ARPA = """\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.5
-0.5\t</s>
-0.7\tYES\t-0.2

\\2-grams:
-0.1\t<s> YES
-0.3\tYES </s>

\\end\\
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def model():
    torch.manual_seed(3)
    recogniser = Recognizer(ModelConfig(channels=4, hidden_size=16, num_layers=2), CharTokenizer())
    recogniser.features.mean.fill_(-5.0)
    recogniser.features.scale.fill_(0.5)
    with torch.no_grad():
        recogniser.ctc.linear.weight *= 4
    return recogniser.eval()


def total(hotwords, text):
    state, sum_ = hotwords.start, 0.0
    for character in [*text, " "]:
        state, boost = hotwords.step(state, character)
        sum_ += boost
    return sum_


PHRASES = st.dictionaries(
    st.lists(st.text("AB", min_size=1, max_size=3), min_size=1, max_size=3).map(" ".join), st.integers(1, 9), max_size=6
)
TEXTS = st.lists(st.text("AB", min_size=1, max_size=3), max_size=12).map(" ".join)


@given(PHRASES, TEXTS)
def test_each_time_that_a_phrase_is_said_it_counts(boosts, text):
    words = text.split()
    expected = 0
    for phrase, boost in boosts.items():
        parts = phrase.split()
        expected += boost * sum(words[i : i + len(parts)] == parts for i in range(len(words)))
    assert total(Hotwords(boosts), text) == expected


@given(PHRASES.filter(bool), TEXTS)
def test_what_has_begun_is_worth_less_than_all_and_more_than_nothing(boosts, text):
    hotwords = Hotwords(boosts)
    state = hotwords.start
    for character in text:
        state, _ = hotwords.step(state, character)
        assert 0 <= hotwords.begun(state) < max(boosts.values())
    phrase = max(boosts, key=lambda one: len(one))
    state, _ = hotwords.step(hotwords.start, phrase[0])
    assert hotwords.begun(state) > 0


def test_parts_of_words_are_no_phrases():
    hotwords = Hotwords({"ANN": 4.0})
    assert total(hotwords, "ANN") == 4
    assert total(hotwords, "ANNA") == total(hotwords, "HANN") == total(hotwords, "JOANN ANNA") == 0
    state, _ = hotwords.step(hotwords.start, "X")
    assert hotwords.begun(state) == 0


def test_hotwords_are_read(tmp_path):
    path = write(tmp_path / "h.txt", "# names\n\nANN  SMITH\nRUBOUT\t-2.5\n")
    assert read_hotwords(path, 3.0).boosts == {"ANN SMITH": 3.0, "RUBOUT": -2.5}
    assert read_hotwords(str(path)).boosts == {"ANN SMITH": 5.0, "RUBOUT": -2.5}
    assert read_hotwords(write(path, "\ufeffANN\n")).boosts == {"ANN": 5.0}  # as editors on Windows begin files
    assert read_hotwords(write(path, "Ann Smith-Jones.\nO\u2019Neil\n")).boosts == {"ANN SMITH JONES": 5, "O'NEIL": 5}
    with pytest.raises(HotwordError, match=r"found nan$"):
        read_hotwords(path, math.nan)


def test_hotwords_that_would_take_much_memory():
    with pytest.raises(HotwordError, match="500000 characters in all"):
        Hotwords({f"{number:05}" + "A" * 190: 1.0 for number in range(3_000)})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "found none"),
        ("ANN\tmuch", "line 1: expected PHRASE"),
        ("ANN\tnan", "line 1"),
        ("ANN\t1e9", "boost from -100 to 100"),
        ("A" * 300, "at most 200 characters"),
        ("\ufffe\ud800", "cannot be read as text"),
    ],
)
def test_hotwords_that_are_none(tmp_path, text, match):
    path = tmp_path / "h.txt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(HotwordError, match=match):
        read_hotwords(path)
    with pytest.raises(HotwordError, match="cannot be read"):
        read_hotwords(tmp_path / "no.txt")


@given(st.sets(st.text("ABC", min_size=1, max_size=4), min_size=1, max_size=20), st.text("ABC", max_size=5))
def test_a_lexicon_knows_its_words_and_how_they_begin(words, part):
    lexicon = Lexicon(words)
    assert (part in lexicon) == (part in words)
    assert lexicon.begins(part) == any(word.startswith(part) for word in words)


def test_lexicons_are_read(tmp_path):
    assert read_lexicon(write(tmp_path / "a", "YES\tY EH S\nNO\tN OW\n")).words == ["NO", "YES"]
    assert read_lexicon(write(tmp_path / "b", "\ufeffYES NO\nNO MAYBE\n")).words == ["MAYBE", "NO", "YES"]
    assert read_lexicon(str(tmp_path / "b")).words == ["MAYBE", "NO", "YES"]
    assert read_lexicon(write(tmp_path / "d", "Say: yes, please.\n")).words == ["PLEASE", "SAY", "YES"]
    for path in (write(tmp_path / "c", "\n"), tmp_path / "none"):
        with pytest.raises(LexiconError, match=path.name):
            read_lexicon(path)


def test_an_arpa_file_is_read(tmp_path):
    pytest.importorskip("kenlm")
    ngram = Ngram(write(tmp_path / "lm.arpa", ARPA))
    assert ngram.order == 2
    value, yes = ngram.score(ngram.start(), "YES")
    assert value == pytest.approx(-0.1 * math.log(10))
    assert ngram.end(yes) == pytest.approx(-0.3 * math.log(10))
    value, unknown = ngram.score(yes, "NO")
    assert value == pytest.approx((-0.2 - 1.0) * math.log(10))
    assert ngram.end(unknown) == pytest.approx(-0.5 * math.log(10))
    assert ngram.score(ngram.start(), "YES")[0] == pytest.approx(-0.1 * math.log(10))  # states stay as they were


@pytest.mark.parametrize(("unit", "order"), [("word", 2), ("word", 4), ("character", 3)])
def test_what_is_trained_is_a_distribution(tmp_path, unit, order):
    """Over what follows the start: all units and the end, but for the word that stands for all others."""
    pytest.importorskip("kenlm")
    pytest.importorskip("kaldingram")
    texts = ["YES NO YES", "NO NO", "", "MAYBE YES"] * 3 + ["YES"]
    path = tmp_path / "lm.arpa"
    n_units = train_ngram(texts, path, order, unit)
    assert n_units == (22 if unit == "word" else sum(map(len, texts)))
    ngram = Ngram(path, unit)
    units = {"YES", "NO", "MAYBE"} if unit == "word" else {*"YESNOMAB", SPACE}
    for before in ([], ["NO" if unit == "word" else "N"]):
        state = ngram.start()
        for one in before:
            _, state = ngram.score(state, one)
        total = sum(math.exp(ngram.score(state, one)[0]) for one in units) + math.exp(ngram.end(state))
        assert total == pytest.approx(1, abs=1e-3)
        assert ngram.score(state, "\u00c9")[0] == pytest.approx(math.log(1e-5), abs=3)
    assert list(tmp_path.iterdir()) == [path]


def test_a_word_that_nobody_understood_makes_no_others_likely(tmp_path):
    pytest.importorskip("kenlm")
    pytest.importorskip("kaldingram")
    texts = ["YES <UNK> YES", "NO <UNK>", "YES NO NO"] * 3
    assert train_ngram(texts, tmp_path / "lm.arpa", 2) == 18
    ngram = Ngram(tmp_path / "lm.arpa")
    assert ngram.score(ngram.start(), "MAYBE")[0] == pytest.approx(math.log(1e-5), abs=3)


def test_what_cannot_be_trained(tmp_path):
    pytest.importorskip("kaldingram")
    for texts, order, match in (
        ([], 2, "found none"),
        (["A"], 9, "order of 2 to 5"),
        (["A"], 1, "order of 2 to 5"),
        (["YES", "NO", "NO"] * 3, 4, "too few for 4-grams .no text is as long.: take more text, or a lower order$"),
    ):
        with pytest.raises(LanguageModelError, match=match):
            train_ngram(texts, tmp_path / "lm.arpa", order)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("more", [[], ["REPEAT", "ENTER SIX"] * 3])
def test_what_occurs_once_is_likelier_than_what_does_not(tmp_path, more, order, capsys):
    """Where nothing occurs twice, the usual discount would be all of it."""
    pytest.importorskip("kenlm")
    pytest.importorskip("kaldingram")
    path = tmp_path / "lm.arpa"
    train_ngram(["OPEN DOOR", "CLOSE WINDOW", "CALL MOTHER", *more], path, order)
    ngram = Ngram(path)

    def worth(text):
        state, total = ngram.start(), 0.0
        for word in text.split():
            value, state = ngram.score(state, word)
            total += value
        return total + ngram.end(state)

    for seen in ("OPEN DOOR", "CLOSE WINDOW", "CALL MOTHER"):
        for unseen in ("OPEN MOTHER", "DOOR OPEN", "CALL WINDOW"):
            assert -10 < worth(seen) > worth(unseen)
    assert capsys.readouterr().err == ""  # nobody looks at progress bars here


@pytest.mark.parametrize(
    ("text", "unit", "match"),
    [
        (ARPA.replace("1=4", "1=-4"), "word", "number of n-grams, found 'ngram 1=-4'"),
        (ARPA.replace("1=4", "1=99999999999"), "word", "number of n-grams"),
        (ARPA.replace("YES", "yes"), "word", "upper case without punctuation, found 'yes'"),
        (ARPA, "character", "expected a model over characters, found 'YES'"),
        (ARPA.replace("YES", SPACE), "word", "expected a model over words"),
    ],
)
def test_a_language_model_of_another_kind_is_refused(tmp_path, text, unit, match):
    pytest.importorskip("kenlm")
    with pytest.raises(LanguageModelError, match=match):
        Ngram(write(tmp_path / "lm.arpa", text), unit)


@pytest.mark.parametrize("content", [b"", b"\\data\\\nngram 1=2\n", bytes(range(256)) * 40])
def test_what_is_no_language_model(tmp_path, content):
    pytest.importorskip("kenlm")
    path = tmp_path / "lm.arpa"
    path.write_bytes(content)
    with pytest.raises(LanguageModelError, match="expected an ARPA file"):
        Ngram(path)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(LanguageModelError, match=f"{path}: expected an ARPA file"):
        Ngram(path)
    with pytest.raises(LanguageModelError, match="found no file"):
        Ngram(tmp_path / "no.arpa")


def test_the_command_line_says_what_the_defaults_are():
    """It has numbers of its own, since a parser is made before anything heavy is imported."""
    parser = argparse.ArgumentParser()
    add_decoding(parser)
    help_ = " ".join(parser.format_help().split())
    assert f"of its logs (default: {LM_WEIGHT:g})" in help_
    assert f"where it has none of its own (default: {DEFAULT_BOOST:g})" in help_
    assert f"(default: {WORD_BONUS:g} with a language model, else 0)" in help_
    assert f"hypotheses that are kept (default: {WIDTH} where" in help_


def test_ways_of_decoding():
    assert isinstance(Decoding().decoder(("", "A")), Greedy)
    assert read_decoding() == Decoding()
    assert read_decoding(n_best=4).width == 16
    assert read_decoding(n_best=40).width == 40
    assert read_decoding(width=3).width == 3
    assert read_decoding(word_bonus=1.0).scorer.word_bonus == 1.0
    for wrong in ({"width": 0}, {"n_best": 0}, {"width": 2, "n_best": 3}):
        with pytest.raises(ValueError, match=r"expected (a beam of|n-best from 1)"):
            read_decoding(**wrong)
    for wrong in ({"word_bonus": math.nan}, {"word_bonus": math.inf}, {"word_bonus": 1e308}):
        with pytest.raises(ValueError, match="expected numbers from"):
            read_decoding(**wrong)


def test_alternatives_differ_in_their_texts(monkeypatch):
    """A space at the end makes other tokens, and no other text."""
    recogniser = model()
    a, space, b = recogniser.tokenizer.encode("A B")
    log_probs = torch.full((1, 2, recogniser.tokenizer.vocab_size), -9.0)
    log_probs[0, 0, a], log_probs[0, 0, b] = -0.2, -1.7
    log_probs[0, 1, BLANK], log_probs[0, 1, space] = -0.7, -0.8
    monkeypatch.setattr(recogniser, "forward", lambda *_: (log_probs, torch.tensor([2])))
    found = recogniser.transcribe(torch.zeros(1_000), Decoding(Scorer(), 16, 2)).alternatives
    assert [one.text for one in found] == ["A", "B"]


def test_a_file_and_live_speech_are_decoded_alike_by_a_search():
    recogniser = model()
    scorer = Scorer(word_bonus=1.0, hotwords=Hotwords({"A": 3.0, "OF": 3.0}))
    decoding = Decoding(scorer, 8, 3)
    generator = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(40_000, generator=generator)
    transcript = recogniser.transcribe(waveform, decoding)
    assert transcript.alternatives[0].text == transcript.text
    assert [one.score for one in transcript.alternatives] == sorted(
        (one.score for one in transcript.alternatives), reverse=True
    )
    assert len({one.text for one in transcript.alternatives}) > 1
    whole = Live(recogniser, 1_000, 0, pause_seconds=60, decoding=decoding)  # one window is full context
    captions = [caption for piece in waveform.split(3_333) for caption in whole.push(piece)] + whole.finish()
    assert captions[-1].text == transcript.text
    assert [caption.final for caption in captions] == [True]
    pieces = []
    for size in (777, 4_000):
        live = Live(recogniser, 2, 2, pause_seconds=60, decoding=decoding)
        pieces.append([c for piece in waveform.split(size) for c in live.push(piece)] + live.finish())
    assert pieces[0][-1] == pieces[1][-1]
    assert transcript.text != recogniser.transcribe(waveform).text


def test_a_phrase_has_one_boost(tmp_path):
    """Of two that are the same once normalised the last one's counted."""
    path = tmp_path / "hot.txt"
    path.write_text("Stra\u00dfe\t3\nONE\nSTRASSE\t3\n")
    assert read_hotwords(path).boosts == {"STRASSE": 3.0, "ONE": DEFAULT_BOOST}
    path.write_text("Stra\u00dfe\t3\nSTRASSE\t-2\n")
    with pytest.raises(HotwordError, match=r"line 2, .*: expected one boost for a phrase, .* given 3 before"):
        read_hotwords(path)


def test_a_text_is_no_lexicon():
    """Of its letters, each a word, none of its words could be recognised."""
    with pytest.raises(LexiconError, match=r"expected words one by one, found a text: \['SIX SEVEN'\]"):
        Lexicon("SIX SEVEN")
