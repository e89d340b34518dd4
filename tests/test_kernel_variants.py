"""Every instruction set's kernels, each in a process of its own: which runs is decided once per process."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sru_asr.ops import kernel_name, kernel_reason

AVX512 = {"avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"}
NEEDS = {
    "baseline": set(),
    "avx2": {"avx2", "fma"},
    "avx512": AVX512,
    "avx512_bf16": {*AVX512, "avx512_bf16"},
    "amx": {*AVX512, "avx512_bf16", "amx_bf16", "amx_tile", "amx_int8"},
}
X86 = platform.machine().lower() in {"x86_64", "amd64"}

CHECKS = """
import test_layer
from test_ctc import check_against_torch
from test_recurrence import DTYPES, HIGHWAYS, Case, check_case
from sru_asr.ops import kernel_name, kernel_reason

for dtype in DTYPES:
    for highway in HIGHWAYS:
        for hidden in (16, 75):
            check_case(Case(windows=7, hidden=hidden, highway=highway, dtype=dtype, seed=hidden))
            check_case(Case(chunk=2, lookahead=3, hidden=hidden, highway=highway, dtype=dtype, seed=hidden))
for highway in HIGHWAYS:
    for hidden in (16, 75):
        test_layer.check_case(test_layer.Case(windows=70, hidden=hidden, highway=highway, seed=hidden))
        test_layer.check_case(test_layer.Case(chunk=2, lookahead=3, hidden=hidden, highway=highway, seed=hidden))
for tokens in (0, 3, 4, 7, 8, 15, 16, 20):
    check_against_torch(tokens=tokens)
print(kernel_name(), kernel_reason(), sep=": ")
"""


def processor_flags() -> set[str]:
    """What the operating system says of the processor, which is not where the kernels look."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        pytest.skip("this machine has no /proc/cpuinfo to read the processor's instruction sets from")
    return set(next((line.split(":")[1] for line in lines if line.startswith("flags")), "").split())


def run(code: str, choice: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,  # test_recurrence is imported from here
        env={**os.environ, "SRU_ASR_CPU": choice},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("variant", NEEDS)
def test_agrees_with_the_reference(variant):
    if variant != "baseline" and not X86:
        pytest.skip(f"{variant} is an x86 instruction set, this is {platform.machine()}")
    missing = NEEDS[variant] - processor_flags() if NEEDS[variant] else set()
    if missing:
        pytest.skip(f"this processor lacks {', '.join(sorted(missing))}")
    result = run(CHECKS, variant)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"{variant}: forced by SRU_ASR_CPU"


def test_an_unknown_name_is_an_error_that_lists_those_there_are():
    result = run("import sru_asr.ops as ops; ops.kernel_name()", "AVX2")
    assert result.returncode != 0
    message = result.stderr.strip().splitlines()[-1]
    assert "SRU_ASR_CPU asks for 'AVX2' kernels" in message
    assert "baseline. Unset it or choose one of those." in message


@pytest.mark.skipif("SRU_ASR_CPU" in os.environ, reason="SRU_ASR_CPU is set")
def test_the_best_variant_is_chosen():
    flags = processor_flags()
    best = [name for name, needs in NEEDS.items() if needs <= flags and (X86 or name == "baseline")][-1]
    assert kernel_name() == best
    assert kernel_reason().startswith("the best of what this processor supports: " + best)
    assert torch.ops.sru_asr.kernel_name() == best
