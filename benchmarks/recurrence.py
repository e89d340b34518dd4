"""The recurrence against `torch.compile`, side by side in one process.

    python benchmarks/recurrence.py
    python benchmarks/recurrence.py --json results.json --threads 1

The kernels (`ours`) run next to the same sums compiled by torch, in the ways that make sense for a loop over time:

- `scan`: torch's loop operator, compiled whole;
- `blocks`: a compiled function of 20 frames, called in a Python loop (blocks of 1, 5, 10 and 50 were no faster);
- `whole loop`, if asked for: `recurrence_reference` as it is, all frames unrolled, which compiles for most of an hour.

The candidates take turns, so that what else the machine does meets all of them. In each turn a candidate is called
twice: the first call finds the caches full of the others' data (cold), the second finds its own (warm). Medians of both
are reported, and those of the warm calls compared, with the fastest of torch's. Numbers are compared too: a candidate
that computes something else stops the run.

Freed memory stays with the process, for all candidates, as in a training. Without that page faults may take twice as
long as the kernels, or no time at all, as the heap happens to lie.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from context import add_json, context, write
from torch import Tensor

from sru_asr.memory import keep_freed_memory
from sru_asr.ops import recurrence, recurrence_reference

Function = Callable[..., tuple[Tensor, Tensor]]
ALPHA = 1.7
BLOCK = 20
WARM_UP = 5
SEED = 0


@dataclass(frozen=True)
class Setting:
    """One row: what is computed, and with how many threads."""

    threads: int
    dtype: torch.dtype
    directions: int
    hidden: int
    frames: int
    backward: bool

    def arguments(self) -> list[Tensor]:
        """u, x, weight_c and bias of one utterance."""
        torch.manual_seed(SEED)
        u = torch.randn(1, self.frames, self.directions, 3, self.hidden, dtype=self.dtype)
        x = torch.randn(1, self.frames, self.directions, self.hidden, dtype=self.dtype)
        weight_c, bias = (torch.randn(self.directions, 2, self.hidden) for _ in range(2))
        return [tensor.requires_grad_(self.backward) for tensor in (u, x, weight_c, bias)]


def cell(u: Tensor, x: Tensor, weight_c: Tensor, bias: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One frame of both directions, in plain torch: the state after it and h."""
    candidate, forget, reset = u.float().unbind(2)
    f = torch.sigmoid(forget + weight_c[:, 0] * c + bias[:, 0])
    r = torch.sigmoid(reset + weight_c[:, 1] * c + bias[:, 1])
    new = f * c + (1 - f) * candidate
    return new, (r * new + (1 - r) * ALPHA * x.float()).to(u.dtype)


def in_step(x: Tensor) -> Tensor:
    """The second direction flipped, so that both run from the first frame on; undoes itself."""
    return x if x.shape[2] == 1 else torch.stack([x[:, :, 0], x[:, :, 1].flip(1)], 2)


def compiled_scan() -> Function:
    """Torch's loop operator, compiled whole."""
    from torch._higher_order_ops.scan import scan

    def run(u: Tensor, x: Tensor, weight_c: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        def step(c: Tensor, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            new, h = cell(*inputs, weight_c, bias, c)
            return new.clone(), h.clone()  # scan wants results that are nobody else's

        start = torch.zeros_like(x[:, 0], dtype=torch.float32)
        c, h = scan(step, start, (in_step(u).transpose(0, 1), in_step(x).transpose(0, 1)))
        return in_step(h.transpose(0, 1)), c

    return torch.compile(run, fullgraph=True)


def compiled_blocks() -> Function:
    """A compiled function of some frames, in a Python loop."""

    def block(u: tuple[Tensor, ...], x: tuple[Tensor, ...], weight_c: Tensor, bias: Tensor, c: Tensor) -> Any:
        outputs = []
        for u_t, x_t in zip(u, x, strict=True):
            c, h = cell(u_t, x_t, weight_c, bias, c)
            outputs.append(h)
        return outputs, c

    compiled = torch.compile(block, fullgraph=True)

    def run(u: Tensor, x: Tensor, weight_c: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        us, xs = in_step(u).unbind(1), in_step(x).unbind(1)
        c, outputs = torch.zeros_like(x[:, 0], dtype=torch.float32), []
        for start in range(0, len(us), BLOCK):
            part, c = compiled(us[start : start + BLOCK], xs[start : start + BLOCK], weight_c, bias, c)
            outputs += part
        return in_step(torch.stack(outputs, 1)), c

    return run


def ours(u: Tensor, x: Tensor, weight_c: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The kernels."""
    return recurrence(u, x, weight_c, bias, alpha=ALPHA)


def compiled_loop() -> Function:
    """The reference as it is: the loop over frames unrolled by the compiler."""
    compiled = torch.compile(recurrence_reference, fullgraph=True)
    return lambda u, x, weight_c, bias: compiled(u, x, weight_c, bias, alpha=ALPHA)


def call(function: Function, arguments: list[Tensor], grad_h: Tensor | None) -> list[Tensor]:
    """The forward pass and, if there is a gradient of h, the backward pass."""
    if grad_h is None:
        with torch.no_grad():
            return [function(*arguments)[0]]
    h, _ = function(*arguments)
    return [h, *torch.autograd.grad(h, arguments, grad_h)]


def check(name: str, actual: list[Tensor], expected: list[Tensor]) -> None:
    """Stop where the candidates do not compute the same. The numbers are compared in the large: 300 frames amplify."""
    for got, want in zip(actual, expected, strict=True):
        error = (got.float() - want.float()).norm() / want.float().norm()
        if not error < (0.02 if want.dtype == torch.bfloat16 else 1e-3):
            raise SystemExit(f"error: {name} computes something else, by {error:.1e}; its time would mean nothing")


def measure(setting: Setting, repetitions: int, whole_loop: bool) -> dict[str, Any]:
    """Medians in milliseconds of every candidate, cold and warm, and what torch took to compile its own."""
    torch.set_num_threads(setting.threads)
    torch.compiler.reset()
    arguments = setting.arguments()
    grad_h = torch.randn_like(arguments[1]) if setting.backward else None
    makers = {"scan": compiled_scan, "blocks": compiled_blocks, **({"whole loop": compiled_loop} if whole_loop else {})}
    candidates: dict[str, Function] = {"ours": ours}
    expected = call(candidates["ours"], arguments, grad_h)
    compile_seconds = {}
    with torch._inductor.config.patch({"cpp.threads": setting.threads}):
        for name, make in makers.items():
            start = time.perf_counter()
            function = make()
            check(name, call(function, arguments, grad_h), expected)
            compile_seconds[name] = round(time.perf_counter() - start, 1)
            candidates[name] = function
        cold: dict[str, list[float]] = {name: [] for name in candidates}
        warm: dict[str, list[float]] = {name: [] for name in candidates}
        for repetition in range(WARM_UP + repetitions):
            for name, function in candidates.items():
                for times in (cold, warm):
                    start = time.perf_counter()
                    call(function, arguments, grad_h)
                    if repetition >= WARM_UP:
                        times[name].append(time.perf_counter() - start)
    medians_cold, medians = (
        {name: round(1000 * median(values), 3) for name, values in times.items()} for times in (cold, warm)
    )
    fastest = min(makers, key=medians.__getitem__)
    return {
        "milliseconds": medians,
        "milliseconds_cold": medians_cold,
        "fastest_of_torch": fastest,
        "ratio": round(medians[fastest] / medians["ours"], 1),
        "ratio_cold": round(min(medians_cold[name] for name in makers) / medians_cold["ours"], 1),
        "compile_seconds": compile_seconds,
    }


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(
        description="Time the recurrence against torch.compile, side by side in one process.",
        epilog="example: python benchmarks/recurrence.py --json recurrence.json --threads 1 --dtypes float32",
    )
    add_json(parser)
    parser.add_argument("--repetitions", type=int, default=40, help="of every candidate (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=300, help="of the one utterance (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=640, help="of all directions together (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--directions", type=int, nargs="+", default=[1, 2], choices=[1, 2])
    passes = {"forward": [False], "forward+backward": [True], "both": [False, True]}
    parser.add_argument("--passes", default="both", choices=passes, help="(default: %(default)s)")
    parser.add_argument("--whole-loop", action="store_true", help="also compile the reference with its loop unrolled")
    options = parser.parse_args()
    if options.repetitions < 1 or options.frames < 1 or options.columns < 2 or min(options.threads) < 1:
        parser.error("--repetitions, --frames and --threads must be at least 1, --columns at least 2")

    kept = keep_freed_memory()
    about = {**context(), "seed": SEED, "freed_memory_kept": kept}
    settings = [
        Setting(threads, getattr(torch, dtype), directions, options.columns // directions, options.frames, backward)
        for threads in options.threads
        for dtype in options.dtypes
        for directions in options.directions
        for backward in passes[options.passes]
    ]
    print(f"{about['machine']['cpu']}, torch {torch.__version__}, {about['kernel']} kernels")
    print(f"batch 1, {options.frames} frames, medians of {options.repetitions} warm runs in ms\n")
    names = ["ours", "scan", "blocks", *(["whole loop"] if options.whole_loop else [])]
    print(
        f"{'threads':>7}  {'dtype':8}  {'columns':>7}  {'pass':16}"
        + "".join(f"{n:>12}" for n in names)
        + "    ratio     cold"
    )
    rows = []
    for setting in settings:
        result = measure(setting, options.repetitions, options.whole_loop)
        parameters = {
            "threads": setting.threads,
            "dtype": str(setting.dtype).removeprefix("torch."),
            "batch": 1,
            "frames": setting.frames,
            "directions": setting.directions,
            "hidden": setting.hidden,
            "pass": "forward+backward" if setting.backward else "forward",
            "repetitions": options.repetitions,
        }
        rows.append({**about, **parameters, **result})
        columns = f"{setting.directions} x {setting.hidden}"
        line = f"{setting.threads:7}  {parameters['dtype']:8}  {columns:>7}  {parameters['pass']:16}"
        print(
            line
            + "".join(f"{result['milliseconds'][n]:12.2f}" for n in names)
            + f"{result['ratio']:9.1f}{result['ratio_cold']:9.1f}",
            flush=True,
        )
        write(rows, options.json)


if __name__ == "__main__":
    main()
