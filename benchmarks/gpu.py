"""The recurrence and the layer on a GPU against memory's speed, matrix products, cuDNN's LSTM and the `sru` package.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --json benchmarks/results/gpu.json
    compute-sanitizer --tool memcheck python benchmarks/gpu.py --small

Three tables, each candidate taking its turn in random order, medians of times between events on the GPU:

- `recurrence`: one bidirectional recurrence in bfloat16, forward and backward, as a share of the bandwidth that a
  copy of a large tensor reaches. Counted are bytes that have to move: 10 an element forward (u, x, h), 18 backward
  (u, x, the gradients of h, u and x), and the states that are kept.
- `layer`: one bidirectional layer without gradients, against its matrix product alone.
- `training`: forward and backward through a layer, against cuDNN's LSTM in float16 and bfloat16 and, where it is
  installed, the PyPI package `sru`.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from context import add_json, context, write
from torch import Tensor, nn

from sru_asr import SRU
from sru_asr.ops import ctc_loss, recurrence
from sru_asr.ops.recurrence import SEGMENT

WARM_UP = 3
SEED = 0
BATCHES = (1, 4, 32)
FRAMES, WIDTH = 1500, 1024  # of a direction
Candidates = dict[str, Callable[[], object]]


def medians(candidates: Candidates, repetitions: int) -> dict[str, float]:
    """Milliseconds of each on the GPU; they take turns in random order."""
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in candidates}
    order = random.Random(SEED)
    for repetition in range(WARM_UP + repetitions):
        torch.cuda._sleep(2_000_000)  # a millisecond ahead, or the first would be timed with its launch
        for name, function in order.sample(list(candidates.items()), len(candidates)):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            if repetition >= WARM_UP:
                events[name].append((start, end))
        torch.cuda.synchronize()
    return {name: round(median(a.elapsed_time(b) for a, b in pairs), 4) for name, pairs in events.items()}


def recurrence_candidates(batch: int, frames: int, width: int) -> tuple[Candidates, dict[str, int]]:
    """Both passes, and a copy; and the bytes of each."""
    u = torch.randn(batch, frames, 2, 3, width, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(batch, frames, 2, width, device="cuda", dtype=torch.bfloat16)
    v, b = (torch.randn(2, 2, width, device="cuda") for _ in "vb")
    lengths = torch.full((batch,), frames, device="cuda")
    forward = partial(torch.ops.sru_asr.recurrence, u, x, v, b, None, lengths, 1.0, 0, 0)
    _, _, states = forward(True)
    backward = partial(torch.ops.sru_asr.recurrence_backward, torch.randn_like(x), None, u, x, v, b)
    much = torch.empty(1 << 28, device="cuda", dtype=torch.float32).normal_()
    target = torch.empty_like(much)
    elements = batch * frames * 2 * width
    kept = elements // SEGMENT * 4
    candidates: Candidates = {
        "forward": partial(forward, True),
        "forward, nothing kept": partial(forward, False),
        "backward": partial(backward, None, lengths, 1.0, 0, 0, states),
        "copy": partial(target.copy_, much),
    }
    moved = {
        "forward": 10 * elements + kept,
        "forward, nothing kept": 10 * elements,
        "backward": 18 * elements + kept,
        "copy": 2 * 4 * much.numel(),
    }
    return candidates, moved


def layer_candidates(batch: int, frames: int, width: int) -> Candidates:
    """A layer without gradients and its product."""
    layer = SRU(2 * width, width, batch_first=True, bidirectional=True).cuda().bfloat16().eval()
    x = torch.randn(batch, frames, 2 * width, device="cuda", dtype=torch.bfloat16)
    weight = layer.state_dict()["layers.0.weight"]

    def run() -> object:
        with torch.inference_mode():
            return layer(x)

    return {"ours": run, "product": partial(F.linear, x, weight)}


def training_candidates(batch: int, frames: int, width: int) -> Candidates:
    """Forward and backward."""

    def step(module: nn.Module, x: Tensor) -> Callable[[], object]:
        x = x.detach().requires_grad_()
        grad = torch.randn_like(x)
        return lambda: torch.autograd.grad(module(x)[0], [x, *module.parameters()], grad)

    x = torch.randn(batch, frames, 2 * width, device="cuda", dtype=torch.bfloat16)
    candidates = {"ours": step(SRU(2 * width, width, batch_first=True, bidirectional=True).cuda().bfloat16(), x)}
    for dtype in (torch.float16, torch.bfloat16):
        lstm = nn.LSTM(2 * width, width, batch_first=True, bidirectional=True).cuda().to(dtype)
        lstm.flatten_parameters()  # or it would copy them in each call
        candidates[f"LSTM {str(dtype).removeprefix('torch.')}"] = step(lstm, x.to(dtype))
    if importlib.util.find_spec("sru"):
        import sru

        theirs = sru.SRU(2 * width, width, 1, bidirectional=True).cuda()
        candidates["sru package float32"] = step(theirs, x.float().transpose(0, 1).contiguous())
    return candidates


def measure(table: str, batch: int, frames: int, width: int, repetitions: int) -> dict[str, Any]:
    """Medians of a table's row, and the ratios that one reads it for."""
    torch.manual_seed(SEED)
    if table == "recurrence":
        candidates, moved = recurrence_candidates(batch, frames, width)
        times = medians(candidates, repetitions)
        speed = {name: moved[name] / times[name] / 1e6 for name in times}
        ratios = {name: round(speed[name] / speed["copy"], 3) for name in times if name != "copy"}
        return {
            "milliseconds": times,
            "gigabytes_per_second": {n: round(s) for n, s in speed.items()},
            "ratios": ratios,
        }
    times = medians(
        {"layer": layer_candidates, "training": training_candidates}[table](batch, frames, width), repetitions
    )
    if table == "layer":
        return {"milliseconds": times, "ratios": {"ours / product": round(times["ours"] / times["product"], 2)}}
    return {"milliseconds": times, "ratios": {n: round(t / times["ours"], 1) for n, t in times.items() if n != "ours"}}


def main() -> None:
    """Measure, print the rows, write them."""
    parser = argparse.ArgumentParser(
        description="Time the recurrence and a layer on a GPU, side by side with others, in one process.",
        epilog="example: python benchmarks/gpu.py --repetitions 100 --json benchmarks/results/gpu.json",
    )
    add_json(parser)
    parser.add_argument("--repetitions", type=int, default=50, help="of every candidate (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="run each kernel on small shapes and time nothing")
    options = parser.parse_args()
    if options.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    if not torch.cuda.is_available():
        parser.exit(1, "error: torch finds no GPU here\n")
    if options.small:
        return small()
    about = {
        **context(),
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "seed": SEED,
    }
    print(f"{about['gpu']}, torch {torch.__version__}, CUDA {about['cuda']}")
    rows: list[dict[str, Any]] = []
    for table in ("recurrence", "layer", "training"):
        for batch in BATCHES:
            result = measure(table, batch, FRAMES, WIDTH, options.repetitions)
            sizes = {"batch": batch, "frames": FRAMES, "width": WIDTH}
            rows.append({**about, "table": table, **sizes, "repetitions": options.repetitions, **result})
            print(f"{table:10}  batch {batch}:  {result['ratios']}  {result['milliseconds']} ms", flush=True)
            torch.cuda.empty_cache()
            write(rows, options.json)


def small() -> None:
    """Every kernel and way of copying once, for compute-sanitizer, under which all is slow."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        real = torch.float64 if dtype == torch.float64 else torch.float32
        for hidden, (chunk, lookahead) in ((72, (0, 0)), (66, (17, 18)), (33, (4, 3))):
            frames = 2 * (chunk + lookahead) or 40
            u = torch.randn(2, frames, 2, 3, hidden, device="cuda", dtype=dtype, requires_grad=True)
            x = torch.randn(2, frames, 2, hidden, device="cuda", dtype=dtype, requires_grad=True)
            v, b = (torch.randn(2, 2, hidden, device="cuda", dtype=real, requires_grad=True) for _ in "vb")
            lengths = torch.tensor([frames - 15 - lookahead if chunk else frames, 3], device="cuda").clamp(min=0)
            h, state = recurrence(u, x, v, b, None, lengths, 1.0, chunk, lookahead)
            torch.autograd.grad((h.float().sum() + state.sum()), [u, x, v, b])
    log_probs = torch.randn(2, 60, 40, device="cuda", requires_grad=True)
    targets = torch.randint(1, 40, (2, 50), device="cuda")
    lengths, target_lengths = torch.tensor([60, 33], device="cuda"), torch.tensor([9, 50], device="cuda")
    losses = ctc_loss(log_probs.log_softmax(-1), lengths, targets, target_lengths, 0)
    torch.autograd.grad(losses.sum(), log_probs)
    torch.cuda.synchronize()
    print("every kernel ran")


if __name__ == "__main__":
    main()
