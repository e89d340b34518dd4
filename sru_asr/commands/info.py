"""`sru-asr info`: versions and kernels."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sru_asr import __version__
from sru_asr.build import BuildError
from sru_asr.commands.options import OK, UNUSABLE, command


def add(commands: Any) -> None:
    """Describe its options."""
    parser = command(commands, "info", run, "print versions, and which kernels run and why", "example: sru-asr info")
    parser.add_argument("--format", choices=("txt", "json"), default="txt", help="default: txt")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    import importlib.metadata
    import platform

    import torch

    from sru_asr.build import find_nvcc, library

    facts: dict[str, Any] = {"sru_asr": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in ("torch", "torchaudio", "pytorch-lightning", "lhotse", "jiwer", "ninja"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    facts["threads"] = torch.get_num_threads()
    facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    try:
        facts["nvcc"] = find_nvcc()
    except BuildError:
        facts["nvcc"] = "not found: no kernels for GPUs"
    try:
        facts["library"] = str(library())
        from sru_asr.ops import kernel_name, kernel_reason

        facts["kernels"] = kernel_name()
        facts["because"] = kernel_reason()
        status = OK
    except BuildError as error:
        facts["kernels"] = f"unusable: {error}"
        status = UNUSABLE
    if args.format == "json":
        print(json.dumps(facts, indent=1))
    else:
        width = max(map(len, facts))
        print("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))
    return status
