"""Checkpoints: whole or not at all, and refused where they do not fit."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sru_asr import checkpoint
from sru_asr.checkpoint import WholeFiles, describe_run, read_position, refuse_diverged
from sru_asr.text import CharTokenizer

RUN = {"batches to a step": 2, "vocabulary": "0123"}


def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own way leaves half a file where the folder for temporary files is on another disk."""
    path, files = tmp_path / "last.ckpt", WholeFiles()
    files.save_checkpoint({"step": torch.tensor(1)}, path)

    def half(found, file):
        file.write(b"half of a checkpoint")
        assert torch.load(path, weights_only=True)["step"] == 1
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        files.save_checkpoint({"step": torch.tensor(2)}, path)
    assert torch.load(path, weights_only=True)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


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
