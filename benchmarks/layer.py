"""SRU layers on the CPU against what one would use instead, side by side in one process.

    python benchmarks/layer.py
    python benchmarks/layer.py --json layer.json --threads 1 --tables product live

Four tables, each with every candidate taking its turn, medians compared:

- `product`: one bidirectional layer without gradients against torch's matrix product alone (oneDNN's in bfloat16),
  in bfloat16 and in float32;
- `stack`: five bidirectional layers without gradients against `nn.LSTM` and `nn.GRU` in float32, bfloat16 and with
  dynamic int8 weights, and, where it is installed, the PyPI package `sru`;
- `training`: a step of one layer, forward and backward, in float32 and bfloat16, against `nn.LSTM`;
- `live`: five layers over a window of some frames of one stream, against one frame, with weights of 16 and of 8 bits.

What would take an LSTM many minutes is left out: see MOST_WORK.

Freed memory stays with the process, as in a training.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from context import add_json, context, write
from torch import Tensor, nn

from sru_asr import SRU
from sru_asr.memory import keep_freed_memory

WARM_UP = 3
LAYERS = 5
SEED = 0
# Frames times the square of a direction's width, of the shapes that a table takes in.
MOST_WORK = {"product": 8000 * 1024**2, "stack": 2000 * 512**2, "training": 2000 * 512**2, "live": 8000 * 1024**2}
Candidates = dict[str, Callable[[], object]]


def medians(candidates: Candidates, repetitions: int) -> dict[str, float]:
    """Milliseconds of each; they take turns, so that what else the machine does meets all of them.

    The order of a turn is random: what a candidate leaves in the caches meets them all, too.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    order = random.Random(SEED)
    for repetition in range(WARM_UP + repetitions):
        for name, function in order.sample(list(candidates.items()), len(candidates)):
            start = time.perf_counter()
            function()
            if repetition >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    return {name: round(1000 * median(values), 4) for name, values in times.items()}


def ours(width: int, layers: int, dtype: torch.dtype) -> SRU:
    """Layers of `width` columns a direction."""
    return SRU(2 * width, width, layers, batch_first=True, bidirectional=True).to(dtype).eval()


def without_gradients(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """A call of the module."""

    def call() -> object:
        with torch.inference_mode():
            return module(x)

    return call


def product(batch: int, frames: int, width: int, dtype: torch.dtype) -> Candidates:
    """One layer, and its matrix product alone."""
    layer = ours(width, 1, dtype)
    x = torch.randn(batch, frames, 2 * width).to(dtype)
    weight = layer.state_dict()["layers.0.weight"]
    name = str(dtype).removeprefix("torch.")
    return {f"ours {name}": without_gradients(layer, x), f"product {name}": partial(F.linear, x, weight)}


def stack(batch: int, frames: int, width: int) -> Candidates:
    """Five layers of ours and of the others."""
    x = torch.randn(batch, frames, 2 * width)
    candidates: Candidates = {
        "ours bfloat16": without_gradients(ours(width, LAYERS, torch.bfloat16), x.bfloat16()),
        "ours float32": without_gradients(ours(width, LAYERS, torch.float32), x),
    }
    for kind in (nn.LSTM, nn.GRU):
        module = kind(2 * width, width, LAYERS, batch_first=True, bidirectional=True).eval()
        candidates[f"{kind.__name__} float32"] = without_gradients(module, x)
        with warnings.catch_warnings():  # of its deprecation in favour of a package that has no LSTM
            warnings.simplefilter("ignore")
            # in a container, as only what a module holds is replaced
            quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(module), {kind}, dtype=torch.qint8)
        candidates[f"{kind.__name__} int8"] = without_gradients(quantized, x)
        half = kind(2 * width, width, LAYERS, batch_first=True, bidirectional=True).bfloat16().eval()
        candidates[f"{kind.__name__} bfloat16"] = without_gradients(half, x.bfloat16())
    if importlib.util.find_spec("sru"):
        import sru

        theirs = sru.SRU(2 * width, width, LAYERS, bidirectional=True).eval()
        candidates["sru package"] = without_gradients(theirs, x.transpose(0, 1).contiguous())
    return candidates


def training(batch: int, frames: int, width: int) -> Candidates:
    """Forward and backward through one layer; `products` are the three matrix products of ours in bfloat16."""
    x = torch.randn(batch, frames, 2 * width)
    candidates: Candidates = {}

    def step(module: nn.Module, x: Tensor) -> Callable[[], object]:
        x = x.detach().requires_grad_()
        grad = torch.randn(batch, frames, 2 * width).to(x.dtype)

        def call() -> object:
            return torch.autograd.grad(module(x)[0], [x, *module.parameters()], grad)

        return call

    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        candidates[f"ours {name}"] = step(ours(width, 1, dtype), x.to(dtype))
        lstm = nn.LSTM(2 * width, width, batch_first=True, bidirectional=True).to(dtype)
        candidates[f"LSTM {name}"] = step(lstm, x.to(dtype))
    weight = ours(width, 1, torch.bfloat16).state_dict()["layers.0.weight"]
    rows, grad = x.bfloat16().flatten(0, 1), torch.randn(batch * frames, weight.shape[0]).bfloat16()
    candidates["products"] = lambda: (F.linear(rows, weight), grad @ weight, grad.T @ rows)
    return candidates


def live(frames: tuple[int, ...], width: int) -> Candidates:
    """Five layers over windows of one stream, with weights of 16 bits and of 8."""
    plain = ours(width, LAYERS, torch.bfloat16)
    quantized = ours(width, LAYERS, torch.bfloat16).quantize()

    def window(sru: SRU, n: int) -> Callable[[], object]:
        x = torch.randn(1, n, 2 * width).bfloat16()
        state = torch.zeros(LAYERS, 1, width)

        def call() -> object:
            with torch.inference_mode():
                return sru.advance(x, n, state)

        return call

    return {
        **{f"{n} frames": window(plain, n) for n in frames},
        **{f"{n} frames int8": window(quantized, n) for n in frames},
    }


def measure(table: str, sizes: dict[str, int], repetitions: int) -> dict[str, Any]:
    """Medians of a table's row, and the ratios that one reads it for."""
    torch.manual_seed(SEED)
    if table == "live":
        times = medians(live((1, 2, 4, 8, 16, 32, 64), sizes["width"]), repetitions)
        return {"milliseconds": times, "ratios": {n: round(t / times["1 frames"], 2) for n, t in times.items()}}
    if table == "product":  # one dtype after the other, as either's clock is another
        times = {}
        for dtype in (torch.bfloat16, torch.float32):
            times |= medians(product(**sizes, dtype=dtype), repetitions)
    else:
        times = medians({"stack": stack, "training": training}[table](**sizes), repetitions)
    if table == "product":
        ratios = {n: round(times[f"ours {n}"] / times[f"product {n}"], 2) for n in ("bfloat16", "float32")}
    else:
        ratios = {n: round(t / times["ours bfloat16"], 1) for n, t in times.items() if n != "products"}
    if table == "training":
        ratios["ours / products"] = round(times["ours bfloat16"] / times["products"], 2)
    return {"milliseconds": times, "ratios": ratios}


def main() -> None:
    """Measure, print the rows, write them."""
    parser = argparse.ArgumentParser(
        description="Time SRU layers against what one would use instead, side by side in one process.",
        epilog="example: python benchmarks/layer.py --threads 1 --tables product stack --widths 512 --json layer.json",
    )
    add_json(parser)
    parser.add_argument("--repetitions", type=int, default=30, help="of every candidate (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    tables = ("product", "stack", "training", "live")
    parser.add_argument("--tables", nargs="+", default=tables, choices=tables, help="(default: all)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="(default: 1 8 32)")
    parser.add_argument("--frames", type=int, nargs="+", default=[250, 1000], help="(default: 250 1000)")
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[320, 512, 1024], help="columns of a direction (default: 320 512 1024)"
    )
    options = parser.parse_args()
    if min(options.repetitions, *options.threads, *options.batches, *options.frames, *options.widths) < 1:
        parser.error("all numbers must be at least 1")
    about = {**context(), "seed": SEED, "freed_memory_kept": keep_freed_memory()}
    print(f"{about['machine']['cpu']}, torch {torch.__version__}, {about['kernel']} kernels")
    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for table in options.tables:
            shapes = [(b, f) for b in options.batches for f in options.frames] if table != "live" else [(1, 0)]
            for width in options.widths:
                for batch, frames in shapes:
                    if batch * frames * width**2 > MOST_WORK[table]:
                        continue
                    sizes = {"width": width, **({} if table == "live" else {"batch": batch, "frames": frames})}
                    result = measure(table, sizes, options.repetitions)
                    row = {"table": table, "threads": threads, **sizes, "repetitions": options.repetitions}
                    rows.append({**about, **row, **result})
                    where = ", ".join(f"{name} {value}" for name, value in sizes.items())
                    ratios = ", ".join(f"{name} {value}" for name, value in result["ratios"].items())
                    print(f"{table:8}  threads {threads}, {where}:  {ratios}", flush=True)
                    write(rows, options.json)


if __name__ == "__main__":
    main()
