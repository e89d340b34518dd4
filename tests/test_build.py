"""Compiling and shipping the kernels: what is found, what is refused, what a wheel holds."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

from sru_asr import build

ROOT = Path(__file__).parents[1]
SITE = Path(sysconfig.get_path("purelib"))
RECURRENCE = """
import torch, sru_asr.ops as ops
from sru_asr.build import library
h, _ = ops.recurrence(torch.randn(1, 5, 1, 3, 8), None, torch.zeros(1, 2, 8), torch.zeros(1, 2, 8))
assert h.isfinite().all()
print(ops.__file__, library())
"""


@pytest.fixture
def sources(tmp_path, monkeypatch) -> Path:
    """A copy of csrc that the build takes its sources from."""
    copy = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", copy)
    monkeypatch.setattr(build, "source_folder", lambda: copy)
    return copy


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def pretending_compiler(folder: Path) -> Path:
    """Logs its command lines, takes a second to link, and hands out the kernels this process runs."""
    return script(
        folder / "pretend-c++",
        f"""echo "$@" >> {shlex.quote(str(folder / "commands"))}
        while [ $# -gt 0 ]; do case $1 in -o) out=$2;; -MF) depends=$2;; -shared) shared=1;; esac; shift; done
        if [ "$shared" ]; then sleep 1; cp {shlex.quote(str(build.library()))} "$out"
        else : > "$out"; echo "$out:" > "$depends"; fi
        """,
    )


def test_no_compiler_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "/no/such/compiler -O2")
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler .* apt-get install g\+\+"):
        build.find_compiler()
    with pytest.raises(build.BuildError, match="There is no slow fallback"):
        build.compile_library(tmp_path / "made" / "_C.so", tmp_path)
    assert not list((tmp_path / "made").iterdir())


def test_the_users_compiler_comes_first(tmp_path, monkeypatch):
    script(tmp_path / "c++", "")
    mine = script(tmp_path / "mine", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert build.find_compiler() == "c++"
    monkeypatch.setenv("CXX", f"{mine} -march=native")
    assert build.find_compiler() == f"{mine} -march=native"


def test_no_ninja_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ninja", None)  # as if it were not installed
    with pytest.raises(build.BuildError, match="pip install ninja"):
        build.find_ninja()


def test_a_compile_error_shows_the_compilers_words_and_leaves_nothing(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(build, "SOURCES", {"cpu/baseline.cpp": []})
    header = sources / "variant.h"
    header.write_text("#error broken on purpose\n" + header.read_text())
    with pytest.raises(build.BuildError, match=r"Compiling the sru_asr kernels failed:(?s:.)*broken on purpose"):
        build.compile_library(tmp_path / "made" / "_C.so", Path(torch.__file__).parent)
    assert not list((tmp_path / "made").iterdir())


def test_what_was_compiled_while_its_sources_changed_is_not_kept_under_their_key(tmp_path, sources, monkeypatch):
    monkeypatch.setenv("CXX", str(pretending_compiler(tmp_path)))
    find_ninja, started = build.find_ninja, []

    def edit() -> str:
        started.append(1)
        (sources / "cell.h").write_text((sources / "cell.h").read_text() + "\n")
        return find_ninja()

    monkeypatch.setattr(build, "find_ninja", edit)
    with pytest.raises(build.BuildError, match="changed while they were compiled: try again"):
        build.compile_library(tmp_path / "made" / "_C.so", Path(torch.__file__).parent)
    assert started
    assert not list((tmp_path / "made").iterdir())


def test_the_key_follows_the_sources(sources, monkeypatch):
    key = build.source_key()
    assert re.fullmatch("[0-9a-f]{16}", key)
    assert build.source_key() == key
    assert key in build.shipped_library().name
    keys = {key}
    (sources / "cell.h").write_text((sources / "cell.h").read_text() + "\n")
    keys.add(build.source_key())
    (sources / "cell.h").rename(sources / "cells.h")
    keys.add(build.source_key())
    (sources / "cpu" / "neon.cpp").touch()
    keys.add(build.source_key())
    monkeypatch.setattr(build, "COMMON_FLAGS", [*build.COMMON_FLAGS, "-g"])
    keys.add(build.source_key())
    assert len(keys) == 5
    (sources / "notes.txt").touch()  # not a source
    assert build.source_key() in keys


def test_missing_sources_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PACKAGE", tmp_path / "sru_asr")
    with pytest.raises(build.BuildError, match="reinstall sru-asr"):
        build.source_folder()


def test_where_the_library_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SRU_ASR_CACHE", "~/kernels")
    assert build.cache_folder() == Path.home() / "kernels"
    monkeypatch.delenv("SRU_ASR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache_folder() == tmp_path / "sru_asr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert build.cache_folder() == Path.home() / ".cache" / "sru_asr"
    shipped = tmp_path / "_C.abi3.so"
    shipped.touch()
    monkeypatch.setattr(build, "shipped_library", lambda gpu: shipped)
    assert build.library() == shipped


def test_no_home_directory_is_an_error_with_a_remedy(monkeypatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    for name in ("SRU_ASR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(build.BuildError, match="Set SRU_ASR_CACHE"):
        build.cache_folder()


def test_a_damaged_library_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    damaged = tmp_path / "_C.abi3.so"
    damaged.touch()
    monkeypatch.setattr(build, "library", lambda: damaged)
    with pytest.raises(build.BuildError, match=f"If {damaged} is damaged, delete it"):
        build.load.__wrapped__()


NO_COMPILER = {"PATH": "/nonexistent", "CXX": "", "SRU_ASR_CACHE": "empty"}
NO_CACHE = {"SRU_ASR_CACHE": "file/cache"}
NO_SUCH_KERNELS = {"SRU_ASR_CPU": "foo"}
TRANSCRIBE = ("-m", "sru_asr.cli", "transcribe", "--model", ".", "a.wav")
INFO = ("-m", "sru_asr.cli", "info")
TRAIN = (str(ROOT / "recipes/alphanum/train.py"), "--output-dir", "run")


@pytest.mark.parametrize(
    ("command", "environment", "message"),
    [
        (TRANSCRIBE, NO_COMPILER, r"sru-asr: .*no C\+\+ compiler"),
        (INFO, NO_COMPILER, r"kernels +unusable: .*no C\+\+ compiler"),
        (TRAIN, NO_COMPILER, r"error: .*no C\+\+ compiler"),
        (TRANSCRIBE, NO_SUCH_KERNELS, "sru-asr: SRU_ASR_CPU asks for 'foo'"),
        (TRAIN, NO_SUCH_KERNELS, "error: SRU_ASR_CPU asks for 'foo'"),
        (TRANSCRIBE, NO_CACHE, r"sru-asr: .*Not a directory.* Set SRU_ASR_CACHE"),
        (INFO, NO_CACHE, r"kernels +unusable: .*Not a directory.* Set SRU_ASR_CACHE"),
    ],
)
def test_commands_that_cannot_have_kernels_say_so(tmp_path, command, environment, message):
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert re.search(f"^{message}", done.stdout + done.stderr, re.MULTILINE)


def test_processes_that_need_the_library_at_once_compile_it_once(tmp_path):
    environment = {**os.environ, "SRU_ASR_CACHE": str(tmp_path / "cache"), "CXX": str(pretending_compiler(tmp_path))}
    processes = [
        subprocess.Popen([sys.executable, "-c", RECURRENCE], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert sum(error.count("compiling the kernels once") for error in errors) == 1
    commands = (tmp_path / "commands").read_text().splitlines()
    assert len(commands) == len(build.SOURCES) + 1
    assert sum("-shared" in command for command in commands) == 1
    left = {path.name for path in (tmp_path / "cache").glob("*/*")}
    assert left == {"_C.abi3.so"}
    lock = next((tmp_path / "cache").glob("*.lock"))
    assert build.source_key() in lock.name  # other versions do not wait for this one


PLAIN = {"cpu/select.cpp", "cpu/emulated.cpp"}  # compiled for every processor, so that they may share


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm (binutils)")
@pytest.mark.parametrize("source", [name for name in build.SOURCES if name.startswith("cpu/") and name not in PLAIN])
def test_an_instruction_set_shares_no_code_with_others(tmp_path, source):
    """A weak symbol could be the copy the linker keeps, and crash a machine that lacks the instructions."""
    made = tmp_path / "object.o"
    compiler = [*shlex.split(build.find_compiler()), *build.COMMON_FLAGS, "-O0", *build.SOURCES[source]]
    subprocess.run([*compiler, "-c", ROOT / "csrc" / source, "-o", made], check=True)
    listing = subprocess.run(
        ["nm", "-C", "--defined-only", "-g", made], capture_output=True, text=True, check=True
    ).stdout
    symbols = [line.split(maxsplit=2)[1:] for line in listing.splitlines() if " DW.ref." not in line]
    assert len(symbols) == 1, listing
    assert symbols[0][0] in "RD", listing
    assert re.fullmatch(r"sru_asr::k\w+Kernels", symbols[0][1])


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the checkout, as building writes into it."""
    if int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("building the package needs setuptools >= 77")
    copy = tmp_path_factory.mktemp("tree") / "sru-asr"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    skip = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("sru_asr", "csrc"):
        shutil.copytree(ROOT / name, copy / name, ignore=skip)
    return copy


def virtual_environment(folder: Path, *host_packages: Path) -> Path:
    """A bare environment that also sees these folders or packages of this one. Returns its python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", query], capture_output=True, text=True, check=True).stdout.strip())
    for package in host_packages:
        if package == SITE:
            (site / "host.pth").write_text(f"{SITE}\n")  # behind its own; .pth files in there do not count
        else:
            (site / package.name).symlink_to(package)
    return python


def wheel_contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def sources_in_package() -> set[str]:
    files = (*(ROOT / "csrc").rglob("*.h"), *(ROOT / "csrc").rglob("*.cpp"))
    return {f"sru_asr/{path.relative_to(ROOT).as_posix()}" for path in files}


@pytest.mark.slow
def test_a_wheel_built_beside_torch_ships_the_kernels(tmp_path, tree):
    stale = (
        tree / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / "sru_asr" / "_C-0.abi3.so"
    )
    stale.parent.mkdir(parents=True)
    stale.touch()  # an earlier build's, in the folder that setuptools builds in
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", tmp_path, tree], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    platform_tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform_tag}.whl")
    contents = wheel_contents(wheel)
    assert {name for name in contents if name.endswith(".so")} == {f"sru_asr/{build.shipped_library().name}"}
    assert sources_in_package() <= contents
    assert "sru_asr/py.typed" in contents

    python = virtual_environment(tmp_path / "venv", SITE)
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, wheel], check=True)
    (tmp_path / "empty").mkdir()
    environment = {"PATH": str(tmp_path / "empty"), "SRU_ASR_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    result = subprocess.run(
        [python, "-c", RECURRENCE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    package, library = map(Path, result.stdout.split())
    assert tmp_path / "venv" in package.parents
    assert library.name == build.shipped_library().name
    assert library.parent == package.parents[1]
    assert not (tmp_path / "cache").exists()


def test_a_wheel_built_without_torch_holds_sources_and_compiles_them_at_first_use(tmp_path, tree):
    setuptools = [path for path in SITE.iterdir() if re.match("(setuptools|_distutils_hack)", path.name)]
    python = virtual_environment(tmp_path / "builder", *setuptools)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([python, "-c", code], cwd=tree, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    contents = wheel_contents(wheel)
    assert not any(".so" in name for name in contents)
    assert sources_in_package() <= contents

    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "CXX": str(pretending_compiler(tmp_path))}
    environment["SRU_ASR_CACHE"] = str(tmp_path / "cache")
    result = subprocess.run(
        [sys.executable, "-c", RECURRENCE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    package, library = map(Path, result.stdout.split())
    assert site in package.parents
    assert tmp_path / "cache" in library.parents
    assert f"-c {site / 'sru_asr' / 'csrc' / 'recurrence.cpp'} " in (tmp_path / "commands").read_text()
