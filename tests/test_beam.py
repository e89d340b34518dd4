"""The beam search against all alignments of all texts, scored by formulas of their own."""

import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sru_asr.beam import BeamSearch
from sru_asr.decode import Greedy
from sru_asr.hotwords import Hotwords
from sru_asr.lexicon import Lexicon
from sru_asr.scorer import Scorer

PIECES = ("", "A", " B", " ")
ALL = 10**6


class Bigram:
    """A language model of which everything is known."""

    def __init__(self, unit="word"):
        self.unit = unit

    def probability(self, before, unit):
        return 1 / (2 + (len(before) * 7 + len(unit) * 3 + ord(unit[0])) % 5)

    def start(self):
        return "<s>"

    def score(self, state, unit):
        return math.log(self.probability(state, unit)), unit

    def end(self, state):
        return math.log(self.probability(state, "</s>"))

    def of(self, text):
        units = text.split() if self.unit == "word" else [c if c != " " else "\u2581" for c in " ".join(text.split())]
        return sum(math.log(self.probability(a, b)) for a, b in itertools.pairwise(["<s>", *units, "</s>"]))


def random_log_probs(frames, seed, sharpness=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(frames, len(PIECES), generator=generator)).log_softmax(-1)


def search(log_probs, scorer, sizes=(), n=ALL, **limits):
    beam = BeamSearch(scorer, PIECES, **({"width": ALL, "most_tokens": ALL, "token_range": math.inf} | limits))
    for piece in log_probs.split([*sizes, len(log_probs) - sum(sizes)]):
        beam.push(piece)
    return [(tuple(found.path.tokens), found.path.score, found.score) for found in beam.end(n)]


def exhaustive(log_probs, worth):
    """Tokens, sound, score of every text that has any worth, the best first."""
    frames, vocab = log_probs.shape
    sound = {}
    for alignment in itertools.product(range(vocab), repeat=frames):
        tokens = tuple(token for token, _ in itertools.groupby(alignment) if token)
        probability = math.exp(sum(log_probs[t, token].item() for t, token in enumerate(alignment)))
        sound[tokens] = sound.get(tokens, 0.0) + probability
    found = []
    for tokens, probability in sound.items():
        more = worth("".join(PIECES[token] for token in tokens))
        if more is not None:
            found.append((tokens, math.log(probability), math.log(probability) + more))
    return sorted(found, key=lambda one: -one[2])


def check(found, expected):
    assert {one[0] for one in found} == {one[0] for one in expected}
    by_tokens = {one[0]: one for one in expected}
    for tokens, sound, score in found:
        assert sound == pytest.approx(by_tokens[tokens][1], abs=1e-4)
        assert score == pytest.approx(by_tokens[tokens][2], abs=1e-4)
    assert [one[2] for one in found] == sorted((one[2] for one in found), reverse=True)


def hot(text, boosts):
    padded = f" {' '.join(text.split())} "
    return sum(len(re.findall(f"(?= {phrase} )", padded)) * boost for phrase, boost in boosts.items())


BOOSTS = {"A": 0.7, "B A": 1.5, "AA B": -2.0, "BA": 3.0, "A B": 1.1}


@given(st.integers(0, 5), st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_sound_alone(frames, seed):
    log_probs = random_log_probs(frames, seed)
    check(search(log_probs, Scorer()), exhaustive(log_probs, lambda text: 0.0))


@pytest.mark.parametrize("unit", ["word", "character"])
@given(seed=st.integers(0, 10_000), weight=st.floats(0, 2), bonus=st.floats(-2, 2))
@settings(max_examples=10, deadline=None)
def test_with_a_language_model(unit, seed, weight, bonus):
    log_probs, lm = random_log_probs(5, seed), Bigram(unit)
    expected = exhaustive(log_probs, lambda text: weight * lm.of(text) + bonus * len(text.split()))
    check(search(log_probs, Scorer(lm, weight, bonus)), expected)


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_with_hotwords(seed):
    log_probs = random_log_probs(5, seed)
    found = search(log_probs, Scorer(hotwords=Hotwords(BOOSTS)))
    check(found, exhaustive(log_probs, lambda text: hot(text, BOOSTS)))


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_with_all_of_it_in_pieces_and_after_forgetting(seed):
    lm, words = Bigram(), ["A", "AA", "BA", "B"]
    scorer = Scorer(lm, 0.8, 0.5, Lexicon(words), Hotwords(BOOSTS))

    def worth(text):
        if not set(text.split()) <= set(words):
            return None
        return 0.8 * lm.of(text) + 0.5 * len(text.split()) + hot(text, BOOSTS)

    log_probs = random_log_probs(5, seed)
    expected = exhaustive(log_probs, worth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sru_asr.beam.FORGET_FRAMES", 2)
        for sizes in ((), (1, 1, 1), (2, 0, 3)):
            check(search(log_probs, scorer, sizes), expected)


@given(st.integers(0, 60), st.integers(0, 10_000), st.integers(1, 8), st.lists(st.integers(0, 9), max_size=5))
@settings(max_examples=50, deadline=None)
def test_live_equals_offline_and_forgetting_changes_nothing(frames, seed, width, sizes):
    log_probs = random_log_probs(frames, seed)
    sizes = [size for n, size in enumerate(sizes) if sum(sizes[: n + 1]) <= frames]
    scorer = Scorer(Bigram(), 0.5, 0.5, Lexicon(["A", "B", "BA"]), Hotwords(BOOSTS))
    expected = search(log_probs, scorer, width=width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sru_asr.beam.FORGET_FRAMES", 3)
        assert search(log_probs, scorer, sizes, width=width) == expected
    assert len(expected) <= max(width, 1)


def test_a_sharp_model_is_decoded_as_greedily():
    log_probs = random_log_probs(200, 1, sharpness=30.0)
    beam, greedy = BeamSearch(Scorer(), PIECES), Greedy()
    beam.push(log_probs)
    greedy.push(log_probs)
    assert beam.n_frames == greedy.n_frames == 200
    assert beam.path.tokens == beam.end()[0].path.tokens == greedy.path.tokens
    assert sum(a != b for a, b in zip(beam.path.frames, greedy.path.frames, strict=True)) < 10


def test_frames_of_tokens_grow():
    for seed in range(20):
        beam = BeamSearch(Scorer(), PIECES, width=8)
        beam.push(random_log_probs(60, seed, sharpness=0.5))
        for found in beam.end(8):
            assert all(a < b for a, b in itertools.pairwise(found.path.frames))
            assert found.path.frames[-1] < 60


def test_what_is_written_down_is_forgotten():
    log_probs = random_log_probs(60, 3)
    beam = BeamSearch(Scorer(Bigram(), 0.5), PIECES, width=4)
    beam.push(log_probs[:40])
    before = beam.path
    assert len(before.tokens) > 10
    beam.forget(0)
    assert beam.path == before
    beam.forget(7)
    assert beam.path.tokens == before.tokens[7:]
    assert beam.path.frames == before.frames[7:]
    beam.push(log_probs[40:])
    whole = BeamSearch(Scorer(Bigram(), 0.5), PIECES, width=4)
    whole.push(log_probs)
    assert beam.end()[0].path.tokens == whole.end()[0].path.tokens[7:]
    beam.forget(len(beam.path.tokens))
    assert beam.path.tokens == []
    beam.restart()
    assert (beam.path.tokens, beam.n_frames) == ([], 60)


def test_where_all_end_within_a_word_the_likeliest_is_better_than_nothing():
    log_probs = torch.full((1, 4), -20.0)
    log_probs[0, 1] = 0.0
    (found,) = search(log_probs, Scorer(lexicon=Lexicon(["AA"])), most_tokens=1, token_range=0.5, n=3)
    assert found[0] in {(), (1,)}


@pytest.mark.parametrize("limits", [{"width": 0}, {"most_tokens": 0}, {"token_range": -1.0}, {"token_range": math.nan}])
def test_sizes_that_mean_nothing_are_refused(limits):
    with pytest.raises(ValueError, match="expected sizes"):
        BeamSearch(Scorer(), PIECES, **limits)
