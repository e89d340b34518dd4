"""The CTC loss against a sum over all alignments, and the head."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sru_asr.ctc import CTCHead, ctc_loss
from sru_asr.text import BLANK

VOCAB = 3


def random_log_probs(batch, frames, seed, vocab=VOCAB):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(batch, frames, vocab, generator=generator)).log_softmax(-1)


def collapsed(path):
    return [token for token, _ in itertools.groupby(path) if token != BLANK]


def enumerated_loss(log_probs, target):
    """Minus the log of the probability of all token sequences that collapse to `target`; inf if there is none."""
    total = 0.0
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        if collapsed(path) == target:
            total += math.exp(sum(log_probs[t, token].item() for t, token in enumerate(path)))
    return -math.log(total) if total else math.inf


def padded(targets):
    longest = max(map(len, targets), default=0)
    return torch.tensor([[*target, *[BLANK] * (longest - len(target))] for target in targets]).reshape(
        len(targets), longest
    )


def loss_of(log_probs, lengths, targets):
    return ctc_loss(log_probs, torch.tensor(lengths), padded(targets).long(), torch.tensor([len(t) for t in targets]))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.lists(st.integers(1, VOCAB - 1), max_size=4)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 2),
    st.integers(0, 1_000),
)
def test_the_loss_is_the_sum_over_all_alignments(utterances, extra, seed):
    """Ragged: also of utterances without a frame or without a token, and zero for those too short for their tokens."""
    lengths, targets = [n for n, _ in utterances], [target for _, target in utterances]
    log_probs = random_log_probs(len(lengths), max(max(lengths), 1) + extra, seed)
    found = loss_of(log_probs, lengths, targets)
    assert found.shape == (len(lengths),)
    assert found.dtype == torch.float32
    for row, n, target, loss in zip(log_probs, lengths, targets, found.tolist(), strict=True):
        expected = enumerated_loss(row[:n], target)
        n_needed = len(target) + sum(a == b for a, b in itertools.pairwise(target))
        assert math.isinf(expected) == (n < n_needed)
        assert loss == (0 if math.isinf(expected) else pytest.approx(expected, rel=1e-4, abs=1e-5))


def test_equal_neighbours_need_a_blank_between():
    log_probs = random_log_probs(1, 2, 0)
    assert loss_of(log_probs, [2], [[1, 2]]) > 0
    assert loss_of(log_probs, [2], [[1, 1]]) == 0


def test_a_transcript_that_does_not_fit_has_no_gradient():
    log_probs = random_log_probs(2, 4, 0).requires_grad_()
    loss_of(log_probs, [2, 4], [[1, 2, 1], [1, 2, 1]]).sum().backward()
    assert not log_probs.grad[0].any()
    assert log_probs.grad[1].any()
    assert log_probs.grad.isfinite().all()


def test_what_lies_behind_the_lengths_does_not_matter():
    log_probs = random_log_probs(2, 6, 0)
    expected = loss_of(log_probs, [4, 6], [[1], [2, 1]])
    log_probs = log_probs.clone()
    log_probs[0, 4:] = random_log_probs(1, 2, 1)[0]
    targets, lengths = torch.tensor([[1, 2, 2], [2, 1, 2]]), torch.tensor([1, 2])
    torch.testing.assert_close(ctc_loss(log_probs, torch.tensor([4, 6]), targets, lengths), expected)


def test_the_loss_is_computed_in_float32_under_autocast():
    log_probs = random_log_probs(2, 6, 0)
    expected = loss_of(log_probs, [4, 6], [[1], [2, 1]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss_of(log_probs, [4, 6], [[1], [2, 1]])
    assert torch.equal(found, expected)


def test_the_head_makes_log_probabilities():
    torch.manual_seed(0)
    head = CTCHead(width=8, vocab_size=5).eval()
    log_probs = head(10 * torch.randn(3, 7, 8))
    assert log_probs.shape == (3, 7, 5)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 7))
    assert (log_probs <= 0).all()


def test_the_head_is_normalised_in_float32_under_autocast():
    torch.manual_seed(0)
    head = CTCHead(width=8, vocab_size=1_000).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_probs = head(torch.randn(3, 7, 8))
    assert log_probs.dtype == torch.float32
    # In bfloat16 the sum would be wrong by some 2^-9.
    torch.testing.assert_close(log_probs.double().exp().sum(-1), torch.ones(3, 7).double(), rtol=0, atol=1e-5)


def test_the_head_drops_states_in_training_only():
    torch.manual_seed(0)
    head = CTCHead(width=8, vocab_size=5, dropout=0.5)
    states = torch.randn(3, 7, 8)
    assert not torch.equal(head(states), head(states))
    head.eval()
    assert torch.equal(head(states), head(states))
