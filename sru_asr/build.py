"""The compiled kernels: where they are, and how they are made where they are not there yet.

The extension uses LibTorch's stable ABI, so one binary serves every torch from 2.11 on and every Python. It is either
shipped beside this package (a build that found torch) or compiled once, by ninja, into a cache. Both are named by a
hash of the sources and flags: a binary that does not belong to the sources is never loaded.

The kernels for NVIDIA GPUs are a binary of their own, made by nvcc when a tensor on a GPU first needs it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
TORCH_TARGET_VERSION = "0x020b000000000000"  # the oldest torch this binary runs with: 2.11
COMMON_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",  # vectors passed by value between our own inlined functions
    f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
]
X86 = platform.machine().lower() in {"x86_64", "amd64"}
# Each source with the flags it alone gets: one translation unit per instruction set.
SOURCES: dict[str, list[str]] = {
    **{f"{name}.cpp": [] for name in ("variant", "recurrence", "layer", "ctc", "transpose", "cpu/select")},
    "cpu/baseline.cpp": [],
    "cpu/emulated.cpp": [],
}
if X86:
    COMMON_FLAGS.append("-DSRU_ASR_X86")
    SOURCES["cpu/avx2.cpp"] = ["-mavx2", "-mfma"]
    AVX512 = [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
        "-mprefer-vector-width=512",
    ]
    SOURCES["cpu/avx512.cpp"] = AVX512
    SOURCES["cpu/avx512_bf16.cpp"] = [*AVX512, "-mavx512bf16"]
    SOURCES["cpu/amx.cpp"] = [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"]

GPU_SOURCES: dict[str, list[str]] = {name: [] for name in ("cuda/recurrence.cu", "cuda/ctc.cu", "cuda/operator.cpp")}
# Ampere and Hopper; others compile the last one's PTX when they load it. `-v` says what each kernel takes.
NVCC_FLAGS = [
    *("-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra", "-Xptxas", "-v"),
    *(f"-gencode=arch=compute_{n},code=sm_{n}" for n in (80, 90)),
    "-gencode=arch=compute_90,code=compute_90",
]


class BuildError(RuntimeError):
    """There are no kernels to run: they cannot be compiled, kept or chosen; the message says what to do."""


def source_folder() -> Path:
    """`csrc`: inside an installed package, beside the package in a checkout."""
    for folder in (PACKAGE / "csrc", PACKAGE.parent / "csrc"):
        if (folder / "recurrence.cpp").is_file():
            return folder
    raise BuildError(f"The kernel sources (csrc/recurrence.cpp) are missing beside {PACKAGE}: reinstall sru-asr.")


def source_key() -> str:
    """Hash of everything that decides what the binary contains, but for the compiler and torch."""
    folder = source_folder()
    digest = hashlib.sha256(repr((COMMON_FLAGS, SOURCES, NVCC_FLAGS, GPU_SOURCES)).encode())
    for path in sorted(path for suffix in ("h", "cpp", "cu") for path in folder.rglob(f"*.{suffix}")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def shipped_library(gpu: bool = False) -> Path:
    """Where a build that found torch puts the binary."""
    return PACKAGE / f"_C{'_cuda' if gpu else ''}-{source_key()}.abi3.so"


def cache_folder() -> Path:
    """`$SRU_ASR_CACHE`, else the user's cache folder.

    Raises:
        BuildError: neither is known.
    """
    try:
        if chosen := os.environ.get("SRU_ASR_CACHE"):
            return Path(chosen).expanduser()
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise BuildError(
            f"sru_asr keeps its compiled kernels in the home directory, which there is not ({error}). "
            "Set SRU_ASR_CACHE to a folder that can be made and written to."
        ) from error
    return Path(base) / "sru_asr"


def find_compiler() -> str:
    """The C++ compiler: `$CXX`, else c++, g++ or clang++ on the path."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(shlex.split(name)[0]):
            return name
    raise BuildError(
        "sru_asr compiles its kernels at first use and found no C++ compiler (looked for $CXX, c++, g++, clang++). "
        "Install one (Debian, Ubuntu: apt-get install g++; macOS: xcode-select --install) and try again. "
        "There is no slow fallback."
    )


def find_nvcc() -> str:
    """CUDA's compiler: `$CUDACXX`, else that of `$CUDA_HOME`, on the path, or where it is usually installed."""
    home = os.environ.get("CUDA_HOME")
    for name in (os.environ.get("CUDACXX"), home and f"{home}/bin/nvcc", "nvcc", "/usr/local/cuda/bin/nvcc"):
        if name and shutil.which(shlex.split(name)[0]):
            return name
    raise BuildError(
        "sru_asr compiles its kernels for GPUs at first use and found no nvcc (looked for $CUDACXX, "
        "$CUDA_HOME/bin/nvcc and nvcc, on the path and in /usr/local/cuda/bin). Install the CUDA toolkit, 12 or newer, "
        "or stay on the CPU (--trainer.accelerator cpu). There is no slow fallback."
    )


def find_ninja() -> str:
    """The ninja of the Python package, which need not be on the path, else the system's."""
    try:
        import ninja
    except ModuleNotFoundError:
        found = shutil.which("ninja")
    else:
        found = shutil.which("ninja", path=ninja.BIN_DIR) or shutil.which("ninja")
    if found is None:
        raise BuildError("sru_asr builds its kernels with ninja, which is missing: pip install ninja")
    return found


def ninja_file(torch_folder: Path, library_name: str, gpu: bool = False) -> str:
    """The build description: a rule for each compiler, one to link."""

    def escape(path: Path | str) -> str:
        return re.sub(r"([$ :])", r"$\1", str(path))

    flags = shlex.join([*COMMON_FLAGS, "-isystem", str(torch_folder / "include")])
    libraries = shlex.join([f"-L{torch_folder / 'lib'}", *(["-ltorch_cuda"] if gpu else []), "-ltorch_cpu"])
    lines = [
        f"cxx = {find_compiler()}",
        f"flags = {flags}".replace("$", "$$"),
        f"libraries = {libraries}".replace("$", "$$"),
        "rule compile",
        "  command = $cxx $flags $extra -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
    ]
    if gpu:
        lines += [
            f"nvcc = {find_nvcc()}",
            "rule compile_gpu",
            f"  command = $nvcc {shlex.join(NVCC_FLAGS)} $extra -c $in -o $out",
            "rule link",
            "  command = $nvcc -shared $in -o $out $libraries",  # which adds the runtime
        ]
    else:
        lines += ["rule link", "  command = $cxx -shared $in -o $out $libraries"]
    objects = []
    for source, extra in (GPU_SOURCES if gpu else SOURCES).items():
        name = source.replace("/", "_") + ".o"
        objects.append(name)
        rule = "compile_gpu" if source.endswith(".cu") else "compile"
        lines += [f"build {name}: {rule} {escape(source_folder() / source)}", f"  extra = {shlex.join(extra)}"]
    lines += [f"build {library_name}: link {' '.join(objects)}", f"default {library_name}"]
    return "\n".join(lines) + "\n"


def compile_library(destination: Path, torch_folder: Path, gpu: bool = False) -> str:
    """Compile into a temporary folder and rename into place, so that a killed build leaves nothing half made.

    Returns:
        What the compilers said.

    Raises:
        BuildError: no compiler or no ninja, or the compiler's own message where compiling failed; or the sources have
            changed meanwhile.
    """
    key = source_key()
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=destination.parent) as folder:
        Path(folder, "build.ninja").write_text(ninja_file(torch_folder, destination.name, gpu))
        result = subprocess.run([find_ninja(), "-C", folder], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise BuildError(f"Compiling the sru_asr kernels failed:\n{result.stdout}{result.stderr}")
        if source_key() != key:  # the name of the destination is theirs
            raise BuildError("The sources of the sru_asr kernels changed while they were compiled: try again.")
        with Path(folder, destination.name).open("rb") as file:
            os.fsync(file.fileno())  # or a power cut might leave an empty file of that name
        Path(folder, destination.name).replace(destination)
    return result.stdout + result.stderr


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """One process compiles, the others wait. The lock belongs to the process: one that dies leaves none behind."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


def library(gpu: bool = False) -> Path:
    """Path of the kernels, compiled now if they are neither shipped nor cached.

    Args:
        gpu: of those for NVIDIA GPUs.

    Raises:
        BuildError: they are missing and cannot be compiled, or there is no place to keep them.
    """
    import torch

    shipped = shipped_library(gpu)
    if shipped.is_file():
        return shipped
    folder = cache_folder() / f"torch-{torch.__version__}-{source_key()}"
    cached = folder / ("_C_cuda.abi3.so" if gpu else "_C.abi3.so")
    what = "the kernels for GPUs" if gpu else "the kernels"
    try:
        if not cached.is_file():
            with _exclusive(folder.with_name(f"{folder.name}.lock")):
                if not cached.is_file():
                    print(f"sru_asr: compiling {what} once, into {folder} ...", file=sys.stderr, flush=True)
                    compile_library(cached, Path(torch.__file__).parent, gpu)
    except OSError as error:
        raise BuildError(
            f"sru_asr compiles its kernels into {folder}, which fails ({error}). "
            "Set SRU_ASR_CACHE to a folder that can be made and written to."
        ) from error
    return cached


@cache
def load() -> None:
    """Make the operators known to torch and choose the instruction set, once a process.

    Raises:
        BuildError: there is no library, it is damaged, or `SRU_ASR_CPU` asks for what this processor has not.
    """
    import torch  # setup.py uses the rest of this file where there may be none

    path = library()
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise BuildError(f"{error}. If {path} is damaged, delete it and try again.") from error
    try:
        torch.ops.sru_asr.kernel_name()  # or the first operator would fail, in the middle of something
    except RuntimeError as error:
        raise BuildError(str(error)) from error
