"""Checkpoints: whole or not at all, and refused where they do not fit."""

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import full_disk

from sru_asr.checkpoint import WholeFiles, describe_run, read_position, refuse_diverged
from sru_asr.text import CharTokenizer

RUN = {"batches to a step": 2, "vocabulary": "0123"}


def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """Lightning's own way leaves half a file where the folder for temporary files is on another disk."""
    path, files = tmp_path / "last.ckpt", WholeFiles()
    files.save_checkpoint({"step": torch.tensor(1)}, path)
    with full_disk(100_000), pytest.raises(OSError, match="File too large"):
        files.save_checkpoint({"step": torch.tensor(2), "weights": torch.zeros(100_000)}, path)
    assert torch.load(path, weights_only=True)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_what_interrupts_the_writing_is_what_is_raised(tmp_path: Path) -> None:
    """Ctrl-C, or a process that was lost, used to become "unexpected pos"."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt("by the user")

    def save_until_then() -> None:
        while True:
            WholeFiles().save_checkpoint({"weights": torch.zeros(10_000_000)}, tmp_path / "last.ckpt")

    before = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt, match="by the user"):
            save_until_then()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert {file.name for file in tmp_path.iterdir()} <= {"last.ckpt"}


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Who believed that discarded it."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)) as found:
        read_position(tmp_path / "last.ckpt", RUN)
    assert found.value is error


def test_weights_that_are_not_finite_are_refused() -> None:
    module = torch.nn.Linear(2, 2)
    refuse_diverged(module)
    module.bias.data[1] = float("inf")
    with pytest.raises(ValueError, match=r"diverged: 1 of its tensors are not finite \(bias, ...\)"):
        refuse_diverged(module)


def test_how_far_a_run_has_come(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"position": {"epoch": 3, "batches": 8, "run": RUN}}, path)
    assert read_position(path, RUN) == (3, 8, False)
    with pytest.raises(ValueError, match=r"another version \(batches to a step: 2 there, 4 now\)"):
        read_position(path, {**RUN, "batches to a step": 4})


def test_a_checkpoint_of_before_an_optimizer_changed_is_refused(tmp_path: Path) -> None:
    run = describe_run(SimpleNamespace(world_size=1, accumulate_grad_batches=1), CharTokenizer(), {})
    before = {key: value for key, value in run.items() if key != "version of the optimizer"}
    torch.save({"position": {"epoch": 3, "batches": 8, "run": before}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"another version \(version of the optimizer: None there, 2 now\)"):
        read_position(tmp_path / "last.ckpt", run)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", None])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"position": {"epoch": 3, "batches": 8, "run": RUN}}, path)
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be gone on from.*--restart discards it"):
        read_position(path, RUN)
