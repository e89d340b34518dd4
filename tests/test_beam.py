"""The beam search against all alignments of all texts, scored by formulas of their own."""

import copy
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
def test_with_all_of_it_in_pieces(seed):
    lm, words = Bigram(), ["A", "AA", "BA", "B"]
    scorer = Scorer(lm, 0.8, 0.5, Lexicon(words), Hotwords(BOOSTS))

    def worth(text):
        if not set(text.split()) <= set(words):
            return None
        return 0.8 * lm.of(text) + 0.5 * len(text.split()) + hot(text, BOOSTS)

    log_probs = random_log_probs(5, seed)
    expected = exhaustive(log_probs, worth)
    for sizes in ((), (1, 1, 1), (2, 0, 3)):
        check(search(log_probs, scorer, sizes), expected)


@given(st.integers(0, 60), st.integers(0, 10_000), st.integers(1, 8), st.lists(st.integers(0, 9), max_size=5))
@settings(max_examples=50, deadline=None)
def test_live_equals_offline(frames, seed, width, sizes):
    log_probs = random_log_probs(frames, seed)
    sizes = [size for n, size in enumerate(sizes) if sum(sizes[: n + 1]) <= frames]
    scorer = Scorer(Bigram(), 0.5, 0.5, Lexicon(["A", "B", "BA"]), Hotwords(BOOSTS))

    def found(sizes):
        beam = BeamSearch(scorer, PIECES, width, ALL, math.inf)
        for piece in log_probs.split([*sizes, frames - sum(sizes)]):
            beam.push(piece)
        return beam.end(ALL)  # times and confidences, too

    expected = found([])
    assert found(sizes) == expected
    assert len(expected) <= max(width, 1)


def test_what_no_hypothesis_goes_on_from_is_gone():
    beam = BeamSearch(Scorer(), PIECES, width=8)
    beam.push(random_log_probs(2_000, 1))
    needed = set()
    for one in beam._beam:
        while one is not None and one not in needed:
            needed.add(one)
            one = one.before
    known = [after() for one in needed for after in one.after.values()]
    assert len(needed) > 500
    assert {after for after in known if after is not None} <= needed


def test_of_what_is_forgotten_no_times_are_kept():
    """They stayed until the next pause, as each token knew when the one before it had been emitted."""
    beam = BeamSearch(Scorer(), PIECES, width=8)
    log_probs = random_log_probs(1_000, 1)
    for piece in log_probs.split(40):
        beam.push(piece)
        path = beam.path
        beam.forget(len(path.tokens) - 3)
        assert beam.path[:3] == tuple(one[-3:] for one in path[:3])
    for alive in beam._beam.values():
        kept, emission = 0, alive.emission
        while emission is not None:
            kept, emission = kept + 1, emission.before
        assert kept < 100


def test_a_sharp_model_is_decoded_as_greedily():
    for seed in range(5):
        log_probs = random_log_probs(200, seed, sharpness=100.0)
        beam, greedy = BeamSearch(Scorer(), PIECES), Greedy()
        for decoder in (beam, greedy):
            decoder.push(log_probs)
        assert beam.n_frames == greedy.n_frames == 200
        (found,) = beam.end()
        assert found.path[:2] == beam.path[:2] == greedy.path[:2]
        assert found.path.confidences == pytest.approx(greedy.path.confidences, abs=1e-4)


def viterbi(log_probs, tokens):
    """Frames in which the likeliest alignment emits tokens, and how likely each was in the frame surest of it."""
    states = [0, *itertools.chain(*((token, 0) for token in tokens))]
    best = {0: (log_probs[0, 0].item(), (0,)), 1: (log_probs[0, states[1]].item(), (1,))}
    for row in log_probs[1:].tolist():
        after = {}
        for state, token in enumerate(states):
            befores = [state, state - 1, *([state - 2] if token and state > 1 and token != states[state - 2] else [])]
            ways = [best[before] for before in befores if before in best]
            if ways:
                value, way = max(ways)
                after[state] = (value + row[token], (*way, state))
        best = after
    _, way = max(best[state] for state in (len(states) - 2, len(states) - 1) if state in best)
    said = [[t for t, state in enumerate(way) if state == 2 * n + 1] for n in range(len(tokens))]
    loudest = [max(log_probs[t, token].exp().item() for t in ts) for ts, token in zip(said, tokens, strict=True)]
    return [ts[0] for ts in said], loudest


def test_times_and_confidences_are_about_those_of_the_likeliest_alignment():
    """About, since two alignments that meet again count together; nearly always where the model is sure."""
    off = n_tokens = 0
    for seed in range(40):
        log_probs = random_log_probs(30, seed, sharpness=4.0)
        beam = BeamSearch(Scorer(), PIECES)
        beam.push(log_probs)
        path = beam.end()[0].path
        frames, confidences = viterbi(log_probs, path.tokens)
        n_tokens += len(frames)
        found = zip(path.frames, path.confidences, frames, confidences, strict=True)
        off += sum(frame != expected or abs(sure - loud) > 0.01 for frame, sure, expected, loud in found)
    assert n_tokens > 400
    assert off < 0.05 * n_tokens


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
    assert beam.path.score == pytest.approx(0)
    beam.restart()
    assert (beam.path.tokens, beam.n_frames) == ([], 60)


@pytest.mark.parametrize("finish", [lambda decoder: decoder.forget(1), lambda decoder: decoder.restart()])
def test_a_token_that_was_written_down_while_it_was_said_does_not_come_again(finish):
    held, other = torch.tensor([[0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1]]).log()
    for decoder in (BeamSearch(Scorer(), PIECES), Greedy()):
        decoder.push(held[None])
        finish(decoder)
        decoder.push(torch.stack([held, held, other]))
        assert (decoder.path.tokens, decoder.path.frames) == ([2], [3])


def test_hypotheses_that_go_on_are_kept_where_the_best_one_ends_with_what_is_written_down():
    log_probs = torch.tensor([[0.01, 0.01, 0.97, 0.01], [0.4, 0.3, 0.2, 0.1], [0.01, 0.01, 0.97, 0.01]]).log()
    beam, whole = (BeamSearch(Scorer(), PIECES) for _ in range(2))
    for decoder in (beam, whole):
        decoder.push(log_probs[:2])
    assert beam.path.tokens == [2]
    beam.forget(1)
    for decoder in (beam, whole):
        decoder.push(log_probs[2:])
    rest = [found.path.tokens for found in whole.end(99) if found.path.tokens[:1] == [2]]
    assert len(rest) > 1
    assert [found.path.tokens for found in beam.end(99)] == [tokens[1:] for tokens in rest]


def test_where_all_end_within_a_word_the_likeliest_is_better_than_nothing():
    log_probs = torch.full((1, 4), -20.0)
    log_probs[0, 1] = 0.0
    (found,) = search(log_probs, Scorer(lexicon=Lexicon(["AA"])), width=1, n=3)
    assert found[0] == (1,)


@pytest.mark.parametrize("limits", [{"width": 0}, {"most_tokens": 0}, {"token_range": -1.0}, {"token_range": math.nan}])
def test_sizes_that_mean_nothing_are_refused(limits):
    with pytest.raises(ValueError, match="expected sizes"):
        BeamSearch(Scorer(), PIECES, **limits)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_a_copy_and_what_it_is_of_go_on_as_if_there_were_one(seed):
    """Prefixes of a copy knew those that they were copied of: probability was split between two of the same tokens."""
    log_probs = random_log_probs(30, seed)
    beam, expected = (BeamSearch(Scorer(), PIECES, 8) for _ in range(2))
    expected.push(log_probs)
    beam.push(log_probs[:10])
    other = copy.deepcopy(beam)
    for one in (other, beam):
        one.push(log_probs[10:])
        assert one.end(8) == expected.end(8)


def test_long_texts_are_copied():
    beam = BeamSearch(Scorer(), PIECES, width=2)
    beam.push(random_log_probs(5_000, 0))
    assert copy.deepcopy(beam).path == beam.path
