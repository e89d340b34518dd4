"""Imports point one way, and what must be quick to import is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sru_asr"
# Each module may import from those before it in this list, and from nothing behind it.
LAYERS = [
    *("build",),
    *("ops", "memory", "whole", "audio", "text", "metrics", "windows", "download", "corpus", "voice"),
    *("hotwords", "lexicon", "lm", "precision"),
    *("augment", "decode", "features", "manifest", "source", "words"),
    *("subtitles", "scorer", "uncertainty"),
    *("beam",),
    *("decoding",),
    *("product",),
    *("layer", "data", "warp", "muon"),
    *("migration",),
    *("sru",),
    *("encoder", "ctc"),
    *("stream",),
    *("transcribe", "live"),
    *("model",),
    *("evaluation", "tuning"),
    *("report",),
    *("checkpoint", "average"),
    *("task",),
    *("settings", "progress", "stop"),
    *("initial",),
    *("recipe",),
    *("serve",),
    *("commands",),
    *("cli",),
    *("script",),
]
# The modules that may know Lightning.
TRAINING = {"checkpoint", "task", "average", "settings", "progress", "stop", "recipe"}


def _module(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Names imported at module level; what a function imports when it runs is its own business."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    module = _module(path)
    allowed = {"sru_asr", module, *LAYERS[: LAYERS.index(module)]}
    inside = {name.split(".")[1] if "." in name else "sru_asr" for name in _imports(path) if name.startswith("sru_asr")}
    assert inside <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_training_knows_lightning(path: Path) -> None:
    if _module(path) not in TRAINING:
        assert not any(name.startswith(("pytorch_lightning", "lightning")) for name in _imports(path))


def _loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = _loaded_after("import sru_asr, sru_asr.cli")
    assert not loaded & {"torch", "lhotse", "pytorch_lightning", "torchaudio", "numpy"}


def test_transcription_needs_neither_lightning_nor_lhotse() -> None:
    loaded = _loaded_after("import sru_asr.model, sru_asr.transcribe, sru_asr.stream, sru_asr.live")
    assert "torch" in loaded
    assert not loaded & {"pytorch_lightning", "lhotse", "jiwer"}
