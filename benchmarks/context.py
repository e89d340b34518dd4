"""What a measurement has to say of itself: when, where, with what."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from sru_asr.ops import kernel_name
from sru_asr.whole import whole


def context() -> dict[str, Any]:
    """Date, commit, command, machine, versions, kernels."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(),
        "torch": torch.__version__,
        "kernel": kernel_name(),
    }


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that says where rows go; see `write`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, as a JSON list")


def write(rows: list[dict[str, Any]], path: Path | None) -> None:
    """Write rows, if there is where."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            part.write_text(json.dumps(rows, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """The processor, as far as the system tells."""
    found: dict[str, Any] = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "flags": []}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        fields = {name.strip(): value.strip() for name, value in fields.items()}
        found["cpu"] = fields.get("model name", found["cpu"])
        flags = (fields.get("flags") or fields.get("Features") or "").split()
        found["flags"] = [flag for flag in flags if flag.startswith(("avx", "fma", "amx", "sve", "asimd"))]
    return found


def commit() -> str:
    """Short hash of the checkout, "+" behind it if there are changes other than new results."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:  # there is no git
            return ""

    found = git("describe", "--always", "--exclude=*")
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)benchmarks/results")
    return found + ("+" if changes else "") if found else "unknown"
