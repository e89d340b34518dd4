"""Words of tokens: as the text has them, with the times of their own tokens."""

from itertools import accumulate, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from sru_asr.decode import Path
from sru_asr.text import CharTokenizer, SentencePieceTokenizer
from sru_asr.words import Word, utterances, word_spans, words_of

CHARS = CharTokenizer("AB ")
A, B, SPACE = 1, 2, 3
PIECES = SentencePieceTokenizer.train(["FORTY FOUR SIX", "SIXTY SIX FOUR", "ONE TEEN SIXTEEN"] * 20, 30)


def path_of(tokens, frames, confidences=None):
    return Path(tokens, frames, confidences or [1.0] * len(tokens), 0.0)


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


def test_a_word_lasts_from_before_its_first_token_until_the_next_or_a_while():
    tokens, frames = [SPACE, A, B, SPACE, B, SPACE, A, B], [3, 5, 6, 9, 12, 13, 50, 53]
    assert words_of(path_of(tokens, frames), CHARS, 25.0) == [
        Word("AB", 0.12, 0.4),  # where the next begins
        Word("B", 0.4, 0.85),  # 0.33 s behind its last
        Word("AB", 1.92, 2.49),
    ]
    assert words_of(path_of(tokens, frames), CHARS, 25.0, 2.3)[-1] == Word("AB", 1.92, 2.3)
    assert words_of(path_of([A, SPACE, B], [0, 1, 2]), CHARS, 25.0) == [Word("A", 0.0, 0.04), Word("B", 0.04, 0.45)]
    assert words_of(path_of([], []), CHARS, 25.0) == []


def test_times_allow_for_a_model_that_emits_late():
    tokens, frames = [SPACE, A, B, SPACE, B, SPACE, A, B], [3, 5, 6, 9, 12, 13, 50, 53]
    path = path_of(tokens, frames)
    late = path_of(tokens, [frame + 4 for frame in frames])
    assert words_of(late, CHARS, 25.0, 2.3, delay=4) == words_of(path, CHARS, 25.0, 2.3)
    # Where an utterance was too short for the delay, words come early, but none before the start or out of turn.
    assert words_of(path, CHARS, 25.0, delay=12) == [
        Word("AB", 0.0, 0.04),
        Word("B", 0.04, 0.37),
        Word("AB", 1.44, 2.01),
    ]


def test_a_word_is_as_sure_as_all_its_tokens():
    path = path_of([SPACE, A, B, SPACE, B], [0, 1, 2, 3, 4], [0.1, 0.5, 0.8, 0.2, 0.9])
    assert [word.confidence for word in words_of(path, CHARS, 25.0)] == [0.4, 0.9]


def test_an_utterance_ends_with_a_pause():
    words = [Word("A", 0, 1), Word("B", 1.2, 1.4), Word("C", 1.8, 2), Word("D", 2.6, 3)]
    assert utterances(words) == [words[:3], words[3:]]
    assert utterances(words, 0.3) == [words[:2], words[2:3], words[3:]]
    assert utterances([]) == []


@given(st.lists(st.tuples(st.sampled_from([A, B, SPACE]), st.integers(1, 30)), max_size=20), st.floats(0, 20))
def test_words_do_not_overlap_and_hold_their_tokens(path, seconds):
    tokens = [token for token, _ in path]
    frames = list(accumulate(step for _, step in path))
    spans, words = word_spans(tokens, CHARS), words_of(path_of(tokens, frames), CHARS, 25.0, seconds)
    for (text, first, last), word in zip(spans, words, strict=True):
        assert word.text == text
        assert 0 <= word.start <= frames[first] / 25
        assert frames[last] / 25 + 0.04 <= word.end + 1e-9
    for before, after in pairwise(words):
        assert before.end <= after.start
    for word in words:
        assert word.end <= max(seconds, frames[-1] / 25 + 0.04) + 0.001  # times are in whole milliseconds
