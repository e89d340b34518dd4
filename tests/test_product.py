"""Products in blocks: what torch computes at once, without a kernel of oneDNN's for each number of rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sru_asr.encoder import Encoder
from sru_asr.layer import SRULayer
from sru_asr.product import BLOCK_ROWS, Linear, multiply, multiply_transposed

ROWS = st.one_of(st.sampled_from([1, 255, 256, 257, 511, 512, 513, 768]), st.integers(1, 1_000))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@settings(deadline=None)
@given(ROWS, st.sampled_from([None, "bias", "rows"]))
def test_blocks_make_the_product(rows, added):
    x, matrix = random(rows, 24), random(24, 40, seed=1)
    what = {None: None, "bias": random(40, seed=2), "rows": random(rows, 40, seed=2)}[added]
    with torch.no_grad():
        found = multiply(x, matrix, what)
    expected = x.double() @ matrix.double() + (0 if what is None else what.double())
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=2**-8)


@settings(deadline=None)
@given(ROWS)
def test_blocks_make_the_sum_over_rows(rows):
    a, b = random(rows, 40), random(rows, 24, seed=1)
    with torch.no_grad():
        found = multiply_transposed(a, b)
    # Of two parts the first is rounded before the second is added.
    scale = rows**0.5
    torch.testing.assert_close(found.double() / scale, a.double().T @ b.double() / scale, rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize("shape", [(300, 24), (2, 150, 24), (3, 171, 24), (2, 3, 100, 24), (1, 5, 24)])
def test_a_linear_layer_learns_as_torchs(shape):
    torch.manual_seed(0)
    ours, theirs = Linear(24, 40), nn.Linear(24, 40)
    theirs.load_state_dict(ours.state_dict())
    inputs = [torch.randn(*shape, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)]
    weights = torch.randn(*shape[:-1], 40)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(inputs[0])
    assert found.dtype == torch.bfloat16
    assert found.shape == (*shape[:-1], 40)
    (found.float() * weights).sum().backward()
    expected = theirs(inputs[1])
    (expected * weights).sum().backward()
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
    for a, b in zip((inputs[0], *ours.parameters()), (inputs[1], *theirs.parameters()), strict=True):
        assert (a.grad - b.grad).norm() < 0.01 * b.grad.norm()
    assert torch.equal(ours(inputs[0]), theirs(inputs[1]))  # in float32


def test_gradients_of_gradients_in_bfloat16():
    layer, x = Linear(4, 4).bfloat16(), random(300, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x).pow(2).sum(), x, create_graph=True)
    gradient.pow(2).sum().backward()
    weight = layer.weight.double()
    # d/dx of |2 W' (W x + b)|^2 = 8 (W' W)^2 x + 8 W' W W' b
    gram = weight.T @ weight
    expected = 8 * (x.double() @ gram + layer.bias.double() @ weight) @ gram
    assert (x.grad.double() - expected).norm() < 0.03 * expected.norm()


def test_functions_of_functions_in_bfloat16():
    layer, x = Linear(4, 6).bfloat16(), random(2, 300, 4)
    expected = nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(torch.vmap(layer)(x), expected, rtol=0.02, atol=0.02)
    found = torch.func.grad(lambda t: layer(t).float().sum())(x)
    torch.testing.assert_close(found, layer.weight.float().sum(0).bfloat16().expand_as(x), rtol=0.02, atol=0.02)
    y = SRULayer(4, 3).bfloat16()(x.requires_grad_())[0]
    directions = torch.stack([random(*y.shape, seed=seed) for seed in range(2)])
    (together,) = torch.autograd.grad(y, x, directions, retain_graph=True, is_grads_batched=True)
    for direction, gradient in zip(directions, together, strict=True):
        (expected,) = torch.autograd.grad(y, x, direction, retain_graph=True)
        assert (gradient - expected).float().norm() < 0.02 * expected.float().norm()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
def test_no_kernel_is_made_for_lengths_that_are_new(capfd):
    torch.manual_seed(0)
    encoder = Encoder(80, channels=4, hidden_size=16, num_layers=2, dropout=0.0)

    def step(batch, frames, chunk):
        features, lengths = torch.randn(batch, frames, 80), torch.full((batch,), frames)
        with torch.autocast("cpu", torch.bfloat16):
            for window in ((0, 0), (chunk, 3)):
                encoder(features, lengths, *window)[0].sum().backward()
            with torch.no_grad():
                encoder(features, lengths)

    def made(*sizes):
        capfd.readouterr()
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON_CREATION):
            step(*sizes)
        return capfd.readouterr().out.count("create:cache_miss")

    if not made(4, 700, 5):
        pytest.skip("oneDNN has no kernels for bfloat16 here")
    assert BLOCK_ROWS < 4 * 700 // 4
    # Neither of other shapes, nor of other windows: as many features and blocks, rounded.
    assert [made(4, 695, 5), made(5, 555, 5), made(4, 700, 6)] == [0, 0, 0]
