"""The CTC loss and its gradient against torch's own, side by side in one process.

    python benchmarks/ctc.py
    python benchmarks/ctc.py --json ctc.json --threads 1

Both get the same log-probabilities and take turns. Medians are compared.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import torch
from context import add_json, context, write
from torch import Tensor
from torch.nn import functional

from sru_asr.ops import ctc_loss

WARM_UP = 5
# batch, frames of 40 ms, tokens, vocabulary: as the recipes have them, and the longest that one would train on
SIZES = ((10, 60, 15, 29), (10, 60, 6, 120), (16, 300, 60, 500), (1, 1000, 150, 29), (32, 1000, 150, 1000))


def measure(batch: int, frames: int, tokens: int, vocab: int, repetitions: int) -> dict[str, float]:
    """Medians in milliseconds of loss and gradient, and their ratio."""
    torch.manual_seed(0)
    log_probs = (2 * torch.randn(batch, frames, vocab)).log_softmax(-1).requires_grad_()
    targets = torch.randint(1, vocab, (batch, tokens))
    lengths, target_lengths = torch.full((batch,), frames), torch.full((batch,), tokens)

    def ours() -> Tensor:
        return ctc_loss(log_probs, lengths, targets, target_lengths, 0)

    def by_torch() -> Tensor:
        x = log_probs.transpose(0, 1)
        return functional.ctc_loss(x, targets, lengths, target_lengths, reduction="none", zero_infinity=True)

    times: dict[str, list[float]] = {"ours": [], "torch": []}
    losses = {}
    for repetition in range(WARM_UP + repetitions):
        for name, function in (("ours", ours), ("torch", by_torch)):
            start = time.perf_counter()
            loss = function()
            torch.autograd.grad(loss.sum(), log_probs)
            if repetition >= WARM_UP:
                times[name].append(time.perf_counter() - start)
            losses[name] = loss
    torch.testing.assert_close(losses["ours"], losses["torch"], rtol=1e-4, atol=1e-3)
    medians = {name: round(1000 * median(values), 3) for name, values in times.items()}
    return {**medians, "ratio": round(medians["torch"] / medians["ours"], 1)}


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_json(parser)
    parser.add_argument("--repetitions", type=int, default=40, help="of either (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("threads  batch  frames  tokens  vocab  ours, ms  torch, ms  ratio")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for sizes in SIZES:
            result = measure(*sizes, options.repetitions)
            names = dict(zip(("batch", "frames", "tokens", "vocab"), sizes, strict=True))
            rows.append({**context(), "threads": threads, **names, "repetitions": options.repetitions, **result})
            batch, frames, tokens, vocab = sizes
            print(
                f"{threads:7}  {batch:5}  {frames:6}  {tokens:6}  {vocab:5}  {result['ours']:8.2f}  "
                f"{result['torch']:9.2f}  {result['ratio']:5.1f}",
                flush=True,
            )
    write(rows, options.json)


if __name__ == "__main__":
    main()
