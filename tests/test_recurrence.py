"""The recurrence operator: against its plain-torch reference, and what that cannot tell, from NaN to error messages."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sru_asr.ops import recurrence, recurrence_reference

NAMES = ("u", "x", "weight_c", "bias", "initial_state")
HIGHWAYS = ("none", "input", "projected")
LAYOUTS = ("contiguous", "time first", "slice", "every second", "expanded")
WINDOWS = ((0, 0), (1, 0), (1, 2), (4, 0), (3, 2), (2, 5))
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
HALF_DISTANCE = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # between two numbers, relative to the smaller


def random(generator: torch.Generator, layout: str, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal numbers in a tensor of this shape whose memory is laid out so."""

    def fill(*sizes):
        return torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype)

    batch, frames, *_, last = shape
    if layout == "time first":
        return fill(frames, batch, *shape[2:]).transpose(0, 1)
    if layout == "slice":
        return fill(batch, frames + 2, *shape[2:-1], last + 3)[:, 1 : frames + 1, ..., 2 : last + 2]
    if layout == "every second":
        return fill(*shape[:-1], 2 * last)[..., ::2]
    if layout == "expanded":
        return fill(1, frames, *shape[2:-1], 1).expand(shape)
    return fill(*shape)


@dataclass(frozen=True)
class Case:
    """A problem for the operator, drawn from its seed."""

    batch: int = 2
    windows: int = 3  # frames, if chunk is 0
    chunk: int = 0
    lookahead: int = 0
    directions: int = 2
    highway: str = "input"
    hidden: int = 5
    ragged: bool = True
    initial: bool = True
    alpha: float = 1.3
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    seed: int = 0

    @property
    def frames(self) -> int:
        return self.windows * (self.chunk + self.lookahead) if self.chunk else self.windows

    @property
    def utterance_frames(self) -> int:
        """Frames of an utterance, the windows' overlaps counted once."""
        return self.windows * self.chunk + self.lookahead if self.chunk and self.windows else self.frames

    @property
    def real(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def draw(self) -> tuple[list[torch.Tensor | None], dict]:
        """The differentiable arguments and the others."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.batch, self.frames, self.directions)
        parts = 4 if self.highway == "projected" else 3
        u = random(generator, self.layout, *shape, parts, self.hidden, dtype=self.dtype)
        x = random(generator, self.layout, *shape, self.hidden, dtype=self.dtype) if self.highway == "input" else None
        weight_c, bias = (
            random(generator, "contiguous", self.directions, 2, self.hidden, dtype=self.real) for _ in "vb"
        )
        initial = None
        if self.initial:
            initial = random(generator, "contiguous", self.batch, self.directions, self.hidden, dtype=self.real)
        lengths = None
        if self.ragged:
            lengths = torch.randint(0, self.utterance_frames + 1, (self.batch,), generator=generator)
        others = {"lengths": lengths, "alpha": self.alpha, "chunk": self.chunk, "lookahead": self.lookahead}
        return [u, x, weight_c, bias, initial], others

    def draw_gradients(self) -> list[torch.Tensor]:
        """Gradients of h and of the final state."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        shape = (self.batch, self.frames, self.directions, self.hidden)
        return [
            random(generator, self.layout, *shape, dtype=self.dtype),
            random(generator, "contiguous", self.batch, self.directions, self.hidden, dtype=self.real),
        ]

    def inside(self, lengths: torch.Tensor) -> torch.Tensor:
        """(batch, frames) bool: the frames that lie within an utterance."""
        chunk = self.chunk or self.frames
        size = chunk + self.lookahead
        frame = torch.arange(self.frames)
        at = frame // size * chunk + frame % size if size else frame
        return at < lengths[:, None]


def run(function, arguments, others, gradients) -> dict[str, torch.Tensor]:
    """h, the final state and the gradient of every differentiable argument, by name."""
    leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in arguments]
    outputs = function(*leaves, **others)
    used = {name: leaf for name, leaf in zip(NAMES, leaves, strict=True) if leaf is not None}
    # Of no frames the reference returns zeros that depend on nothing.
    differentiable = [(o, g) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
    found = [torch.zeros_like(leaf) for leaf in used.values()]
    if differentiable:
        results, weights = zip(*differentiable, strict=True)
        found = torch.autograd.grad(results, tuple(used.values()), weights, materialize_grads=True)
    return dict(zip(("h", "final state", *used), (*(o.detach() for o in outputs), *found), strict=True))


def moved(arguments, device):
    """Tensors in lists and dictionaries, as they lie in memory."""
    if isinstance(arguments, torch.Tensor):
        # `to` would make an expanded tensor dense.
        return torch.as_strided(
            torch.as_strided(
                arguments, (arguments.untyped_storage().nbytes() // arguments.element_size(),), (1,), 0
            ).to(device),
            arguments.shape,
            arguments.stride(),
            arguments.storage_offset(),
        )
    if isinstance(arguments, dict):
        return {name: moved(value, device) for name, value in arguments.items()}
    return [moved(value, device) for value in arguments] if isinstance(arguments, list | tuple) else arguments


def cast(tensors, dtype):
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]


def check_case(case: Case, device: str = "cpu", slack: float = 1) -> None:
    """Against the reference. Arguments are of size one, so the tolerance is 1e-5 of the largest number, or 1e-6."""
    arguments, others = case.draw()
    gradients = case.draw_gradients()
    actual = run(recurrence, *moved((arguments, others, gradients), device))
    actual = {name: tensor.cpu() for name, tensor in actual.items()}
    # What the reference computes of the same bfloat16 numbers, without rounding its results.
    expected = run(recurrence_reference, cast(arguments, case.real), others, cast(gradients, case.real))
    assert actual.keys() == expected.keys()
    for name, want in expected.items():
        got = actual[name]
        assert got.shape == want.shape, name
        rounded = name in ("h", "u", "x")
        assert got.dtype == (case.dtype if rounded else case.real), name
        if want.numel() == 0:
            continue
        relative, absolute = (1e-12, 1e-13) if case.dtype == torch.float64 else (1e-5, 1e-6)
        if case.dtype in HALF_DISTANCE and name in ("weight_c", "bias"):
            # Sums over frames and utterances, not rounded themselves, of terms whose gates are good to 3e-6 (simd.h). A
            # forget gate that hangs on its own state by a v of -2.8 made 4e-5 of that, where float32 was off by 2e-6.
            absolute = 1e-5 * max(expected["h"].numel() / want.numel(), 1) ** 0.5
        allowed = slack * (relative * want.abs().max() + absolute)
        if rounded and case.dtype in HALF_DISTANCE:
            allowed = allowed + want.abs() * HALF_DISTANCE[case.dtype]
        error = (got.to(case.real) - want).abs()
        assert (error <= allowed).all(), f"{name} is off by {error.max():.2e} at {case}"


cases = st.builds(
    lambda window, **settings: Case(chunk=window[0], lookahead=window[1], **settings),
    window=st.sampled_from(WINDOWS),
    batch=st.integers(0, 3),
    windows=st.integers(0, 4),
    directions=st.sampled_from([1, 2]),
    highway=st.sampled_from(HIGHWAYS),
    hidden=st.sampled_from([1, 3, 4, 15, 16, 17, 33, 64, 65, 100, 131]),
    ragged=st.booleans(),
    initial=st.booleans(),
    alpha=st.sampled_from([1.0, 0.0, 1.7]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**31),
)


@settings(deadline=None, max_examples=200)
@given(cases)
def test_agrees_with_the_reference(case):
    check_case(case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("highway", HIGHWAYS)
def test_agrees_over_many_frames(dtype, highway):
    check_case(Case(windows=40, hidden=40, highway=highway, dtype=dtype, directions=1))
    check_case(Case(windows=5, chunk=4, lookahead=3, hidden=40, highway=highway, dtype=dtype))


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("windows", [0, 1])
def test_agrees_on_next_to_nothing(batch, window, windows):
    for ragged in (False, True):
        check_case(Case(batch=batch, windows=windows, chunk=window[0], lookahead=window[1], ragged=ragged))


def test_gradients_of_one_result_alone():
    """Autograd passes no gradient at all for a result nobody used."""
    case = Case(windows=4)
    arguments, others = case.draw()
    for used in (0, 1):
        gradients = case.draw_gradients()
        gradients[1 - used].zero_()
        expected = run(recurrence, arguments, others, gradients)["u"]
        leaves = [arguments[0].clone().requires_grad_(), *arguments[1:]]
        result = recurrence(*leaves, **others)[used]
        actual = torch.autograd.grad(result, leaves[0], gradients[used])[0]
        assert torch.equal(actual, expected)


def test_low_precision_errs_at_most_twice_as_much_as_torch():
    """flash-attention's rule: bfloat16 against the float64 truth, next to the same sums in plain bfloat16 torch."""

    def plain(u, x, weight_c, bias, alpha):
        c, h = torch.zeros_like(x[:, 0]), []
        for t in range(u.shape[1]):
            candidate, forget, reset = u[:, t].unbind(2)
            f = torch.sigmoid(forget + weight_c[:, 0] * c + bias[:, 0])
            r = torch.sigmoid(reset + weight_c[:, 1] * c + bias[:, 1])
            c = f * c + (1 - f) * candidate
            h.append(r * c + (1 - r) * alpha * x[:, t])
        return torch.stack(h, 1), c

    case = Case(batch=4, windows=50, directions=1, hidden=64, ragged=False, initial=False, dtype=torch.bfloat16)
    arguments, others = case.draw()
    arguments = [None if a is None else a.bfloat16() for a in arguments]  # the same numbers for all three
    gradients = cast(case.draw_gradients(), torch.bfloat16)
    truth = run(recurrence_reference, cast(arguments, torch.float64), others, cast(gradients, torch.float64))
    ours = run(recurrence, arguments, others, [gradients[0], gradients[1].float()])
    torchs = run(lambda u, x, w, b, _, **__: plain(u, x, w, b, case.alpha), arguments, others, gradients)
    for name, want in truth.items():
        error = (ours[name].double() - want).abs()
        allowed = 2 * (torchs[name].double() - want).abs()
        assert error.max() <= allowed.max(), name
        assert error.mean() <= allowed.mean(), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("highway", HIGHWAYS)
def test_large_numbers_stay_finite(dtype, highway):
    case = Case(windows=6, hidden=40, highway=highway, dtype=dtype, ragged=False)
    arguments, others = case.draw()
    arguments = [None if a is None else torch.where(a > 0, 1e4, -1e4).to(a.dtype) for a in arguments]
    gradients = case.draw_gradients()
    actual = run(recurrence, arguments, others, gradients)
    truth = run(recurrence_reference, cast(arguments, torch.float64), others, cast(gradients, torch.float64))
    for name, want in truth.items():
        assert actual[name].isfinite().all(), name
        error = (actual[name].double() - want).abs().max()
        assert error <= (2**-8 if actual[name].dtype == torch.bfloat16 else 1e-6) * want.abs().max() + 1e-6, name


def test_what_a_gate_leaves_to_one_has_all_its_digits():
    """The gradient of the candidate is 1 - f of that of h; as a difference it has none left from u_f = 17 on."""
    forget = torch.linspace(-30, 30, 61).view(1, 1, 1, 61)
    u = torch.stack([torch.zeros_like(forget), forget, torch.full_like(forget, 30.0)], 3).requires_grad_()
    zeros = torch.zeros(1, 2, 61)
    h, _ = recurrence(u, None, zeros, zeros)
    h.sum().backward()
    expected = torch.sigmoid(-forget.double()).flatten()
    assert (u.grad[0, 0, 0, 0].double() / expected - 1).abs().max() < 1e-5


@pytest.mark.parametrize("highway", HIGHWAYS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_reaches_what_depends_on_it_and_nothing_else(dtype, highway):
    case = Case(batch=2, windows=4, chunk=2, lookahead=1, hidden=35, highway=highway, dtype=dtype, ragged=False)
    arguments, others = case.draw()
    gradients = case.draw_gradients()
    clean = run(recurrence, arguments, others, gradients)
    utterance, frame, column = 1, 5, 33  # the lookahead of the second of four windows
    for direction, reached in ((0, [5]), (1, [3, 4, 5])):
        dirty = [None if a is None else a.clone() for a in arguments]
        dirty[0][utterance, frame, direction, 0, column] = torch.nan
        found = run(recurrence, dirty, others, gradients)
        expected = torch.zeros_like(found["h"], dtype=torch.bool)
        expected[utterance, reached, direction, column] = True
        assert torch.equal(found["h"].isnan(), expected)
        assert torch.equal(found["h"][~expected], clean["h"][~expected])
        # Backwards it spoils this utterance's column, and the sums over utterances for this column.
        for name in ("u", "weight_c", "bias", "initial_state"):
            others_columns = torch.ones_like(found[name], dtype=torch.bool)
            at = (slice(None) if name in ("weight_c", "bias") else utterance, ..., column)
            others_columns[at] = False
            assert found[name][~others_columns].isnan().any(), name
            assert torch.equal(found[name][others_columns], clean[name][others_columns]), name
    forward_only = [None if a is None else a.clone() for a in arguments]
    forward_only[0][utterance, 3, 0, 0, column] = torch.nan  # in a chunk: it stays in the state to the end
    found = run(recurrence, forward_only, others, gradients)
    assert found["h"][utterance, :, 0, column].isnan().tolist() == [False] * 3 + [True] * 9
    assert found["final state"].isnan().nonzero().tolist() == [[utterance, 0, column]]


def test_nan_of_any_payload_stays_nan():
    """Bits of a NaN must not end up as a number by integer arithmetic on them."""
    bits = torch.tensor([0x7FC00000, 0x7FFFFFFF, 0x7F800001, -1, -0x400000, -0x7FFFFF], dtype=torch.int32)
    for nans in (bits.view(torch.float32), (bits >> 16).to(torch.int16).view(torch.bfloat16)[[0, 1, 3, 4]]):
        for part in range(4):
            u = torch.zeros(1, 1, 1, 4, len(nans), dtype=nans.dtype)
            u[0, 0, 0, part] = nans
            zeros = torch.zeros(1, 2, len(nans))
            h, state = recurrence(u, None, zeros + 0.5, zeros, torch.ones(1, 1, len(nans)))
            assert h.isnan().all(), (nans.dtype, part)
            if part < 2:
                assert state.isnan().all(), (nans.dtype, part)
    for dtype in DTYPES:
        u = torch.zeros(1, 1, 1, 3, len(bits), dtype=dtype)
        zeros = torch.zeros(1, 2, len(bits))
        h, state = recurrence(u, None, zeros, zeros, bits.view(torch.float32)[None, None])
        assert h.isnan().all(), dtype
        assert state.isnan().all(), dtype


@settings(deadline=None, max_examples=40)
@given(cases)
def test_what_lies_behind_a_length_is_never_read(case):
    arguments, others = case.draw()
    gradients = case.draw_gradients()
    lengths = others["lengths"] = torch.randint(0, case.utterance_frames + 1, (case.batch,))
    behind = ~case.inside(lengths)
    clean = run(recurrence, arguments, others, gradients)
    assert (clean["h"][behind] == 0).all()
    for tensor in (arguments[0], arguments[1], gradients[0]):
        if tensor is not None and case.layout != "expanded":
            tensor[behind] = torch.nan
    found = run(recurrence, arguments, others, gradients)
    for name, want in clean.items():
        assert torch.equal(found[name], want), name
        if name in ("u", "x"):
            assert (want[behind] == 0).all()


@pytest.mark.parametrize("highway", HIGHWAYS)
@pytest.mark.parametrize("window", [(0, 0), (2, 1), (1, 2), (3, 0)])
def test_gradcheck(highway, window):
    windows = 2 if window[0] else 5
    case = Case(windows=windows, chunk=window[0], lookahead=window[1], highway=highway, hidden=3, dtype=torch.float64)
    arguments, others = case.draw()
    leaves = [None if a is None else a.requires_grad_() for a in arguments]
    assert torch.autograd.gradcheck(lambda *a: recurrence(*a, **others), leaves)


def test_second_derivative_is_refused():
    case = Case(dtype=torch.float64)
    arguments, others = case.draw()
    u = arguments[0].requires_grad_()
    (first,) = torch.autograd.grad(recurrence(*arguments, **others)[0].sum(), u, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("highway", "dtype"),
    [*((highway, torch.float32) for highway in HIGHWAYS), ("input", torch.bfloat16)],
    ids=str,
)
def test_opcheck(highway, dtype):
    for case in (
        Case(highway=highway, dtype=dtype),
        Case(highway=highway, dtype=dtype, chunk=2, lookahead=1, directions=1, ragged=False, initial=False),
    ):
        arguments, others = case.draw()
        settings = tuple(others.values())
        grad_h, grad_final = case.draw_gradients()
        states = torch.ops.sru_asr.recurrence(*arguments, *settings, True)[2]
        for grads in ((grad_h, grad_final), (grad_h, None)):
            torch.library.opcheck(
                torch.ops.sru_asr.recurrence_backward.default, (*grads, *arguments, *settings, states)
            )
        torch.library.opcheck(torch.ops.sru_asr.recurrence.default, (*arguments, *settings, False))
        leaves = [None if a is None else a.requires_grad_() for a in arguments]
        torch.library.opcheck(torch.ops.sru_asr.recurrence.default, (*leaves, *settings, True))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(dynamic):
    """Traced and differentiated by torch.compile without a break; once for all shapes if dynamic."""
    from torch._dynamo.testing import CompileCounterWithBackend  # slow to import

    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(recurrence, fullgraph=True, dynamic=dynamic, backend=counter)
    compilations = set()
    for batch, windows in ((4, 5), (7, 6), (6, 8)):  # the first are no sizes of anything else
        case = Case(batch=batch, windows=windows, chunk=2, lookahead=1, hidden=11)
        arguments, others = case.draw()
        gradients = case.draw_gradients()
        expected = run(recurrence, arguments, others, gradients)
        actual = run(compiled, arguments, others, gradients)
        for name, want in expected.items():
            assert torch.equal(actual[name], want), name
        compilations.add(counter.frame_count)
    if dynamic:
        assert len(compilations) == 1


@contextlib.contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_threads_change_no_bit(dtype, batch):
    case = Case(batch=batch, windows=150, directions=1, hidden=335, dtype=dtype)
    arguments, others = case.draw()
    gradients = case.draw_gradients()
    results = []
    for count in (1, 2, 3):
        with threads(count):
            results.append(run(recurrence, arguments, others, gradients))
    for other in results[1:]:
        for name, want in results[0].items():
            assert torch.equal(other[name], want), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 2])
def test_batch_mates_and_padding_change_no_bit(dtype, count):
    case = Case(batch=4, windows=150, hidden=150, dtype=dtype)
    arguments, others = case.draw()
    gradients = case.draw_gradients()
    with threads(count):
        together = run(recurrence, arguments, others, gradients)
        sums = {name: torch.zeros_like(together[name]) for name in ("weight_c", "bias")}
        for i, length in enumerate(others["lengths"].tolist()):
            u, x, weight_c, bias, initial = arguments
            alone = run(
                recurrence,
                [u[i : i + 1, :length], x[i : i + 1, :length], weight_c, bias, initial[i : i + 1]],
                {"alpha": case.alpha},
                [gradients[0][i : i + 1, :length], gradients[1][i : i + 1]],
            )
            for name in ("h", "u", "x"):
                assert torch.equal(alone[name][0], together[name][i, :length]), name
            for name in ("final state", "initial_state"):
                assert torch.equal(alone[name][0], together[name][i]), name
            for name, total in sums.items():
                total += alone[name]
    for name, total in sums.items():  # added up in the utterances' order
        assert torch.equal(total, together[name]), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward_direction_is_the_forward_one_flipped(dtype):
    case = Case(windows=9, hidden=37, ragged=False, dtype=dtype)
    (u, x, weight_c, bias, initial), _ = case.draw()
    grad_h, grad_final = case.draw_gradients()
    both = run(recurrence, (u, x, weight_c, bias, initial), {}, (grad_h, grad_final))
    flipped = run(
        recurrence,
        (u[:, :, 1:].flip(1), x[:, :, 1:].flip(1), weight_c[1:], bias[1:], initial[:, 1:]),
        {},
        (grad_h[:, :, 1:].flip(1), grad_final[:, 1:]),
    )
    for name in ("h", "u", "x"):
        assert torch.equal(flipped[name].flip(1), both[name][:, :, 1:]), name
    for name in ("final state", "initial_state"):
        assert torch.equal(flipped[name], both[name][:, 1:]), name
    for name in ("weight_c", "bias"):
        assert torch.equal(flipped[name], both[name][1:]), name


def test_pieces_equal_the_whole():
    case = Case(windows=9, directions=1, ragged=False)
    (u, x, weight_c, bias, initial), _ = case.draw()
    h, final = recurrence(u, x, weight_c, bias, initial)
    first, state = recurrence(u[:, :4], x[:, :4], weight_c, bias, initial)
    second, state = recurrence(u[:, 4:], x[:, 4:], weight_c, bias, state)
    assert torch.equal(torch.cat([first, second], 1), h)
    assert torch.equal(state, final)


def test_arguments_of_other_precisions_are_cast():
    """As under autocast: u in bfloat16, the highway and the parameters in whatever they are kept in."""
    case = Case(dtype=torch.bfloat16)
    (u, x, weight_c, bias, initial), others = case.draw()
    expected = recurrence(u, x, weight_c.bfloat16().float(), bias, initial, **others)
    actual = recurrence(u, x.float(), weight_c.bfloat16(), bias.double(), initial.double(), **others)
    for got, want in zip(actual, expected, strict=True):
        assert torch.equal(got, want)


def test_states_are_kept_only_for_a_backward_pass():
    case = Case(batch=3, windows=4, ragged=False)
    arguments, others = case.draw()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        recurrence(*arguments, **others)
        assert not saved
        recurrence(arguments[0].requires_grad_(), *arguments[1:], **others)
    assert max(t.numel() for t in saved if t.dtype == torch.float32) >= 3 * 4 * 2 * 5


ERRORS = {
    "u has too few dimensions": (
        {"u": torch.zeros(2, 6, 3, 5)},
        r"u must be \(batch, frames, 1 or 2 directions, 3 or 4 parts, hidden\), got \(2, 6, 3, 5\)",
    ),
    "three directions": ({"u": torch.zeros(2, 6, 3, 3, 5)}, r"1 or 2 directions.* got \(2, 6, 3, 3, 5\)"),
    "two parts": ({"u": torch.zeros(2, 6, 2, 2, 5)}, r"3 or 4 parts.* got \(2, 6, 2, 2, 5\)"),
    "float16": (
        {"u": torch.zeros(2, 6, 2, 3, 5).half()},
        "u must be float32, .*GPUs only., got Half",
    ),
    "integers": (
        {"u": torch.zeros(2, 6, 2, 3, 5).int()},
        "u must be float32, .*GPUs only., got Int",
    ),
    "two highways": (
        {"u": torch.zeros(2, 6, 2, 4, 5)},
        "x must be None where the product brings the highway as its fourth part",
    ),
    "x of another shape": (
        {"x": torch.zeros(2, 6, 2, 4)},
        r"x must be \(batch, frames, directions, hidden\) = \(2, 6, 2, 5\), got \(2, 6, 2, 4\)",
    ),
    "x of another dtype": ({"x": torch.zeros(2, 6, 2, 5).double()}, "x must have dtype Float, got Double"),
    "short weight_c": (
        {"weight_c": torch.zeros(2, 2, 4)},
        r"weight_c must be \(directions, 2, hidden\) = \(2, 2, 5\), got \(2, 2, 4\)",
    ),
    "flat weight_c": ({"weight_c": torch.zeros(20)}, r"weight_c must be .* got \(20\)"),
    "weight_c in bfloat16": (
        {"weight_c": torch.zeros(2, 2, 5).bfloat16()},
        "weight_c must have dtype Float, got BFloat16",
    ),
    "short bias": (
        {"bias": torch.zeros(1, 2, 5)},
        r"bias must be \(directions, 2, hidden\) = \(2, 2, 5\), got \(1, 2, 5\)",
    ),
    "bias in float64": ({"bias": torch.zeros(2, 2, 5).double()}, "bias must have dtype Float, got Double"),
    "state of another batch": (
        {"initial_state": torch.zeros(3, 2, 5)},
        r"initial_state must be \(batch, directions, hidden\) = \(2, 2, 5\), got \(3, 2, 5\)",
    ),
    "state in float64": (
        {"initial_state": torch.zeros(2, 2, 5).double()},
        "initial_state must have dtype Float, got Double",
    ),
    "too many lengths": ({"lengths": torch.tensor([1, 2, 3])}, r"lengths must be \(batch,\) = \(2\), got \(3\)"),
    "lengths in int32": ({"lengths": torch.tensor([1, 2]).int()}, "lengths must have dtype Long, got Int"),
    "negative length": (
        {"lengths": torch.tensor([6, -1])},
        r"lengths\[1\] must lie between 0 and the 6 frames.*got -1",
    ),
    "length past the end": ({"lengths": torch.tensor([7, 6])}, r"lengths\[0\] must lie between 0 and the 6 .*got 7"),
    "length past the windows": (  # of two windows of 2 + 1 frames: 2 + 2 + 1
        {"lengths": torch.tensor([5, 6]), "chunk": 2, "lookahead": 1},
        r"lengths\[1\] must lie between 0 and the 5 .*got 6",
    ),
    "negative chunk": ({"chunk": -1}, "chunk must be positive .* got chunk -1, lookahead 0"),
    "negative lookahead": ({"chunk": 2, "lookahead": -1}, "lookahead not negative, .* got chunk 2, lookahead -1"),
    "lookahead without chunk": ({"lookahead": 2}, "chunk must be positive .* got chunk 0, lookahead 2"),
    "a broken window": ({"chunk": 3, "lookahead": 1}, r"whole windows of chunk \+ lookahead = 4 frames, got 6"),
    "a window too long": ({"chunk": 7}, "whole windows of chunk .* = 7 frames, got 6"),
    "windows beyond number": (
        {"chunk": 2**63 - 1, "lookahead": 2**63 - 1},
        r"chunk must be positive .* at most 2\^40",
    ),
}


def good_arguments() -> dict:
    return {
        "u": torch.zeros(2, 6, 2, 3, 5),
        "x": torch.zeros(2, 6, 2, 5),
        "weight_c": torch.zeros(2, 2, 5),
        "bias": torch.zeros(2, 2, 5),
        "initial_state": torch.zeros(2, 2, 5),
        "lengths": torch.tensor([4, 2]),
        "alpha": 1.0,
        "chunk": 0,
        "lookahead": 0,
    }


@pytest.mark.parametrize("wrong", ERRORS)
def test_an_error_names_the_argument(wrong):
    change, message = ERRORS[wrong]
    arguments = {**good_arguments(), **change}
    with pytest.raises(RuntimeError, match="sru_asr::recurrence: .*" + message):
        torch.ops.sru_asr.recurrence(**arguments, keep_states=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"grad_h": torch.zeros(2, 6, 2, 4)},
            r"grad_h must be \(batch, frames, directions, hidden\) = \(2, 6, 2, 5\), got \(2, 6, 2, 4\)",
        ),
        ({"grad_h": torch.zeros(2, 6, 2, 5).double()}, "grad_h must have dtype Float, got Double"),
        ({"grad_final": torch.zeros(2, 2, 4)}, r"grad_final must be \(batch, directions, hidden\) = \(2, 2, 5\), got"),
        (
            {"states": torch.zeros(0, 6, 2, 5)},
            r"states \(kept by a forward pass with keep_states\) must be .* got \(0,",
        ),
        ({"lengths": torch.tensor([7, 1])}, r"lengths\[0\] must lie between 0 and the 6 frames"),
        ({"bias": torch.zeros(2, 2, 4)}, "bias must be"),
    ],
)
def test_an_error_of_the_backward_pass_names_the_argument(change, message):
    arguments = {
        **good_arguments(),
        "grad_h": torch.zeros(2, 6, 2, 5),
        "grad_final": torch.zeros(2, 2, 5),
        "states": torch.zeros(2, 6, 2, 5),
        **change,
    }
    with pytest.raises(RuntimeError, match="sru_asr::recurrence: .*" + message):
        torch.ops.sru_asr.recurrence_backward(**arguments)


GUARDED = """
import ctypes, mmap, torch
from test_recurrence import Case, run
from sru_asr.ops import recurrence

PAGE = mmap.PAGESIZE
kept = []

def guarded(tensor):
    # The same numbers, right before memory that nobody may read.
    size = tensor.numel() * tensor.element_size()
    pages = -(-size // PAGE)
    memory = mmap.mmap(-1, (pages + 1) * PAGE)
    kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(start + pages * PAGE), PAGE, 0):
        raise SystemExit(77)
    copy = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=pages * PAGE - size)
    return copy.view(tensor.shape).copy_(tensor)

for hidden in (40, 72, 74, 33):
    for dtype in (torch.float32, torch.bfloat16):
        case = Case(windows=20, hidden=hidden, dtype=dtype)
        arguments, others = case.draw()
        gradients = case.draw_gradients()
        expected = run(recurrence, arguments, others, gradients)
        others["lengths"] = guarded(others["lengths"])
        found = run(recurrence, [guarded(a) for a in arguments], others, [guarded(g) for g in gradients])
        assert all(torch.equal(found[name], expected[name]) for name in expected)
"""


def test_nothing_is_read_behind_a_tensor():
    result = subprocess.run(
        [sys.executable, "-c", GUARDED], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    if result.returncode == 77:
        pytest.skip("this system does not protect memory as asked")
    assert result.returncode == 0, f"exit status {result.returncode}\n{result.stderr}"
