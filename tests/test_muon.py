"""Muon: against singular value decompositions, AdamW itself and a step written out by hand."""

import copy
import itertools
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sru_asr import muon
from sru_asr.muon import STEP_SIZE, Muon, orthogonalize


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 8, 24), (2, 24, 8)])
def test_orthogonalized_matrices_keep_singular_vectors_and_lose_singular_values(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    found = orthogonalize(matrices * torch.tensor([1e-4, 1.0, 1e4])[: shape[0], None, None])
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    inner = u.mT @ found @ v.mT
    values = inner.diagonal(dim1=1, dim2=2)
    assert values.min() > 0.6
    assert values.max() < 1.25
    torch.testing.assert_close(inner, torch.diag_embed(values), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 0.003), (torch.bfloat16, 0.03)])
def test_singular_values_become_one_from_a_bound_on_and_smaller_ones_stay_small(
    dtype: torch.dtype, least: float
) -> None:
    """Where one is all there is, the bound is the value itself, and what is above it would not come back."""
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(64, 64))[0] for _ in range(2))
    values = torch.zeros(2, 64)
    values[0, :32] = torch.logspace(0, math.log10(1.3 * least), 32)  # the bound is a little more than the greatest
    values[1, 0] = 1.0
    found = u.mT @ orthogonalize((u @ torch.diag_embed(values) @ v).to(dtype)).float() @ v.mT
    found = found.diagonal(dim1=1, dim2=2)
    assert (found[0, :32] > 0.78).all()
    assert (found[0, :32] < 1.22).all()
    assert found[0, 32:].abs().max() < 0.1
    assert 0.78 < found[1, 0] < 1.22
    assert found[1, 1:].abs().max() < 0.1


def test_rounding_to_bfloat16_is_not_blown_up() -> None:
    """What one quintic leaves a hundredth above 1 is far above it after the others."""
    torch.manual_seed(0)
    noise = torch.randn(4, 208, 416)
    some = torch.randn(4, 208, 3) @ torch.randn(4, 3, 416)
    for matrices in (noise, some, some + 0.005 * noise):
        assert torch.linalg.svdvals(orthogonalize(matrices.bfloat16()).float()).max() < 1.25


def test_nothing_becomes_of_a_gradient_of_zeros() -> None:
    assert not orthogonalize(torch.zeros(2, 3, 5)).any()


@pytest.mark.parametrize(
    ("kernels", "dtype", "atol"),
    # A last bit of a direction may round to another bfloat16: a fiftieth of a step at most.
    [("avx2", torch.float32, 1e-6), ("avx512_bf16", torch.bfloat16, 1e-4), ("amx", torch.bfloat16, 1e-4)],
)
def test_a_step_is_that_of_its_blocks_by_themselves(
    kernels: str, dtype: torch.dtype, atol: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps on a matrix of three blocks, one of them shorter, from the definition."""
    monkeypatch.setattr(muon, "kernel_name", lambda: kernels)
    taken = []
    monkeypatch.setattr(muon, "orthogonalize", lambda matrices: taken.append(matrices.dtype) or orthogonalize(matrices))
    torch.manual_seed(0)
    start, gradients = torch.randn(10, 6), torch.randn(2, 10, 6)
    parameter = nn.Parameter(start.clone())
    optimizer = Muon([{"params": [parameter], "block_rows": 4, "weight_decay": 0.1}], momentum=0.9, lr=0.01)
    expected, momentum = start.clone(), torch.zeros(10, 6)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        direction = 0.1 * gradient + 0.9 * momentum
        expected *= 1 - 0.01 * 0.1
        for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
            step = orthogonalize(direction[None, rows].to(dtype))[0]
            expected[rows] -= 0.01 * STEP_SIZE * 6**0.5 * step
    assert set(taken) == {dtype}
    torch.testing.assert_close(parameter.detach(), expected, atol=atol, rtol=1.3e-6)


def test_the_size_of_gradients_does_not_matter() -> None:
    torch.manual_seed(0)
    gradient, results = torch.randn(6, 6), []
    for scale in (2.0**-10, 2.0**10):
        parameter = nn.Parameter(torch.zeros(6, 6))
        parameter.grad = gradient * scale
        Muon([{"params": [parameter], "block_rows": 3}], lr=0.1).step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)
    assert results[0].square().mean().sqrt() == pytest.approx(0.1 * STEP_SIZE, rel=0.3)


def test_the_other_parameters_are_left_to_adamw() -> None:
    torch.manual_seed(0)
    matrix, vector = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))
    other = nn.Parameter(vector.detach().clone())
    both = Muon([{"params": [matrix], "block_rows": 4}, {"params": [vector], "weight_decay": 0.2}], lr=0.1)
    alone = torch.optim.AdamW([other], lr=0.1, weight_decay=0.2)
    for _ in range(3):
        gradient = torch.randn(4)
        matrix.grad, vector.grad, other.grad = torch.randn(4, 4), gradient, gradient.clone()
        both.step()
        alone.step()
    assert torch.equal(vector, other)


def test_it_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 1))

    def make(of: nn.Module) -> Muon:
        return Muon([{"params": [p], "block_rows": 3 * (p.dim() == 2)} for p in of.parameters()], lr=0.05)

    def steps(of: nn.Module, optimizer: Muon, inputs: list[Tensor]) -> None:
        for x in inputs:
            optimizer.zero_grad()
            of(x).square().mean().backward()
            optimizer.step()

    inputs = list(torch.randn(6, 4, 5))
    optimizer = make(model)
    steps(model, optimizer, inputs[:3])
    twin = copy.deepcopy(model)
    resumed = make(twin)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(model, optimizer, inputs[3:])
    steps(twin, resumed, inputs[3:])
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_goes_on_as_its_original(copied: Callable[[Muon], Muon]) -> None:
    torch.manual_seed(0)
    start, gradients, results = torch.randn(4, 6), torch.randn(3, 4, 6), []
    for is_copied in (False, True):
        parameter = nn.Parameter(start.clone())
        optimizer = Muon([{"params": [parameter], "block_rows": 4}], momentum=0.5, lr=0.1)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
            if is_copied:
                optimizer = copied(optimizer)
                (parameter,) = optimizer.param_groups[0]["params"]
        results.append(parameter.detach())
    assert torch.equal(*results)


def test_a_group_may_come_later_and_be_adamws_or_its_own() -> None:
    matrix, vector = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4))
    optimizer = Muon([{"params": [nn.Parameter(torch.ones(2, 2))], "block_rows": 2}], momentum=0.5, lr=0.1)
    optimizer.add_param_group({"params": vector})
    optimizer.add_param_group({"params": [matrix], "block_rows": 2})
    assert [group["momentum"] for group in optimizer.param_groups] == [0.5] * 3
    matrix.grad, vector.grad = torch.ones(4, 4), torch.ones(4)
    optimizer.step()
    assert (matrix < 1).all()
    assert (vector < 1).all()
    with pytest.raises(ValueError, match="for matrices"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(4))], "block_rows": 2})


def test_a_state_from_before_momentum_was_in_it_is_loaded() -> None:
    optimizer = Muon([{"params": [nn.Parameter(torch.ones(2, 2))], "block_rows": 2}], lr=0.1)
    state = optimizer.state_dict()
    del state["param_groups"][0]["momentum"]
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["momentum"] == 0.95


def test_what_it_cannot_do_is_refused_or_left_to_others() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(2, 2))], "block_rows": 2}]
    with pytest.raises(ValueError, match="negate the loss"):
        Muon(groups, lr=0.1, maximize=True)
    # A scaler of losses must not think that the optimizer looks for infinite gradients itself.
    assert not Muon(groups, lr=0.1, fused=True)._step_supports_amp_scaling


def test_a_closure_is_called_with_gradients_and_its_loss_returned() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([{"params": [parameter], "block_rows": 2}], lr=0.1)

    def closure() -> float:
        loss = parameter.square().sum()
        loss.backward()
        return float(loss.detach())

    losses = [optimizer.step(closure) for _ in range(3)]
    assert losses[0] == 4
    assert all(a > b for a, b in itertools.pairwise(losses))


def test_vectors_and_convolutions_are_refused() -> None:
    with pytest.raises(ValueError, match="Muon is for matrices"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))], "block_rows": 2}], lr=0.1)
