"""The SRU: in place of `nn.LSTM`, in windows, fresh from initialisation, and next to the authors' own package."""

from __future__ import annotations

import importlib
import math
import shutil
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from sru_asr.layer import SRULayer
from sru_asr.sru import SRU

LENGTHS = torch.tensor([4, 9, 0, 7])
KINDS = {
    "plain": {},
    "bidirectional": {"bidirectional": True},
    "all": {"bidirectional": True, "layer_norm": True, "residual": True, "projection_size": 3},
    "no highway": {"highway": False},
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randomize(module: nn.Module) -> nn.Module:
    """Biases are zero and norms the identity when fresh; none is after training."""
    for parameter in module.parameters():
        if parameter.dim() != 2:
            nn.init.normal_(parameter, std=0.5)
    return module


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


# In place of nn.LSTM


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_shapes_are_those_of_lstm(bidirectional, layers):
    for batch_first, shape in ((True, (4, 9, 6)), (False, (9, 4, 6)), (True, (9, 6)), (False, (9, 6))):
        x = torch.randn(shape)
        sru = SRU(6, 5, layers, bidirectional=bidirectional, batch_first=batch_first)
        expected, (_, expected_state) = nn.LSTM(6, 5, layers, bidirectional=bidirectional, batch_first=batch_first)(x)
        output, state = sru(x)
        assert output.shape == expected.shape
        assert state.shape == expected_state.shape
        again, _ = sru(x, state)
        assert again.shape == output.shape
        assert not torch.equal(again, output)


def test_layouts_agree():
    batch_first = SRU(6, 5, 2, bidirectional=True, batch_first=True)
    time_first = SRU(6, 5, 2, bidirectional=True)
    time_first.load_state_dict(batch_first.state_dict())
    x = torch.randn(4, 9, 6)
    state = torch.randn(4, 4, 5)
    output, final = batch_first(x, state, lengths=LENGTHS)
    for got, want in zip(
        time_first(x.transpose(0, 1), state, lengths=LENGTHS), (output.transpose(0, 1), final), strict=True
    ):
        close(got, want, 1e-6)
    for got, want in zip(time_first(x[1], state[:, 1]), (output[1], final[:, 1]), strict=True):
        close(got, want, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_sorted", [True, False])
def test_packed_sequences_keep_their_order(kind, is_sorted):
    lengths = [9, 7, 4, 4] if is_sorted else [4, 9, 1, 7]
    sequences = [torch.randn(length, 6) for length in lengths]
    packed = pack_sequence(sequences, enforce_sorted=is_sorted)
    sru = randomize(SRU(6, 3, 2, **KINDS[kind]))
    state = torch.randn(2 * sru.directions, 4, 3)
    output, final = sru(packed, state)
    assert isinstance(output, PackedSequence)
    assert torch.equal(output.batch_sizes, packed.batch_sizes)
    for order in ("sorted_indices", "unsorted_indices"):
        if is_sorted:
            assert getattr(output, order) is None
        else:
            assert torch.equal(getattr(output, order), getattr(packed, order))
    padded, found_lengths = pad_packed_sequence(output, batch_first=True)
    assert found_lengths.tolist() == lengths
    for i, sequence in enumerate(sequences):
        alone, alone_final = sru(sequence, state[:, i])
        close(padded[i, : lengths[i]], alone)
        close(final[:, i], alone_final)


@settings(deadline=None, max_examples=30)
@given(cuts=st.sets(st.integers(1, 11), max_size=4), kind=st.sampled_from(["plain", "no highway"]))
def test_pieces_equal_the_whole(cuts, kind):
    sru = randomize(SRU(6, 6, 3, batch_first=True, layer_norm=True, **KINDS[kind]))
    x = torch.randn(2, 12, 6)
    whole, final = sru(x)
    state, pieces = None, []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 12], strict=True):
        piece, state = sru(x[:, start:end], state)
        pieces.append(piece)
    close(torch.cat(pieces, 1), whole)
    close(state, final)


def test_state_of_a_bidirectional_stack():
    """The forward direction's after the last frame, the backward direction's at the first."""
    sru = randomize(SRU(6, 5, bidirectional=True, batch_first=True))
    x = torch.randn(2, 8, 6)
    _, state = sru(x)
    first_half, middle = sru(x[:, :5])
    _, behind = sru(x[:, 5:])
    forward_only = torch.cat([middle[:1], torch.zeros(1, 2, 5)])
    backward_only = torch.cat([torch.zeros(1, 2, 5), behind[1:]])
    close(sru(x[:, 5:], forward_only)[1][0], state[0])
    close(sru(x[:, :5], backward_only)[1][1], state[1])
    assert not torch.allclose(first_half, sru(x)[0][:, :5])


# Padding, batch mates, windows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [(0, 0), (2, 0), (3, 2)])
def test_padding_and_batch_mates_change_nothing(kind, window):
    sru = randomize(SRU(6, 3, 3, batch_first=True, **KINDS[kind]))
    parameters = list(sru.parameters())
    x = torch.randn(4, 9, 6)
    state = torch.randn(3 * sru.directions, 4, 3)
    weights = torch.randn(4, 9, sru.output_size)
    behind = torch.arange(9) >= LENGTHS[:, None]
    x[behind] = torch.nan
    unread, _ = sru(x, state, LENGTHS, *window)
    x[behind] = 100.0  # no NaN, which a matrix product multiplies by its zero gradient
    output, final = sru(x.requires_grad_(), state, LENGTHS, *window)
    assert torch.equal(output[~behind], unread[~behind])
    if not sru.residual:
        assert (output[behind] == 0).all()
    gradients = torch.autograd.grad((output * weights)[~behind].sum(), [x, *parameters])
    assert (gradients[0][behind] == 0).all()
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for i, length in enumerate(LENGTHS.tolist()):
        alone = x.detach()[i : i + 1, :length].requires_grad_()
        alone_output, alone_final = sru(alone, state[:, i : i + 1], None, *window)
        close(output[i, :length], alone_output[0])
        close(final[:, i], alone_final[:, 0])
        loss = (alone_output[0] * weights[i, :length]).sum()
        of_x, *of_parameters = torch.autograd.grad(loss, [alone, *parameters], materialize_grads=True)
        close(gradients[0][i, :length], of_x[0])
        for total, gradient in zip(sums, of_parameters, strict=True):
            total += gradient
    for got, want in zip(gradients[1:], sums, strict=True):
        close(got, want, 1e-4)


def advance_through(sru: SRU, x: torch.Tensor, lengths: torch.Tensor, chunk: int, lookahead: int):
    """What a live recogniser does: a window at a time, the forward state carried over."""
    state, outputs = None, []
    for start in range(0, x.shape[1], chunk):
        window = x[:, start : start + chunk + lookahead]
        left = (lengths - start).clamp(0, window.shape[1])
        output, state = sru.advance(window, min(chunk, window.shape[1]), state, left)
        outputs.append(output)
    return torch.cat(outputs, 1), state


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    layers=st.integers(1, 3),
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    extra=st.integers(0, 3),
    chunk=st.integers(1, 24),
    lookahead=st.integers(0, 8),
)
def test_live_equals_offline(kind, layers, lengths, extra, chunk, lookahead):
    sru = randomize(SRU(6, 3, layers, batch_first=True, **KINDS[kind]))
    frames = max(1, max(lengths) + extra)
    x, lengths = torch.randn(len(lengths), frames, 6), torch.tensor(lengths)
    output, state = sru(x, lengths=lengths, chunk=chunk, lookahead=lookahead)
    live, live_state = advance_through(sru, x, lengths, chunk, lookahead)
    close(live, output)
    close(live_state, state.unflatten(0, (layers, -1))[:, 0])
    if chunk >= frames:
        whole, whole_state = sru(x, lengths=lengths)
        assert torch.equal(output, whole)
        assert torch.equal(state, whole_state)


def test_windows_see_their_lookahead_and_no_more():
    sru = randomize(SRU(6, 4, 3, bidirectional=True, batch_first=True))
    x = torch.randn(1, 12, 6).requires_grad_()
    output, _ = sru(x, chunk=3, lookahead=2)
    for frame in range(12):
        (seen,) = torch.autograd.grad(output[0, frame].sum(), x, retain_graph=True)
        last = min(12, (frame // 3 + 1) * 3 + 2)
        assert (seen[0, :last] != 0).any(1).all()
        assert (seen[0, last:] == 0).all()


def test_a_unidirectional_stack_is_the_same_in_any_window():
    sru = randomize(SRU(6, 4, 3, batch_first=True))
    x = torch.randn(2, 12, 6)
    output, state = sru(x)
    for chunk, lookahead in ((1, 0), (5, 0), (4, 3)):
        windowed, windowed_state = sru(x, chunk=chunk, lookahead=lookahead)
        close(windowed, output)
        close(windowed_state, state)


def test_gradients_through_windows_are_those_of_live():
    sru = randomize(SRU(6, 3, 2, batch_first=True, **KINDS["all"]))
    x = torch.randn(4, 9, 6)
    gradients = []
    for output in (
        sru(x, lengths=LENGTHS, chunk=2, lookahead=3)[0],
        advance_through(sru, x, LENGTHS, 2, 3)[0],
    ):
        gradients.append(torch.autograd.grad(output.square().sum(), list(sru.parameters())))
    for got, want in zip(*gradients, strict=True):
        close(got, want, 1e-4)


def test_an_empty_batch():
    for window in ((0, 0), (2, 1)):
        output, state = SRU(6, 4, 2, batch_first=True, bidirectional=True)(torch.zeros(0, 7, 6), None, None, *window)
        assert output.shape == (0, 7, 8)
        assert state.shape == (4, 0, 4)


# Dropout


def test_dropout_drops_the_same_units_in_every_frame():
    sru = SRU(200, 100, bidirectional=True, batch_first=True, residual=True, dropout=0.25)
    x = torch.randn(3, 7, 200)
    added = sru.eval()(x)[0] - x
    assert torch.equal(sru(x)[0] - x, added)  # none in evaluation
    dropped = sru.train()(x)[0] - x
    kept = dropped.abs() > 1e-6
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    close(dropped[kept], added[kept] / 0.75, 1e-4)
    assert 0.65 < kept.float().mean() < 0.85
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(sru(x)[0] - x, dropped)


def test_dropout_spares_the_last_layer():
    x = torch.randn(3, 7, 6)
    for layers, same in ((1, True), (2, False)):
        sru = SRU(6, 5, layers, batch_first=True, dropout=0.5)
        trained = sru.train()(x)[0]
        assert torch.equal(trained, sru.eval()(x)[0]) == same
        assert (trained != 0).all()


# Initialisation and parameters


@pytest.mark.parametrize(("parts_from", "projection"), [(512, 0), (300, 0), (512, 100)])
def test_initial_variances(parts_from, projection):
    """Section 3.2: variance 1 / inputs, half of it where v * c adds as much again."""
    layer = SRULayer(parts_from, 256, bidirectional=True, projection_size=projection, highway_bias=-2.0)
    inputs = projection or parts_from
    weight = layer.weight.detach().view(2, layer.parts, 256, inputs)
    assert layer.parts == (3 if parts_from == 512 else 4)
    for part in range(layer.parts):
        expected = (0.5 if part in (1, 2) else 1.0) / inputs
        for direction in range(2):
            block = weight[direction, part]
            assert abs(block.mean()) < 0.1 * math.sqrt(expected)
            assert block.var().item() == pytest.approx(expected, rel=0.1)
            assert block.abs().max() <= math.sqrt(3 * expected) * 1.0001  # uniform
    if projection:
        assert layer.projection.var().item() == pytest.approx(1 / 512, rel=0.1)
    for gate in range(2):
        assert layer.weight_c[:, gate].var().item() == pytest.approx(0.5, rel=0.3)
    assert (layer.bias[:, 0] == 0).all()
    assert (layer.bias[:, 1] == -2).all()
    assert layer.alpha == math.sqrt(1 + 2 * math.exp(-2))


def test_scale_of_the_highway():
    assert SRULayer(8, 8).alpha == math.sqrt(3)
    assert SRULayer(8, 8, rescale=False).alpha == 1
    assert SRULayer(8, 8, highway=False).alpha == 1
    layer = SRULayer(4, 4)
    with torch.no_grad():
        layer.bias[:, 1] = -100  # the reset gate shut: nothing but the highway
    x = torch.randn(2, 3, 4)
    close(layer(x)[0], x * math.sqrt(3))


def test_deep_stacks_keep_the_variance():
    """The purpose of alpha; without it twelve layers let little through."""
    x = torch.randn(4, 50, 256)
    deep, _ = SRU(256, 256, 12, batch_first=True)(x)
    assert 0.4 < deep.var() < 2.5
    shallow, _ = SRU(256, 256, 12, batch_first=True, rescale=False)(x)
    assert shallow.var() < 0.2


@pytest.mark.parametrize(
    ("settings", "first", "other"),
    [
        # The matrix, two vectors and two biases per unit and direction; a fourth matrix where widths differ.
        ({}, 4 * 10 * 8 + 4 * 8, 3 * 8 * 8 + 4 * 8),
        ({"bidirectional": True}, 2 * (4 * 10 * 8 + 4 * 8), 2 * (3 * 16 * 8 + 4 * 8)),
        ({"highway": False}, 3 * 10 * 8 + 4 * 8, 3 * 8 * 8 + 4 * 8),
        ({"layer_norm": True}, 4 * 10 * 8 + 4 * 8 + 2 * 10, 3 * 8 * 8 + 4 * 8 + 2 * 8),
        ({"projection_size": 5}, 10 * 5 + 4 * 5 * 8 + 4 * 8, 8 * 5 + 3 * 5 * 8 + 4 * 8),
        ({"residual": True, "dropout": 0.1}, 4 * 10 * 8 + 4 * 8, 3 * 8 * 8 + 4 * 8),
    ],
)
def test_variants_train_and_have_their_parameters(settings, first, other):
    sru = SRU(10, 8, 3, batch_first=True, **settings)
    assert sum(p.numel() for p in sru.parameters()) == first + 2 * other
    output, state = sru(torch.randn(2, 6, 10))
    assert output.shape == (2, 6, 8 * sru.directions)
    (output.square().mean() + state.mean()).backward()
    for name, parameter in sru.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_layer_norm_leaves_the_highway_alone():
    sru = SRU(6, 6, batch_first=True, layer_norm=True, rescale=False)
    with torch.no_grad():
        sru.layers[0].bias[:, 1] = -100
    x = torch.randn(2, 3, 6) * 5 + 3
    close(sru(x)[0], x)


def test_residual_adds_where_widths_agree():
    sru = SRU(5, 6, 2, batch_first=True, residual=True)
    x = torch.randn(2, 3, 5)
    first, _ = sru.layers[0](x)
    second, _ = sru.layers[1](first)
    assert torch.equal(sru(x)[0], first + second)


@pytest.mark.parametrize("kind", ["bidirectional", "all"])  # the first without a norm between highway and product
@pytest.mark.parametrize("window", [(0, 0), (2, 1)])
def test_gradcheck(kind, window):
    sru = randomize(SRU(4, 2, 2, batch_first=True, **KINDS[kind])).double()
    names = [name for name, _ in sru.named_parameters()]
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    state = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)

    def call(x, state, *parameters):
        arguments = (x, state, torch.tensor([5, 3]), *window)
        return torch.func.functional_call(sru, dict(zip(names, parameters, strict=True)), arguments)

    assert torch.autograd.gradcheck(call, (x, state, *sru.parameters()), fast_mode=True)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_a_highway_under_autocast(frozen):
    layer, x = SRULayer(32, 16, bidirectional=True), torch.randn(2, 9, 32, requires_grad=True)
    layer.weight.requires_grad_(not frozen)
    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output, _ = layer(x)
        gradients.append(torch.autograd.grad(output.float().square().sum(), wanted))
    for expected, found in zip(*gradients, strict=True):
        assert found.dtype == torch.float32
        assert (found - expected).norm() < 0.02 * expected.norm()


def test_parameters_are_made_as_asked_for():
    sru = SRU(6, 4, 2, bidirectional=True, layer_norm=True, projection_size=3, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in sru.parameters()} == {("meta", torch.float64)}
    sru.flatten_parameters()


def test_state_dict_round_trip():
    sru = randomize(SRU(10, 8, 2, batch_first=True, **KINDS["all"]))
    copy = SRU(10, 8, 2, batch_first=True, **KINDS["all"])
    copy.load_state_dict({name: tensor.clone() for name, tensor in sru.state_dict().items()})
    x = torch.randn(2, 6, 10)
    for got, want in zip(copy(x), sru(x), strict=True):
        assert torch.equal(got, want)
    names = {f"layers.1.{name}" for name in ("weight", "weight_c", "bias", "projection", "norm.weight", "norm.bias")}
    assert {name for name in sru.state_dict() if name.startswith("layers.1")} == names


# Precision and compilation


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16(kind, autocast):
    sru = randomize(SRU(16, 16, 3, batch_first=True, **KINDS[kind]))
    x = torch.randn(3, 20, 16)
    expected, expected_state = sru(x)
    expected.square().mean().backward()
    gradients = [p.grad.clone() for p in sru.parameters()]
    sru.zero_grad()
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            output, state = sru(x)
    else:
        sru.bfloat16()
        output, state = sru(x.bfloat16())
    output.float().square().mean().backward()
    if not (autocast and sru.residual):  # autocast adds the float32 input
        assert output.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    scale = expected.square().mean().sqrt()
    assert (output.float() - expected).square().mean().sqrt() < 0.02 * scale
    assert (state - expected_state).square().mean().sqrt() < 0.02 * expected_state.square().mean().sqrt()
    for (name, parameter), want in zip(sru.named_parameters(), gradients, strict=True):
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad.float() - want).norm() < 0.05 * want.norm(), name


def test_gradients_of_many_losses_at_once_are_those_of_each():
    """As `torch.autograd.functional.jacobian(vectorize=True)` takes them."""
    torch.manual_seed(0)
    sru = randomize(SRU(6, 3, 2, **KINDS["all"]))
    x = torch.randn(7, 2, 6, requires_grad=True)
    output, _ = sru(x)
    weights, of = torch.randn(3, *output.shape), [x, *sru.parameters()]
    batched = torch.autograd.grad(output, of, weights, is_grads_batched=True, retain_graph=True)
    for i, weight in enumerate(weights):
        for got, want in zip(batched, torch.autograd.grad(output, of, weight, retain_graph=True), strict=True):
            close(got[i], want, 1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_whole(backend, dynamic):
    """Without a break, and if dynamic once for all shapes, but for once more where windows end with the utterance."""
    from torch._dynamo.testing import CompileCounterWithBackend  # slow to import

    torch.compiler.reset()
    counter = CompileCounterWithBackend(backend)
    sru = randomize(SRU(6, 3, 1 if backend == "aot_eager" else 2, batch_first=True, **KINDS["all"]))
    compiled = torch.compile(sru, fullgraph=True, dynamic=dynamic, backend=counter)
    compilations = []
    for batch, frames in ((4, 13), (5, 17), (3, 16), (2, 22), (6, 19)) if dynamic else ((4, 13),):
        x = torch.randn(batch, frames, 6)
        lengths = torch.randint(0, frames + 1, (batch,))
        results = []
        for module in (sru, compiled):
            output, state = module(x, lengths=lengths, chunk=2, lookahead=3)
            loss = output.square().sum() + state.sum()
            results.append([output, state, *torch.autograd.grad(loss, list(sru.parameters()))])
        for got, want in zip(*results, strict=True):
            close(got, want, 1e-4)
        compilations.append(counter.frame_count)
    assert [n - compilations[0] for n in compilations] == ([0, 0, 1, 1, 1] if dynamic else [0])


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 0}, "num_layers=0"),
        ({"input_size": 0}, "input_size=0"),
        ({"hidden_size": -1}, "hidden_size=-1"),
        ({"dropout": 1.0}, "expected 0 <= dropout < 1, found 1.0"),
        ({"dropout": -0.1}, "expected 0 <= dropout < 1, found -0.1"),
    ],
)
def test_settings_that_mean_nothing(settings, message):
    with pytest.raises(ValueError, match=message):
        SRU(**{"input_size": 4, "hidden_size": 4, **settings})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": torch.zeros(2, 5, 7)}, r"the last 6 wide, found shape \(2, 5, 7\)"),
        ({"input": torch.zeros(5, 7)}, r"the last 6 wide, found shape \(5, 7\)"),
        ({"input": torch.zeros(6)}, r"2 or 3 dimensions.*found shape \(6,\)"),
        ({"input": torch.zeros(1, 2, 5, 6)}, r"2 or 3 dimensions.*found shape \(1, 2, 5, 6\)"),
        ({"input": pack_sequence([torch.zeros(5, 7)])}, "the last 6 wide"),
        ({"state": torch.zeros(2, 2, 4)}, r"state of shape \(4, 2, 4\) .*found \(2, 2, 4\)"),
        ({"state": torch.zeros(4, 1, 4)}, r"state of shape \(4, 2, 4\) .*found \(4, 1, 4\)"),
        ({"state": (torch.zeros(4, 2, 4), torch.zeros(4, 2, 4))}, "the state as one tensor .* found tuple"),
        ({"input": torch.zeros(5, 6), "state": (torch.zeros(4, 4),)}, "the state as one tensor .* found tuple"),
        ({"input": torch.zeros(5, 6), "state": torch.zeros(4, 1, 4)}, r"shape \(4, 4\) .*found \(4, 1, 4\)"),
        # of windows that end behind the input, which the operator takes for frames
        ({"lengths": torch.tensor([5, 6]), "chunk": 2, "lookahead": 3}, r"from 0 to the 5 frames .* found \[5, 6\]"),
        ({"chunk": -1}, "expected chunk >= 1 .*found -1 and 0"),
        ({"lookahead": 3}, "expected chunk >= 1 .*found 0 and 3"),
        ({"chunk": 1.5}, r"whole numbers of frames, found 1\.5 and 0"),
        ({"chunk": 2, "lookahead": -3}, "expected chunk >= 1 .*found 2 and -3"),
    ],
)
def test_calls_that_do_not_fit(arguments, message):
    sru = SRU(6, 4, 2, batch_first=True, bidirectional=True)
    with pytest.raises(ValueError, match=message):
        sru(**{"input": torch.zeros(2, 5, 6), **arguments})


def test_packed_sequences_bring_their_lengths():
    packed = pack_padded_sequence(torch.zeros(2, 5, 6), torch.tensor([5, 3]), batch_first=True)
    with pytest.raises(ValueError, match="brings its own lengths"):
        SRU(6, 4)(packed, lengths=torch.tensor([5, 3]))


@pytest.mark.parametrize("window", [{}, {"chunk": 2, "lookahead": 1}])
def test_lengths_may_be_a_list_or_any_integers(window):
    sru, x = SRU(6, 4, batch_first=True, bidirectional=True), torch.randn(2, 5, 6)
    expected = sru(x, lengths=torch.tensor([5, 3]), **window)
    integers = (torch.uint8, torch.int8, torch.int32, torch.uint16, torch.uint64)
    for lengths in ([5, 3], (5, 3), *(torch.tensor([5, 3], dtype=dtype) for dtype in integers)):
        for got, want in zip(sru(x, lengths=lengths, **window), expected, strict=True):
            assert torch.equal(got, want)
    assert sru(torch.randn(2, 300, 6), lengths=torch.tensor([100, 50], dtype=torch.uint8), **window)[0].isfinite().all()
    with pytest.raises(ValueError, match=r"lengths of integers, .* found torch\.float32"):
        sru(x, lengths=torch.tensor([5.0, 3.0]), **window)


def test_lengths_that_do_not_fit():
    sru = SRU(6, 4, batch_first=True)
    for lengths, message in (
        ([6, 3], r"from 0 to the 5 frames there are, found \[6, 3\]"),
        ([5, -1], r"found \[5, -1\]"),
        ([5], r"a length for each of 2 sequences, found shape \(1,\)"),
        ([5.0, 3.0], "lengths of integers"),
    ):
        for either in (lengths, torch.tensor(lengths)):
            with pytest.raises(ValueError, match=message):
                sru(torch.zeros(2, 5, 6), lengths=either)
    assert sru(torch.zeros(0, 5, 6), lengths=[])[0].shape == (0, 5, 4)


def test_beyond_what_a_compiler_can_check_lengths_end_with_the_input():
    sru = randomize(SRU(6, 3, batch_first=True, bidirectional=True))
    compiled, x = torch.compile(sru, fullgraph=True, backend="aot_eager"), torch.randn(1, 5, 6)
    found = compiled(x, lengths=torch.tensor([6]), chunk=2, lookahead=3)
    for got, want in zip(found, sru(x, chunk=2, lookahead=3), strict=True):
        close(got, want, 1e-5)


@pytest.mark.parametrize("width", [17, 32, 2])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_layer_takes_no_other_width(width, gradients):
    """17 and 32 are padded to the same as 20 is."""
    layer = SRULayer(20, 4).eval()
    with torch.set_grad_enabled(gradients), pytest.raises(ValueError, match=f"the last 20 wide, found .*{width}"):
        layer(torch.randn(2, 3, width))


@pytest.mark.parametrize("sizes", [(0, 4), (5, 0), (5, 4, -1)])
def test_a_layer_has_sizes(sizes):
    with pytest.raises(ValueError, match="sizes must be positive"):
        SRULayer(*sizes[:2], projection_size=(*sizes, 0)[2])


def test_inputs_of_another_dtype_than_the_weights_are_refused_with_and_without_gradients():
    sru = SRU(6, 4).eval()
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), pytest.raises(RuntimeError, match="dtype"):
            sru(torch.randn(3, 2, 6).bfloat16())


def test_shapes_without_data():
    sru = SRU(6, 4, 2, bidirectional=True, batch_first=True, device="meta")
    output, state = sru(torch.empty(2, 5, 6, device="meta"))
    assert (output.device.type, output.shape, state.shape) == ("meta", (2, 5, 8), (4, 2, 4))


def test_dropout_in_bfloat16_is_that_asked_for():
    """0.9985 is 1 in bfloat16."""
    torch.manual_seed(0)
    sru = SRU(4, 4, dropout=0.0015).bfloat16().train()
    dropped = (sru._drop(torch.ones(100, 1, 4096, dtype=torch.bfloat16)) == 0).float().mean()
    assert dropped == pytest.approx(0.0015, rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chunk": 0}, "expected a chunk of 1 to 5 frames"),
        ({"chunk": 6}, "expected a chunk of 1 to 5 frames"),
        ({"window": torch.zeros(2, 5, 7)}, "the last 6 wide"),
        ({"window": torch.zeros(5, 6)}, r"3 dimensions.*found shape \(5, 6\)"),
        ({"state": torch.zeros(2, 1, 4)}, r"state of shape \(2, 2, 4\) .*found \(2, 1, 4\)"),
        ({"state": torch.zeros(4, 2, 4)}, r"state of shape \(2, 2, 4\) .*found \(4, 2, 4\)"),
    ],
)
def test_windows_that_do_not_fit(arguments, message):
    sru = SRU(6, 4, 2, batch_first=True, bidirectional=True)
    with pytest.raises(ValueError, match=message):
        sru.advance(**{"window": torch.zeros(2, 5, 6), "chunk": 3, **arguments})


# Weights of the authors' package


def drawn_state_dict(inputs, hidden, layers, directions, scale=1.0, projection=0, norm=False, highway=True):
    """As the package names and lays out its parameters."""
    state = {}
    for i in range(layers):
        width = inputs if i == 0 else directions * hidden
        parts = 4 if highway and width != directions * hidden else 3
        name = f"rnn_lst.{i}."
        state[name + "weight"] = torch.randn(projection or width, directions * hidden * parts) / width**0.5
        if projection:
            state[name + "weight_proj"] = torch.randn(width, projection) / width**0.5
        state[name + "weight_c"] = torch.randn(2 * directions * hidden)
        state[name + "bias"] = torch.randn(2 * directions * hidden)
        state[name + "scale_x"] = torch.tensor([scale])
        if norm:
            state |= {name + "layer_norm.weight": torch.rand(width) + 0.5, name + "layer_norm.bias": torch.randn(width)}
    return state


def as_they_compute(state, x, hidden, layers, directions, highway):
    """What the package computes of x, (frames, batch, inputs), from its own layout, in a loop."""
    for i in range(layers):
        name = f"rnn_lst.{i}."
        if name + "layer_norm.weight" in state:
            norm = (state[name + "layer_norm.weight"], state[name + "layer_norm.bias"])
            into = nn.functional.layer_norm(x, x.shape[-1:], *norm)
        else:
            into = x
        into = into @ state[name + "weight_proj"] if name + "weight_proj" in state else into
        u = (into @ state[name + "weight"]).view(*x.shape[:2], directions, hidden, -1)
        v, b = (state[name + key].view(2, directions, hidden) for key in ("weight_c", "bias"))
        scaled = (
            (x * state[name + "scale_x"]).unflatten(-1, (directions, -1))
            if x.shape[-1] == directions * hidden
            else None
        )
        h = torch.zeros(*x.shape[:2], directions, hidden)
        for d in range(directions):
            c = torch.zeros(x.shape[1], hidden)
            for t in reversed(range(len(x))) if d else range(len(x)):
                forget = torch.sigmoid(u[t, :, d, :, 1] + v[0, d] * c + b[0, d])
                reset = torch.sigmoid(u[t, :, d, :, 2] + v[1, d] * c + b[1, d])
                c = forget * c + (1 - forget) * u[t, :, d, :, 0]
                h[t, :, d] = reset * c
                if highway:
                    h[t, :, d] += (1 - reset) * (u[t, :, d, :, 3] if u.shape[-1] == 4 else scaled[t, :, d])
        x = h.flatten(2)
    return x


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("drawn", "settings"),
    [
        ({}, {"rescale": False}),
        ({"scale": math.sqrt(1 + 2 * math.exp(-2.0))}, {"rescale": True, "highway_bias": -2.0}),
        ({"projection": 3}, {"rescale": False, "projection_size": 3}),
        ({"highway": False, "norm": True}, {"highway": False, "layer_norm": True}),
        ({"norm": True}, {"rescale": False, "layer_norm": True}),
    ],
)
def test_weights_of_the_authors_package_compute_what_they_did(drawn, settings, bidirectional):
    torch.manual_seed(0)
    directions = 1 + bidirectional
    state, x = drawn_state_dict(7, 5, 3, directions, **drawn), torch.randn(6, 2, 7)
    sru = SRU(7, 5, 3, bidirectional=bidirectional, **settings).eval()
    sru.load_sru_state_dict(state)
    expected = as_they_compute(state, x, 5, 3, directions, drawn.get("highway", True))
    close(sru(x)[0], expected, 1e-5)


@pytest.mark.parametrize(
    ("drawn", "settings", "message"),
    [
        ({"scale": 1.5}, {"rescale": False}, "scale_x: expected 1, found 1.5: give `rescale`"),
        ({}, {"highway": False}, r"rnn_lst.0.weight: expected shape \(7, 15\) .*found shape \(7, 20\)"),
        ({}, {"projection_size": 3}, r"rnn_lst.0.weight: expected shape \(3, 20\)"),
        ({"norm": True}, {"rescale": False}, "found rnn_lst.0.layer_norm.weight"),
        ({"layers": 3}, {"rescale": False}, "than 2 layers have here, found rnn_lst.2.weight"),
        ({"layers": 1}, {"rescale": False}, "rnn_lst.1.weight: expected shape .*found nothing"),
    ],
)
def test_weights_of_another_module_are_refused_and_none_is_taken(drawn, settings, message):
    state = drawn_state_dict(**{"inputs": 7, "hidden": 5, "layers": 2, "directions": 1, **drawn})
    sru = SRU(7, 5, 2, **settings)
    before = [parameter.clone() for parameter in sru.parameters()]
    with pytest.raises(ValueError, match=message):
        sru.load_sru_state_dict(state)
    assert all(map(torch.equal, sru.parameters(), before))


# The authors' own package, `pip install --no-deps sru==2.6.0`. The first import compiles for a minute.


@pytest.fixture(scope="module")
def package():
    if shutil.which("ninja") is None or shutil.which("c++") is None:
        pytest.skip("the package `sru` compiles when imported, and c++ or ninja is not on the path")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("sru")
        except ModuleNotFoundError as error:
            pytest.skip(f"the package to compare with is not installed: {error}")
        except Exception as error:  # whatever its compilation raises
            pytest.skip(f"the package `sru` does not compile here: {error}")


def with_weights_of(theirs: nn.Module, **settings) -> SRU:
    ours = SRU(theirs.input_size, theirs.hidden_size, theirs.num_layers, bidirectional=theirs.bidirectional, **settings)
    ours.load_sru_state_dict(theirs.state_dict())
    return ours


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Running SRU on CPU")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("highway", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_agrees_with_the_authors_package(package, bidirectional, highway, layer_norm):
    """Both directions, both of its CPU paths (C++ runs only where no gradients are kept), padding, state, gradients."""
    theirs = package.SRU(
        *(7, 6, 3),
        bidirectional=bidirectional,
        has_skip_term=highway,
        layer_norm=layer_norm,
        rescale=True,
        highway_bias=-1.0,
        nn_rnn_compatible_return=True,
    )
    for cell in theirs.rnn_lst:
        nn.init.normal_(cell.bias)
        if layer_norm:
            nn.init.normal_(cell.layer_norm.weight, 1.0, 0.5)
            nn.init.normal_(cell.layer_norm.bias)
    ours = with_weights_of(theirs, highway=highway, highway_bias=-1.0, layer_norm=layer_norm)
    x = torch.randn(11, 4, 7)
    state = torch.randn(3 * ours.directions, 4, 6)
    their_state = state.unflatten(0, (3, -1)).transpose(1, 2).flatten(2)  # (layers, batch, directions * hidden)
    packed = pack_padded_sequence(x, torch.tensor([4, 11, 1, 7]), enforce_sorted=False)
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            for got, want in zip(ours(x, state), theirs(x, their_state), strict=True):
                close(got, want)
            (output, final), (their_output, their_final) = ours(packed), theirs(packed)
        close(output.data, their_output.data)
        close(final, their_final)
    output.data.square().sum().backward()
    their_output.data.square().sum().backward()
    for layer, cell in zip(ours.layers, theirs.rnn_lst, strict=True):
        close(layer.weight_c.grad.transpose(0, 1).flatten(), cell.weight_c.grad, 1e-4)
        close(layer.bias.grad.transpose(0, 1).flatten(), cell.bias.grad, 1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Running SRU on CPU", "ignore:Unable to reset parameters")
def test_where_the_authors_package_is_wrong(package):
    """Its reverse direction is right, with one exception that ours does not offer.

    A `custom_m` that returns weights v of its own for every frame: there the C++ path of its CPU (`cpu_bi_forward`)
    takes, in the reverse direction, u of frame t but v of frame length - 1 - t. Its Python path takes both of t.
    """
    v = torch.randn(11, 4, 2, 6, 2)  # frames, batch, directions, hidden, gates
    u = torch.randn(11, 4, 2 * 6 * 3)

    class Given(nn.Module):
        def forward(self, _):
            return u, v.flatten(2)

    sru = package.SRU(12, 6, 1, bidirectional=True, custom_m=Given())
    nn.init.zeros_(sru.rnn_lst[0].weight_c)  # is added to v
    x = torch.randn(11, 4, 12)
    right, _ = sru(x)
    with torch.no_grad():
        wrong, _ = sru(x)
    close(wrong[..., :6], right[..., :6])
    assert (wrong[..., 6:] - right[..., 6:]).abs().max() > 0.1
    v[:, :, 1] = v[:, :, 1].flip(0)
    as_wrong, _ = sru(x)
    close(wrong[..., 6:], as_wrong[..., 6:])


@pytest.mark.parametrize("lookahead", [9, 10, 11, 1_000_000_000])
def test_a_lookahead_beyond_the_end_is_all_there_is_and_costs_no_more(lookahead):
    sru, x = SRU(4, 8, 2, bidirectional=True, batch_first=True), torch.randn(2, 10, 4)
    lengths = torch.tensor([10, 7])
    found, expected = (sru(x, lengths=lengths, chunk=3, lookahead=n) for n in (lookahead, 9))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_one_number_is_no_lengths():
    with pytest.raises(ValueError, match="expected a length for each of 2 sequences"):
        SRU(4, 8)(torch.randn(3, 2, 4), None, 3)
