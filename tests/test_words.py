"""Words of tokens: as the text has them, with the times of their own tokens."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sru_asr.text import CharTokenizer, SentencePieceTokenizer
from sru_asr.words import Word, word_spans, words_of

CHARS = CharTokenizer("AB ")
A, B, SPACE = 1, 2, 3
PIECES = SentencePieceTokenizer.train(["FORTY FOUR SIX", "SIXTY SIX FOUR", "ONE TEEN SIXTEEN"] * 20, 30)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["FORTY", "FOUR", "SIX", "SIXTY", "SIXTEEN", "ONE"]), max_size=6))
def test_words_of_pieces_are_those_of_the_text(words):
    encoded = PIECES.encode(" ".join(words))
    spans = word_spans(encoded, PIECES)
    assert [text for text, _, _ in spans] == words
    assert [token for _, first, last in spans for token in encoded[first : last + 1]] == encoded
    for text, first, last in spans:
        assert PIECES.decode(encoded[first : last + 1]) == text


@given(st.lists(st.sampled_from([A, B, SPACE]), max_size=12))
def test_words_of_characters_are_those_of_the_text_without_the_spaces(path):
    spans = word_spans(path, CHARS)
    assert [text for text, _, _ in spans] == CHARS.decode(path).split()
    for text, first, last in spans:
        assert CHARS.decode(path[first : last + 1]) == text


def test_times_are_those_of_the_first_and_the_last_token():
    frames = [3, 5, 6, 9, 12, 13]
    assert words_of([SPACE, A, B, SPACE, B, SPACE], frames, CHARS, 25.0) == [
        Word("AB", 0.2, 0.28),
        Word("B", 0.48, 0.52),
    ]
    assert words_of([], [], CHARS, 25.0) == []
