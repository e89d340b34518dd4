"""Greedy decoding against the obvious loop."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sru_asr.decode import Greedy, Path, greedy
from sru_asr.text import BLANK

VOCAB = 4
ids = st.lists(st.integers(0, VOCAB - 1), max_size=12)


def random_log_probs(batch, frames, seed=0):
    return torch.randn(batch, frames, VOCAB, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def expected_path(log_probs):
    """Frame by frame, as one would by hand."""
    tokens, frames, score, previous = [], [], 0.0, BLANK
    for t, row in enumerate(log_probs.tolist()):
        best = max(range(len(row)), key=row.__getitem__)
        score += row[best]
        if best not in (BLANK, previous):
            tokens.append(best)
            frames.append(t)
        previous = best
    return tokens, frames, score


def saying(paths, seed=0):
    """Log-probabilities under which each path's tokens are the best, (batch, frames, vocab), random behind it."""
    frames = max(map(len, paths), default=0)
    logits = random_log_probs(len(paths), frames + 2, seed)
    for row, path in zip(logits, paths, strict=True):
        for t, token in enumerate(path):
            row[t, token] += 20
    return logits.log_softmax(-1)


@settings(deadline=None)
@given(st.lists(ids, min_size=1, max_size=4), st.integers(0, 1_000))
def test_greedy_is_what_one_would_do_by_hand(paths, seed):
    """Few tokens and strong ones, so that repeats and blanks come often; ragged, with noise behind the lengths."""
    log_probs = saying(paths, seed)
    lengths = torch.tensor([len(path) for path in paths])
    found = greedy(log_probs, lengths)
    assert len(found) == len(paths)
    for path, row, length in zip(found, log_probs, lengths, strict=True):
        tokens, frames, score = expected_path(row[:length])
        assert (path.tokens, path.frames) == (tokens, frames)
        assert abs(path.score - score) < 1e-4


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(0, 1_000))
def test_greedy_takes_the_best_token_however_close(lengths, seed):
    log_probs = random_log_probs(len(lengths), max(lengths), seed)
    for path, row, length in zip(greedy(log_probs, torch.tensor(lengths)), log_probs, lengths, strict=True):
        tokens, frames, score = expected_path(row[:length])
        assert (path.tokens, path.frames) == (tokens, frames)
        assert abs(path.score - score) < 1e-4


def test_repeats_merge_unless_a_blank_parts_them():
    log_probs = saying([[1, 1, 0, 1, 2, 2, 0, 0, 3]])
    (path,) = greedy(log_probs, torch.tensor([9]))
    assert path.tokens == [1, 1, 2, 3]
    assert path.frames == [0, 3, 4, 8]


def test_the_score_is_the_log_of_the_paths_probability():
    probabilities = torch.tensor([[[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]]])
    (path,) = greedy(probabilities.log(), torch.tensor([3]))
    torch.testing.assert_close(torch.tensor(path.score).exp(), torch.tensor(0.5 * 0.6 * 0.8))
    (path,) = greedy(probabilities.log(), torch.tensor([1]))
    torch.testing.assert_close(torch.tensor(path.score).exp(), torch.tensor(0.5))


def test_no_frames_are_an_empty_path_of_probability_one():
    assert greedy(torch.zeros(2, 0, VOCAB), torch.tensor([0, 0])) == [Path([], [], [], 0.0)] * 2
    assert greedy(random_log_probs(1, 5), torch.tensor([0])) == [Path([], [], [], 0.0)]


def test_a_path_is_of_plain_numbers():
    (path,) = greedy(saying([[1, 2]]), torch.tensor([2]))
    assert {type(value) for value in (*path.tokens, *path.frames)} == {int}
    assert type(path.score) is float


def test_the_confidence_of_a_token_is_that_of_its_surest_frame():
    rows = [[0.1, 0.6, 0.3], [0.1, 0.8, 0.1], [0.1, 0.7, 0.2], [0.9, 0.05, 0.05], [0.2, 0.2, 0.6]]
    (path,) = greedy(torch.tensor([rows]).log(), torch.tensor([5]))
    torch.testing.assert_close(torch.tensor(path.confidences), torch.tensor([0.8, 0.6]))


@settings(deadline=None)
@given(ids, st.lists(st.integers(0, 12), max_size=4), st.integers(0, 1_000))
def test_in_pieces_it_is_the_same(path, cuts, seed):
    log_probs = saying([path], seed)[0, : len(path)]
    edges = sorted(min(cut, len(path)) for cut in cuts)
    decoder = Greedy()
    for start, stop in zip([0, *edges], [*edges, len(path)], strict=True):
        decoder.push(log_probs[start:stop])
    (expected,) = greedy(log_probs[None], torch.tensor([len(path)]))
    assert decoder.path[:3] == expected[:3]
    assert abs(decoder.path.score - expected.score) < 1e-4
    assert decoder.n_frames == len(path)
    decoder.forget(1)
    assert decoder.path == Path(*(part[1:] for part in expected[:3]), 0.0)
