"""The CTC loss against a sum over all alignments, and the head."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sru_asr import ops
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


def by_torch(log_probs, lengths, targets, target_lengths):
    """Loss and gradient of torch's own, in float64. Its gradient is that by what a log_softmax made log_probs of."""
    x = log_probs.double().requires_grad_()
    losses = torch.nn.functional.ctc_loss(x.transpose(0, 1), targets, lengths, target_lengths, reduction="none")
    (grad,) = torch.autograd.grad(losses.sum(), x)
    behind = torch.arange(x.shape[1])[None, :] >= lengths[:, None]
    return losses.detach(), (grad - x.exp()).masked_fill(behind[..., None], 0).detach()


def check_against_torch(frames=50, tokens=20, vocab=29, sharpness=3.0, batch=3, seed=0):
    """Ragged, with repeated tokens. Errors are relative to the loss, and of posteriors, which are at most 1."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = (sharpness * torch.randn(batch, frames, vocab, generator=generator)).log_softmax(-1).requires_grad_()
    targets = torch.randint(1, vocab, (batch, tokens), generator=generator)
    lengths = frames - torch.arange(batch) * (frames // 8)
    target_lengths = (tokens - torch.arange(batch) * 2).clamp(min=0)
    losses = ops.ctc_loss(log_probs, lengths, targets, target_lengths, BLANK)
    (grad,) = torch.autograd.grad(losses.sum(), log_probs)
    expected, expected_grad = by_torch(log_probs.detach(), lengths, targets, target_lengths)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"tokens": 15},  # whole vectors of columns, and one more
        {"tokens": 16},
        {"tokens": 0},
        {"frames": 1, "tokens": 1, "batch": 1},
        {"vocab": 2, "tokens": 7},  # nothing but repeats
        {"frames": 300, "tokens": 60, "vocab": 500},
        {"frames": 1000, "tokens": 150},
        {"frames": 1000, "tokens": 150, "sharpness": 30},
    ],
    ids=str,
)
def test_agrees_with_torch_in_float64(sizes):
    check_against_torch(**sizes)


def test_what_is_nearly_impossible_in_every_frame_counts_in_the_end():
    """Halfway through, alignments that have said half of the tokens, most of all, weigh e^-2000 of the silent one."""
    frames, tokens = 600, 150
    log_probs = torch.full((1, frames, 29), -30.0)
    log_probs[:, :, BLANK] = 0
    targets = torch.arange(tokens)[None] % 28 + 1
    sizes = torch.tensor([frames]), targets, torch.tensor([tokens])
    x = log_probs.clone().requires_grad_()
    losses = ops.ctc_loss(x, *sizes, BLANK)
    (grad,) = torch.autograd.grad(losses.sum(), x)
    expected, expected_grad = by_torch(log_probs, *sizes)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=0, atol=1e-5)
    # About 30 a token, less the choice of their frames.
    assert losses.item() == pytest.approx(30 * tokens - math.log(math.comb(frames, tokens)), rel=0.1)


def test_minus_infinity_is_a_probability_of_zero():
    log_probs = random_log_probs(1, 6, 0)
    log_probs[0, :3, 2] = -math.inf
    expected = enumerated_loss(log_probs[0], [1, 2])
    x = log_probs.clone().requires_grad_()
    loss = loss_of(x, [6], [[1, 2]])
    loss.sum().backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert not x.grad[0, :3, 2].any()
    log_probs[0, :, 2] = -math.inf
    assert loss_of(log_probs, [6], [[1, 2]]) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e4])
def test_what_is_no_probability_makes_its_utterance_nan_and_no_other(value):
    log_probs = random_log_probs(3, 6, 0)
    log_probs[1, 2, 1] = value
    log_probs[2, 2, 2] = value  # which is not said there
    log_probs.requires_grad_()
    loss = loss_of(log_probs, [6, 6, 6], [[1, 2], [1, 2], [1]])
    loss.sum().backward()
    assert loss.isnan().tolist() == [False, True, False]
    assert log_probs.grad.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_any_strides_will_do():
    log_probs = random_log_probs(2, 9, 0)
    expected = loss_of(log_probs, [7, 9], [[1], [2, 1]])
    for other in (log_probs.transpose(0, 1).contiguous().transpose(0, 1), log_probs.mT.contiguous().mT):
        assert not other.is_contiguous()
        assert torch.equal(loss_of(other, [7, 9], [[1], [2, 1]]), expected)


def test_batch_mates_and_padding_change_no_bit():
    log_probs = random_log_probs(3, 40, 0, vocab=9)
    targets = [[1, 2, 3, 3, 4], [5], [6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6]]
    whole = loss_of(log_probs, [40, 30, 39], targets)
    for i, n in enumerate((40, 30, 39)):
        assert torch.equal(loss_of(log_probs[i : i + 1, :n], [n], targets[i : i + 1]), whole[i : i + 1])


def test_opcheck_and_compilation():
    log_probs = random_log_probs(2, 6, 0)
    sizes = torch.tensor([6, 5]), torch.tensor([[1, 2], [2, 1]]), torch.tensor([2, 1])
    torch.library.opcheck(torch.ops.sru_asr.ctc_loss.default, (log_probs, *sizes, BLANK, False))
    torch.library.opcheck(torch.ops.sru_asr.ctc_loss.default, (log_probs.clone().requires_grad_(), *sizes, BLANK, True))
    kept = torch.ops.sru_asr.ctc_loss(log_probs, *sizes, BLANK, True)[1]
    torch.library.opcheck(torch.ops.sru_asr.ctc_loss_backward.default, (torch.ones(2), kept, *sizes, VOCAB, BLANK))

    def grad_of(function):
        x = log_probs.clone().requires_grad_()
        (grad,) = torch.autograd.grad((function(x, *sizes) * torch.tensor([1.0, 2.0])).sum(), x)
        return grad

    compiled = torch.compile(ctc_loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(grad_of(compiled), grad_of(ctc_loss))


def test_many_heads_at_once_with_gradients():
    """Within vmap nothing told that gradients were wanted."""
    log_probs = torch.stack([random_log_probs(2, 6, seed) for seed in range(3)]).requires_grad_()
    given = (torch.tensor([6, 5]), torch.tensor([[1, 2], [2, 2]]), torch.tensor([2, 2]))
    together = torch.vmap(lambda some: ctc_loss(some, *given))(log_probs)
    alone = torch.stack([ctc_loss(some, *given) for some in log_probs])
    torch.testing.assert_close(together, alone)
    (found,), (expected,) = (torch.autograd.grad(loss.sum(), log_probs) for loss in (together, alone))
    torch.testing.assert_close(found, expected)


def test_forward_mode_is_refused():
    """It was 0."""
    x = random_log_probs(1, 6, 0)
    with pytest.raises(NotImplementedError, match="no derivatives in forward mode"):
        torch.func.jvp(lambda x: loss_of(x, [6], [[1, 2]]), (x,), (x,))


def test_second_derivative_is_refused():
    log_probs = random_log_probs(1, 6, 0).requires_grad_()
    (first,) = torch.autograd.grad(loss_of(log_probs, [6], [[1, 2]]).sum(), log_probs, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_probs": torch.zeros(2, 6)}, r"log_probs must be \(batch, frames, vocab\)"),
        ({"log_probs": torch.zeros(2, 6, 3).double()}, "of dtype Float, got .* of Double"),
        ({"targets": torch.ones(1, 2).long()}, r"targets must be \(batch, tokens\) int64 with batch = 2"),
        ({"lengths": torch.tensor([6])}, r"lengths must be \(batch,\) int64 with batch = 2"),
        ({"lengths": torch.tensor([6, 7])}, r"lengths\[1\] must lie between 0 and 6, got 7"),
        ({"target_lengths": torch.tensor([3, 1])}, r"target_lengths\[0\] must lie between 0 and 2, got 3"),
        ({"targets": torch.tensor([[1, 2], [3, 1]])}, r"targets\[1, 0\] must be a token below 3 .*, got 3"),
        ({"targets": torch.tensor([[1, 0], [2, 1]])}, r"targets\[0, 1\] must be .* not the blank \(0\), got 0"),
        ({"blank": 3}, r"blank must lie in \[0, 3\), got 3"),
    ],
)
def test_an_error_names_the_argument(change, message):
    arguments = {
        "log_probs": random_log_probs(2, 6, 0),
        "lengths": torch.tensor([6, 5]),
        "targets": torch.tensor([[1, 2], [2, 1]]),
        "target_lengths": torch.tensor([2, 1]),
        "blank": BLANK,
    }
    ops.ctc_loss(**arguments)
    with pytest.raises(RuntimeError, match=message):
        ops.ctc_loss(**{**arguments, **change})


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (1, torch.zeros(0, 6, 3), "posteriors must be those that a forward pass"),
        (2, torch.tensor([6, 7]), r"lengths\[1\] must lie between 0 and 6"),
        (3, torch.tensor([[1, 2], [3, 1]]), r"targets\[1, 0\] must be a token below 3"),
        (4, torch.tensor([2, 3]), r"target_lengths\[1\] must lie between 0 and 2"),
    ],
)
def test_the_backward_pass_writes_within_its_bounds_only(position, value, message):
    sizes = [torch.tensor([6, 5]), torch.tensor([[1, 2], [2, 1]]), torch.tensor([2, 1])]
    kept = torch.ops.sru_asr.ctc_loss(random_log_probs(2, 6, 0), *sizes, BLANK, True)[1]
    arguments = [torch.ones(2), kept, *sizes, VOCAB, BLANK]
    torch.ops.sru_asr.ctc_loss_backward(*arguments)
    arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.sru_asr.ctc_loss_backward(*arguments)


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
