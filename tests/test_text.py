"""The normal form of transcripts, and tokenizers: round trips, what they refuse, and what they are read back from."""

import base64
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sru_asr.text import (
    BLANK,
    DEFAULT_SYMBOLS,
    CharTokenizer,
    SentencePieceTokenizer,
    TokenizerError,
    alphabet,
    normalize,
    tokenizer_from_dict,
)

CORPUS = [
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "IT'S NINETEEN SEVENTY",
    "THE DOG JUMPS OVER THE OTHER DOG",
    "SEVENTEEN QUICK FOXES ARE OVER THERE",
] * 5
PIECES = SentencePieceTokenizer.train(CORPUS, 60)
TOKENIZERS = {
    "char": CharTokenizer(),
    "bpe": PIECES,
    "unigram": SentencePieceTokenizer.train(CORPUS, 40, model_type="unigram"),
}

transcripts = st.lists(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ'", min_size=1, max_size=8), max_size=6).map(" ".join)
# What normalisation changes, what it changes into something else again, and anything.
awkward = st.one_of(
    st.sampled_from(
        "aZ \t\u00a0-_'\u2019\u00b4`.,\u2026\u00df\u1e9e\u0130\u0149\u0384\u0390\u00a8\ufb01\u0345\u0301\u00ad\ufe0f"
    ),
    st.characters(codec="utf-8"),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", "HELLO WORLD"),
        ("it\u2019s  \u2018tis it\u00b4s it`s it\u02bcs it\uff07s", "IT'S 'TIS IT'S IT'S IT'S IT'S"),
        ("twenty-one snake_case a\u2013b\u2014c\u2010d\u2011e\u2212f", "TWENTY ONE SNAKE CASE A B C D E F"),
        ('"Wait\u2026" [he] (said); what?: \u201cno\u201d.', "WAIT HE SAID WHAT NO"),
        ("\uff28\uff25\uff29 \ufb01ne \u2460 stra\u00dfe", "HEI FINE 1 STRASSE"),
        ("\u00a0 tabs\tand\nlines \u3000", "TABS AND LINES"),
        ("co\u00adoperate", "COOPERATE"),
        ("\ufeffzero\u200bwidth\u200e", "ZEROWIDTH"),
        ("\u0645\u06cc\u200c\u0634\u0648\u062f", "\u0645\u06cc\u200c\u0634\u0648\u062f"),
        ("caf\u0065\u0301", "CAF\u00c9"),
        ("50% & 3\u20ac, \u4f60", "50% & 3\u20ac \u4f60"),
        ("\uff28\uff45\uff49\uff01 \uff1f", "HEI"),
        ("\u0149", "'N"),
        ("\u0390", "\u03aa\u0301"),
        ("STRA\u1e9eE", "STRASSE"),
        ("\u0130yi k\u0131\u015f", "IYI KI\u015e"),
        ("\u03c3\u0384 \u1fbd\u03b1", "\u03a3' '\u0391"),
        ("a \u00a8 b \u00b8c", "A B C"),
        ("\u203c\ufe0f \u2764\ufe0f", "\u2764"),
        ("\u201aja\u2018 \u203aja\u2039", "JA JA"),
        (
            "\u00bfqu\u00e9? \u00a1no! \u03c4\u03b9\u00b7 \u0928\u0939\u0940\u0902\u0964",
            "QU\u00c9 NO \u03a4\u0399 \u0928\u0939\u0940\u0902",
        ),
        ("\u05d0\u05be\u05d1", "\u05d0 \u05d1"),
        ("", ""),
        (" -...- ", ""),
    ],
)
def test_normalize(text, expected):
    assert normalize(text) == expected


@given(st.text(awkward, max_size=12))
def test_normalize_is_idempotent(text):
    once = normalize(text)
    assert normalize(once) == once
    assert once == " ".join(once.split())
    assert not set(once) & set('.,!?;:"()[]-_\u2026\u2019')


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=transcripts)
def test_decoding_undoes_encoding(name, text):
    tokenizer = TOKENIZERS[name]
    if tokenizer.missing(text):
        return
    ids = tokenizer.encode(text)
    assert BLANK not in ids
    assert all(0 < id < tokenizer.vocab_size for id in ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([BLANK, *ids, BLANK, BLANK]) == text


def test_default_characters():
    tokenizer = CharTokenizer()
    assert tokenizer.vocab_size == 29
    assert tokenizer.encode(" 'AZ") == [1, 2, 3, 28]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(st.sampled_from("ABC 3\u00e9\u2581\t<unk>"), max_size=10))
def test_characters_without_a_token_are_named(name, text):
    tokenizer = TOKENIZERS[name]
    missing = set(text) & set("3\u00e9\u2581\t<unk>")
    assert tokenizer.missing(text) == missing
    if not missing:
        tokenizer.encode(text)
        return
    with pytest.raises(TokenizerError) as error:
        tokenizer.encode(text)
    assert all(repr(symbol) in str(error.value) for symbol in missing)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_of_another_tokenizer_are_refused(name):
    tokenizer = TOKENIZERS[name]
    for id in (-1, tokenizer.vocab_size):
        with pytest.raises(TokenizerError, match=rf"0 to {tokenizer.vocab_size - 1}, found \[{id}\]"):
            tokenizer.decode([1, id])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_survives_json_and_pickle(name):
    tokenizer = TOKENIZERS[name]
    text = "THE QUICK DOG"
    for copy in (
        tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict()))),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert type(copy) is type(tokenizer)
        assert copy.vocab_size == tokenizer.vocab_size
        assert copy.encode(text) == tokenizer.encode(text)
        assert copy.to_dict() == tokenizer.to_dict()


@pytest.mark.parametrize("text", ["50 \u20ac", "R&B", "\u2764"])
def test_pieces_are_not_trained_on_what_can_be_read_in_more_than_one_way(text):
    """Characters refused it, pieces learned signs that nobody says."""
    with pytest.raises(TokenizerError, match=r"expected letters only, found .*; numbers are spelled out"):
        SentencePieceTokenizer.train([*CORPUS, text], 60)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_training_says_which_sizes_are_possible(model_type):
    with pytest.raises(TokenizerError, match=r"at most (\d+) for these texts, found 5000") as error:
        SentencePieceTokenizer.train(CORPUS, 5000, model_type=model_type)
    largest = int(str(error.value).split("at most ")[1].split()[0])
    assert SentencePieceTokenizer.train(CORPUS, largest, model_type=model_type).vocab_size == largest
    with pytest.raises(TokenizerError, match=f"at most {largest} for"):
        SentencePieceTokenizer.train(CORPUS, largest + 1, model_type=model_type)
    with pytest.raises(TokenizerError, match=r"at least (\d+), for all characters, found 5;"):
        SentencePieceTokenizer.train(CORPUS, 5, model_type=model_type)


def test_training_is_quiet_and_takes_an_iterator(capfd):
    assert SentencePieceTokenizer.train(iter(CORPUS), 60).to_dict() == PIECES.to_dict()
    assert capfd.readouterr() == ("", "")


def test_training_learns_from_long_texts():
    long = "THE DOG " * 2000
    assert not SentencePieceTokenizer.train([long.strip()], 14).missing("THE DOG")


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_training_needs_texts(texts):
    with pytest.raises(TokenizerError, match="found none"):
        SentencePieceTokenizer.train(texts, 30)


def model(data):
    return {"type": "sentencepiece", "model": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (None, "expected a tokenizer as"),
        ([], "expected a tokenizer as"),
        ({}, "expected a tokenizer as"),
        ({"type": "words", "symbols": ["A"]}, "expected a tokenizer as"),
        ({"type": "char"}, "expected a tokenizer as"),
        ({"type": "char", "symbols": "ABC"}, "expected a tokenizer as"),
        ({"type": "char", "symbols": ["A"], "extra": 1}, "expected a tokenizer as"),
        ({"type": "char", "symbols": []}, "found 0"),
        ({"type": "char", "symbols": ["A"] * 300_000}, "found 300000"),
        ({"type": "char", "symbols": ["A", 7]}, "of one character, found 7"),
        ({"type": "char", "symbols": ["A", ["B"]]}, "of one character, found "),
        ({"type": "char", "symbols": ["A", "BC"]}, "of one character, found 'BC'"),
        ({"type": "char", "symbols": ["A", ""]}, "of one character, found ''"),
        ({"type": "char", "symbols": ["A", "B", "A"]}, "found 'A' more than once"),
        ({"type": "sentencepiece", "model": 7}, "expected a tokenizer as"),
        ({"type": "sentencepiece", "model": "*not base64*"}, "in base64"),
        ({"type": "sentencepiece", "model": "\u00e9"}, "in base64"),
        ({"type": "sentencepiece", "model": "A" * 23_000_000}, "found 23000000"),
        (model(b""), "found 0 bytes"),
        (model(b"not a model"), "cannot load"),
        (model(PIECES.model_proto[:-3]), "cannot load"),
    ],
)
def test_descriptions_from_a_file_are_not_trusted(description, message):
    with pytest.raises(TokenizerError) as error:
        tokenizer_from_dict(description)
    assert message in str(error.value)
    assert len(str(error.value)) < 400


@given(st.data())
def test_a_damaged_model_is_refused_or_works(data):
    damaged = bytearray(PIECES.model_proto)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        tokenizer = SentencePieceTokenizer(bytes(damaged))
    except TokenizerError:
        return
    assert isinstance(tokenizer.decode(range(tokenizer.vocab_size)), str)
    if not tokenizer.missing("THE DOG"):
        assert all(0 < id < tokenizer.vocab_size for id in tokenizer.encode("THE DOG"))


def test_the_alphabet_has_the_letters_of_the_texts_and_no_digits():
    texts = ["ÇA VA", "STRASSE 7", "هَل", "می\u200cروم", "£5"]
    assert alphabet(texts) == (*DEFAULT_SYMBOLS, *sorted({*"Çهَلمیروم", "\u200c"}))
    assert alphabet([]) == DEFAULT_SYMBOLS
    assert CharTokenizer(alphabet(texts)).missing(texts[1]) == {"7"}
