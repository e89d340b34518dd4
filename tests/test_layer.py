"""The layer in one pass: against the recurrence over torch's product, and what makes it different from that."""

from __future__ import annotations

import copy
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from sru_asr.layer import SRULayer
from sru_asr.ops import fused_layer, kernel_name, pack_weight, quantize_weight, recurrence
from sru_asr.sru import SRU

HIGHWAYS = ("none", "input", "projected")
WAYS = {  # what numbers are, and weights become
    "float32": (torch.float32, pack_weight),
    "bfloat16": (torch.bfloat16, pack_weight),
    "int8": (torch.bfloat16, quantize_weight),
}


@dataclass(frozen=True)
class Case:
    """A problem for the operator, drawn from its seed."""

    batch: int = 2
    windows: int = 3  # frames, if chunk is 0
    chunk: int = 0
    lookahead: int = 0
    inputs: int = 40
    directions: int = 2
    hidden: int = 20
    highway: str = "input"
    ragged: bool = True
    initial: bool = True
    seed: int = 0

    def draw(
        self, dtype: torch.dtype = torch.bfloat16
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, list, dict]:
        """Input, weight and highway in `dtype`, and the other arguments."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape):
            return torch.randn(shape, generator=generator)

        size = self.chunk + self.lookahead
        frames = self.windows * size if self.chunk else self.windows
        most = self.windows * self.chunk + self.lookahead if self.chunk and self.windows else frames
        parts = 4 if self.highway == "projected" else 3
        input = normal(self.batch, frames, self.inputs).to(dtype)
        weight = (normal(self.directions * parts * self.hidden, self.inputs) / self.inputs**0.5).to(dtype)
        x = normal(self.batch, frames, self.directions, self.hidden).to(dtype) if self.highway == "input" else None
        v, b = normal(self.directions, 2, self.hidden), normal(self.directions, 2, self.hidden)
        initial = normal(self.batch, self.directions, self.hidden) if self.initial else None
        lengths = torch.randint(0, most + 1, (self.batch,), generator=generator) if self.ragged else None
        return input, weight, x, [v, b, initial, lengths, 1.3], {"chunk": self.chunk, "lookahead": self.lookahead}


def eight_bits(weight: torch.Tensor) -> torch.Tensor:
    """Rows as multiples of a 127th of their greatest."""
    greatest = weight.float().abs().amax(1, keepdim=True)
    # Not 127 / greatest, of which torch makes a product with the reciprocal, which rounds otherwise.
    return (weight.float() * torch.full_like(greatest, 127).div(greatest)).round() * (greatest / 127)


def sixteen_bits(input: torch.Tensor) -> torch.Tensor:
    """Frames as multiples of 2^-14 times the power of two below their greatest."""
    greatest = input.float().abs().amax(-1, keepdim=True)
    scale = torch.exp2(torch.floor(torch.log2(greatest.clamp(min=1e-30))) - 14)
    return (input.float() / scale).round() * scale


def check_case(case: Case) -> None:
    """Agreement with float32 arithmetic on the same numbers, but for the rounding of the output."""
    parts = 4 if case.highway == "projected" else 3
    for dtype, pack in WAYS.values():
        input, weight, x, rest, window = case.draw(dtype)
        rounded = (input.float(), weight.float()) if pack is pack_weight else (sixteen_bits(input), eight_bits(weight))
        u = F.linear(*rounded).unflatten(-1, (case.directions, parts, case.hidden))
        expected, expected_state = recurrence(u, None if x is None else x.float(), *rest, **window)
        h, state = fused_layer(input, x, pack(weight, case.directions, parts), *rest, parts, **window)
        assert h.dtype == dtype
        assert state.dtype == torch.float32
        # A cell of which v is -3 makes much of little: sums of another order are up to 1e-6 apart.
        moved = recurrence(u + 1e-6 * torch.randn_like(u), None if x is None else x.float(), *rest, **window)
        much, much_of_state = (
            float((a - b).abs().max()) if a.numel() else 0.0
            for a, b in zip(moved, (expected, expected_state), strict=True)
        )
        near = 1e-5 if dtype == torch.float32 else 1e-4
        torch.testing.assert_close(state, expected_state, rtol=near, atol=near + 3 * much_of_state)
        rtol, atol = (near, near) if dtype == torch.float32 else (2**-8, 2e-4)
        torch.testing.assert_close(h.float(), expected, rtol=rtol, atol=atol + 3 * much)


@pytest.mark.parametrize("highway", HIGHWAYS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("window", [(0, 0), (1, 0), (3, 2), (2, 5), (40, 9)])
@pytest.mark.parametrize(("hidden", "inputs"), [(1, 1), (16, 32), (64, 33), (75, 100), (130, 20)])
def test_agrees_with_product_and_recurrence(highway, directions, window, hidden, inputs):
    windows = 9 if window[0] else 50
    for ragged in (False, True):
        check_case(
            Case(3, windows, *window, inputs, directions, hidden, highway, ragged=ragged, initial=ragged, seed=hidden)
        )


@settings(deadline=None)
@given(
    st.builds(
        Case,
        batch=st.integers(0, 5),
        windows=st.integers(0, 12),
        chunk=st.integers(1, 9),
        lookahead=st.integers(0, 5),
        inputs=st.integers(1, 70),
        directions=st.integers(1, 2),
        hidden=st.integers(1, 140),
        highway=st.sampled_from(HIGHWAYS),
        ragged=st.booleans(),
        initial=st.booleans(),
        seed=st.integers(0, 2**31),
    )
)
def test_agrees_for_any_sizes(case):
    check_case(case)


@pytest.mark.parametrize("batch", [1, 3])
def test_agrees_over_many_blocks_of_frames(batch):
    check_case(Case(batch, 900, inputs=70, hidden=70))
    check_case(Case(batch, 70, 9, 4, inputs=70, hidden=70, highway="projected"))


def run(input, weight, x, rest, window, parts=3, pack=pack_weight):
    return fused_layer(input, x, pack(weight, rest[0].shape[0], parts), *rest, parts, **window)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_finite_stays_in_its_frame_or_column(way):
    dtype, pack = WAYS[way]
    input, weight, x, (v, b, *_), window = Case(1, 20, inputs=40, directions=1, hidden=40, highway="none").draw(dtype)
    rest = (v, b, None, None, 1.0)
    sane, _ = run(input, weight, x, rest, window, pack=pack)
    input[0, 10, 3] = float("nan")
    h, _ = run(input, weight, x, rest, window, pack=pack)
    assert torch.equal(h[0, :10], sane[0, :10])
    assert h[0, 10:].isnan().all()
    weight[5, 0] = float("nan")  # a candidate's
    h, _ = run(input[:, :10], weight, x, rest, window, pack=pack)
    assert h[..., 5].isnan().all()
    assert torch.equal(h[..., 6:], sane[:, :10, :, 6:])


def test_quantised_weights_are_what_they_claim():
    """Exact, as weights are integers up to 127 and inputs have eight bits."""
    weight = torch.randint(-127, 128, (3 * 16, 200)).float()
    weight[:, 7] = 127
    weight[2] = 0
    input = (torch.randint(-255, 256, (1, 1, 200)) / 4096).bfloat16()
    zero = torch.zeros(1, 2, 16)
    reset = torch.cat([zero[:, :1], zero[:, 1:] + 60], 1)  # the reset gate open, the forget gate at its product
    _, state = fused_layer(input, None, quantize_weight(weight, 1, 3), zero, reset)
    u = F.linear(input.double(), weight.double()).view(3, 16)
    expected = (1 - u[1].sigmoid()) * u[0]
    torch.testing.assert_close(state.view(16).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_padding_batch_mates_and_threads_change_nothing(way):
    dtype, pack = WAYS[way]
    input, weight, x, (v, b, initial, _, alpha), window = Case(5, 300, inputs=64, hidden=96).draw(dtype)
    lengths = torch.tensor([300, 17, 0, 299, 123])
    for i, length in enumerate(lengths):
        input[i, length:] = float("nan")
        x[i, length:] = float("nan")
    h, state = run(input, weight, x, (v, b, initial, lengths, alpha), window, pack=pack)
    assert h.isfinite().all()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        again, again_state = run(input, weight, x, (v, b, initial, lengths, alpha), window, pack=pack)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(h, again)
    assert torch.equal(state, again_state)
    for i, length in enumerate(lengths):
        alone, alone_state = run(
            input[i : i + 1, :length],
            weight,
            x[i : i + 1, :length],
            (v, b, initial[i : i + 1], None, alpha),
            window,
            pack=pack,
        )
        assert torch.equal(h[i, :length], alone[0])
        assert torch.equal(state[i], alone_state[0])
        assert not h[i, length:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides_do_not_matter(dtype):
    input, weight, x, rest, window = Case(3, 20, inputs=40, hidden=20).draw(dtype)
    expected = run(input, weight, x, rest, window)
    for view in (lambda t: t.transpose(0, 1).contiguous().transpose(0, 1), lambda t: F.pad(t, (3, 5))[..., 3:-5]):
        for got, want in zip(run(view(input), weight, view(x), rest, window), expected, strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("way", WAYS)
def test_passes_opcheck(way):
    dtype, pack = WAYS[way]
    input, weight, x, (v, b, initial, lengths, alpha), _ = Case(2, 9, hidden=70).draw(dtype)
    tests = ("test_schema", "test_faketensor")
    operator = {pack_weight: torch.ops.sru_asr.pack_weight, quantize_weight: torch.ops.sru_asr.quantize_weight}[pack]
    torch.library.opcheck(operator, (weight, 2, 3), test_utils=tests)
    packed = (pack(weight, 2, 3), None) if pack is pack_weight else pack(weight, 2, 3)
    arguments = (input, x, *packed, v, b, initial, lengths, alpha, 3, 3, 0)
    torch.library.opcheck(torch.ops.sru_asr.fused_layer, arguments, test_utils=tests)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.zeros(2, 6, 8).half()}, "input must be .* Float or BFloat16, got .* of Half"),
        ({"packed": pack_weight(torch.zeros(30, 32), 2, 3)}, "weight must have dtype BFloat16, got Float"),
        ({"packed": pack_weight(torch.zeros(30, 8), 2, 3)}, "weight must be what pack_weight made"),
        ({"input": torch.zeros(2, 6, 80).bfloat16()}, "weight must be what pack_weight made"),
        ({"packed": quantize_weight(torch.zeros(30, 80), 2, 3)}, "weight must be what quantize_weight made"),
        (
            {"input": torch.zeros(2, 6, 8), "x": None, "packed": quantize_weight(torch.zeros(30, 8), 2, 3)},
            "input must be of dtype BFloat16 where weights are quantised",
        ),
        (
            {"x": torch.zeros(2, 6, 2, 4).bfloat16()},
            r"x must be \(batch, frames, directions, hidden\) = \(2, 6, 2, 5\)",
        ),
        ({"parts": 4}, "x must be None"),
        ({"parts": 5}, "parts must be 3 or 4, got 5"),
        ({"weight_c": torch.zeros(3, 2, 5)}, "weight_c must be .1 or 2 directions"),
        ({"lengths": torch.tensor([7, 1])}, r"lengths\[0\] must lie between 0 and the 6 frames"),
        ({"chunk": 4}, "whole windows"),
    ],
)
def test_an_error_names_the_argument(change, message):
    arguments = {
        "input": torch.zeros(2, 6, 8).bfloat16(),
        "x": torch.zeros(2, 6, 2, 5).bfloat16(),
        "packed": pack_weight(torch.zeros(30, 8).bfloat16(), 2, 3),
        "weight_c": torch.zeros(2, 2, 5),
        "bias": torch.zeros(2, 2, 5),
        **change,
    }
    with pytest.raises(RuntimeError, match="sru_asr::fused_layer: .*" + message):
        fused_layer(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(7, 8), 2, 3), r"weight must be \(directions \* parts \* hidden, inputs\)"),
        ((torch.zeros(6, 8), 3, 3), "expected 1 or 2 directions"),
        ((torch.zeros(6, 8).double(), 2, 3), "weight must be float32 or bfloat16, got Double"),
        ((torch.zeros(0, 8), 2, 3), "none of them 0"),
        ((torch.zeros(6, 0), 2, 3), "none of them 0"),
    ],
)
def test_an_error_of_packing_names_the_argument(arguments, message):
    with pytest.raises(RuntimeError, match="sru_asr::pack_weight: .*" + message):
        pack_weight(*arguments)
    with pytest.raises(RuntimeError, match="sru_asr::quantize_weight: .*" + message):
        quantize_weight(*arguments)


def test_more_inputs_than_their_sum_has_room_for_are_not_quantised():
    quantize_weight(torch.zeros(3, 65_536), 1, 3)
    with pytest.raises(RuntimeError, match="at most 65536 inputs"):
        quantize_weight(torch.zeros(3, 65_537), 1, 3)


def test_columns_of_the_least_and_the_greatest_numbers_are_quantised():
    weight = torch.tensor([[1e-44, 1e-44], [1e-37, 1e-38], [3.402e38, -3.402e38]])
    _, scales = quantize_weight(weight, 1, 3)
    assert scales.isfinite().all()
    reset = torch.tensor([[[0.0], [40.0]]])
    _, state = fused_layer(torch.ones(1, 1, 2).bfloat16(), None, quantize_weight(weight, 1, 3), reset * 0, reset)
    assert state.isfinite().all()


def test_without_inputs_or_with_gradients_there_is_no_layer():
    rest = (torch.zeros(1, 2, 5), torch.zeros(1, 2, 5))
    packed = pack_weight(torch.zeros(15, 8), 1, 3)
    with pytest.raises(RuntimeError, match="at least one input"):
        fused_layer(torch.zeros(2, 3, 0), None, packed, *rest)
    with pytest.raises(RuntimeError, match="no gradients"):
        fused_layer(torch.zeros(2, 3, 8, requires_grad=True), None, packed, *rest)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says so what a process holds")
def test_an_hour_of_audio_leaves_no_memory_behind():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    layer, x = SRULayer(256, 4, highway=False).eval(), torch.zeros(1, 200_000, 256)
    output_of(layer, x[:, :10])
    before = resident()
    output_of(layer, x)
    assert resident() - before < 64 << 20  # the rows of x, packed, are 195 MiB


# Behind the module

KINDS = {
    "highway": {},
    "encoder": {"layer_norm": True, "residual": True, "highway": False},
    "projected": {"projection_size": 7},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numbers", ["autocast", torch.bfloat16, torch.float32])
@pytest.mark.parametrize("window", [(0, 0), (3, 2)])
def test_the_module_agrees_with_its_training_form(kind, numbers, window, monkeypatch):
    if numbers == torch.float32 and kernel_name() in {"baseline", "emulated"}:
        pytest.skip("in float32 the baseline's layers take torch's product")
    sru = SRU(24, 40, 3, batch_first=True, bidirectional=True, **KINDS[kind]).eval()
    x, lengths = torch.randn(4, 30, 24), torch.tensor([30, 2, 0, 17])
    if numbers != "autocast":
        sru, x = sru.to(numbers), x.to(numbers)
    calls = []
    monkeypatch.setattr("sru_asr.layer.fused_layer", lambda *a: calls.append(1) or fused_layer(*a))
    with torch.autocast("cpu", torch.bfloat16, enabled=numbers == "autocast"):
        expected, expected_state = sru(x, None, lengths, *window)
        assert not calls
        with torch.inference_mode():
            output, state = sru(x, None, lengths, *window)
    assert len(calls) == 3
    assert output.dtype == expected.dtype
    for got, want in ((output, expected), (state, expected_state)):
        assert (got - want).float().norm() < (1e-5 if numbers == torch.float32 else 0.01) * want.float().norm()


@pytest.mark.parametrize("way", WAYS)
def test_live_equals_offline_in_one_pass(way):
    dtype, pack = WAYS[way]
    sru = SRU(48, 24, 3, batch_first=True, bidirectional=True).to(dtype).eval().quantize(pack is quantize_weight)
    x = torch.randn(2, 23, 48).to(dtype)
    with torch.inference_mode():
        whole, _ = sru(x, chunk=4, lookahead=3)
        pieces, state = [], None
        for start in range(0, 23, 4):
            output, state = sru.advance(x[:, start : start + 7], min(4, 23 - start), state)
            pieces.append(output)
    if dtype == torch.float32 and kernel_name() in {"baseline", "emulated"}:  # whose product is torch's
        torch.testing.assert_close(torch.cat(pieces, 1), whole)
    else:
        assert torch.equal(torch.cat(pieces, 1), whole)


def test_a_layer_whose_dtype_changes_with_autocast_packs_for_each():
    module, x = SRULayer(16, 16).eval(), torch.randn(1, 5, 16)
    for _ in range(2):
        assert output_of(module, x).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert output_of(module, x).dtype == torch.bfloat16


def output_of(module: SRULayer | SRU, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module(x)[0]


def test_weights_are_packed_once_and_again_when_they_change(monkeypatch):
    calls = []
    monkeypatch.setattr("sru_asr.layer.pack_weight", lambda *a: calls.append(1) or pack_weight(*a))
    module, x = SRULayer(16, 16).bfloat16().eval(), torch.randn(1, 5, 16).bfloat16()
    first = output_of(module, x)
    assert torch.equal(output_of(module, x), first)
    assert len(calls) == 1
    other = SRULayer(16, 16).bfloat16().eval()

    def fused_step():  # which leaves the version as it is
        module.weight.grad = torch.ones_like(module.weight)
        torch.optim.SGD([module.weight], lr=1.0, fused=True).step()

    changes = {
        "in place": lambda: module.weight.mul_(2),
        "loaded": lambda: module.load_state_dict(other.state_dict()),
        "replaced": lambda: setattr(module, "weight", torch.nn.Parameter(torch.zeros_like(module.weight))),
        "data replaced": lambda: setattr(module.weight, "data", torch.ones_like(module.weight)),
        "data changed, then eval()": lambda: (module.weight.data.mul_(3), module.eval()),
        "fused": fused_step,
    }
    seen = [first]
    for name, change in changes.items():
        with torch.no_grad():
            change()
        seen.append(output_of(module, x))
        fresh = SRULayer(16, 16).bfloat16().eval()
        fresh.load_state_dict(module.state_dict())
        assert torch.equal(seen[-1], output_of(fresh, x)), name
        assert not torch.equal(seen[-1], seen[-2]), name


def test_quantising_can_be_undone_and_moves_the_output_a_little():
    torch.manual_seed(0)
    sru, x = SRU(64, 48, 3, bidirectional=True).bfloat16().eval(), torch.randn(2, 30, 64).bfloat16()
    plain = output_of(sru, x)
    assert sru.quantize() is sru
    quantised = output_of(sru, x)
    assert 0 < (quantised - plain).norm() < 0.01 * plain.norm()
    assert torch.equal(output_of(sru.quantize(False), x), plain)
    with torch.no_grad():
        assert torch.equal(sru.float()(x.float())[0], sru.quantize()(x.float())[0])  # which is for bfloat16 alone


def test_what_is_packed_while_the_kind_changes_is_not_taken_for_the_other(monkeypatch):
    layer, x = SRULayer(64, 48, highway=False).bfloat16().eval(), torch.randn(2, 30, 64).bfloat16()
    pack, fresh = layer._pack, copy.deepcopy(layer)
    fresh.quantize()

    def meanwhile(*arguments):
        layer.quantize()
        return pack(*arguments)

    monkeypatch.setattr(layer, "_pack", meanwhile)
    plain = output_of(layer, x)
    monkeypatch.undo()
    assert torch.equal(output_of(layer, x), output_of(fresh, x))
    assert not torch.equal(output_of(layer, x), plain)


def test_threads_may_call_eval_and_quantize_at_any_time():
    layer, x, faults = SRULayer(8, 4).bfloat16().eval(), torch.randn(1, 2, 8).bfloat16(), []

    def work():
        try:
            for number in range(500):
                layer.eval().quantize(number % 2 == 0)
                output_of(layer, x)
        except Exception as fault:
            faults.append(fault)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not faults


def test_a_tracers_stand_ins_are_not_kept():
    layer, x = SRULayer(8, 4).eval(), torch.randn(1, 2, 8)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        layer(mode.from_tensor(x))
    assert type(output_of(layer, x)) is torch.Tensor


def test_many_weights_at_once():
    layers, x = [SRULayer(8, 4).eval() for _ in range(3)], torch.randn(1, 2, 8)
    parameters, _ = torch.func.stack_module_state(layers)
    with torch.no_grad():
        found = torch.vmap(lambda weights: torch.func.functional_call(layers[0], weights, x)[0])(parameters)
    for got, layer in zip(found, layers, strict=True):
        torch.testing.assert_close(got, output_of(layer, x))


def test_many_inputs_at_once_with_gradients():
    sru, inputs = SRU(8, 16, 2, bidirectional=True), torch.randn(2, 3, 7, 8)
    losses = [
        torch.vmap(lambda x: sru(x)[0])(inputs).square().sum(),
        sum(sru(x)[0].square().sum() for x in inputs),
    ]
    together, alone = (torch.autograd.grad(loss, list(sru.parameters())) for loss in losses)
    torch.testing.assert_close(together, alone)


def test_many_weights_at_once_with_gradients():
    """Within vmap nothing told that gradients were wanted, so that nothing was kept for them."""
    srus, x = [SRU(8, 16, 2, bidirectional=True, batch_first=True) for _ in range(3)], torch.randn(2, 7, 8)
    parameters, _ = torch.func.stack_module_state(srus)
    torch.vmap(lambda some: torch.func.functional_call(srus[0], some, (x,))[0])(parameters).square().sum().backward()
    for index, sru in enumerate(srus):
        sru(x)[0].square().sum().backward()
        for name, parameter in sru.named_parameters():
            torch.testing.assert_close(parameters[name].grad[index], parameter.grad)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("what", ["input", "layers.0.weight", "layers.0.bias", "layers.0.weight_c"])
def test_forward_mode_is_refused(what, gradients):
    """Torch takes operators without a rule for constants: the derivative was 0."""
    sru, x = SRU(8, 16, batch_first=True).eval(), torch.randn(2, 7, 8)
    parameters = dict(sru.named_parameters())

    def output(value):
        if what == "input":
            return sru(value)[0]
        return torch.func.functional_call(sru, parameters | {what: value}, (x,))[0]

    at = x if what == "input" else parameters[what].detach()
    with torch.set_grad_enabled(gradients), pytest.raises((NotImplementedError, RuntimeError), match=r"jvp"):
        torch.func.jvp(output, (at,), (torch.ones_like(at),))


@pytest.mark.parametrize("gradients", [False, True])
def test_weights_that_were_never_loaded_are_an_error(gradients):
    """With one tensor on the meta device torch takes the fake for the kernel: it returned whatever lay in memory."""
    layer, x = SRULayer(8, 4).eval(), torch.randn(1, 2, 8)
    layer.weight_c = torch.nn.Parameter(layer.weight_c.to("meta"))
    with torch.set_grad_enabled(gradients), pytest.raises(RuntimeError, match="weight_c must be on the device of"):
        layer(x)


def test_a_module_that_moves_forgets_what_was_packed():
    layer = SRULayer(8, 4).eval()
    output_of(layer, torch.randn(1, 2, 8))
    assert layer._packed is not None
    assert layer.to("meta")._packed is None


def test_compiled_it_packs_nothing_in_each_call(monkeypatch):
    layer, x = SRULayer(8, 4).eval(), torch.randn(1, 2, 8)
    expected = output_of(layer, x)
    monkeypatch.setattr("sru_asr.layer.pack_weight", lambda *_: pytest.fail("packed"))
    torch.compiler.reset()
    torch.testing.assert_close(output_of(torch.compile(layer, fullgraph=True, backend="aot_eager"), x), expected)


def test_while_training_weights_are_packed_in_every_call(monkeypatch):
    module, x = SRULayer(16, 16).bfloat16().train(), torch.randn(1, 5, 16).bfloat16()
    first = output_of(module, x)
    module.weight.data.mul_(2)
    assert not torch.equal(output_of(module, x), first)


def test_pickles_hold_no_packed_weights():
    module = SRULayer(16, 16).bfloat16().eval()
    output_of(module, torch.randn(1, 5, 16).bfloat16())
    assert module._packed is not None
    assert module.__getstate__()["_packed"] is None


@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_whole(backend, bfloat16):
    torch.compiler.reset()
    sru = SRU(16, 8, 2, batch_first=True, bidirectional=True).eval()
    compiled = torch.compile(sru, fullgraph=True, backend=backend)
    x, lengths = torch.randn(3, 9, 16), torch.tensor([9, 0, 4])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        want, got = sru(x, None, lengths, 2, 1)[0], compiled(x, None, lengths, 2, 1)[0]
        assert (want - got).float().norm() <= 0.01 * want.float().norm()
        with torch.no_grad():
            sru.layers[0].weight.mul_(2)
        assert not torch.equal(compiled(x, None, lengths, 2, 1)[0], got)
