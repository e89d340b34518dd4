"""Checkpoints of a training: whole or not at all, and only of a training that they fit."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from sru_asr.text import Tokenizer
from sru_asr.whole import whole

LAST_CHECKPOINT = "last.ckpt"
# Raised with each change of what is learned how: the optimizer's state fits no other.
OPTIMIZER_VERSION = 2


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, and puts it there when the disk has it.

    Lightning writes it into the folder for temporary files and moves it, which is a copy if that is another disk: a
    kill then leaves half a checkpoint where a whole one was.

    `torch.save` gets memory to write to: where a file's `write` raises, be it Ctrl-C, a lost process or a full disk,
    it says something else instead.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write it; `storage_options` are for other places than files, and there are none."""
        written = io.BytesIO()
        torch.save(checkpoint, written)
        with whole(path) as part, part.open("wb") as file:
            file.write(written.getbuffer())
            file.flush()
            os.fsync(file.fileno())


class AfterSteps(ModelCheckpoint):
    """A `ModelCheckpoint` that saves only where an optimizer step is complete.

    A resumed run does not know when it last saved, and would do so again amid the batches that one step accumulates.
    Where a run is told to stop amid an epoch, as by `max_time`, it saves then, and not as if the epoch were over.
    """

    _stops = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if it is time; a step that has begun is completed before the run stops."""
        is_complete = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self._stops = self._stops or trainer.should_stop
        trainer.should_stop = self._stops and is_complete
        if not is_complete:
            return
        if trainer.should_stop:
            trainer.save_checkpoint(Path(str(self.dirpath), f"{self.filename}{self.FILE_EXTENSION}"))
        else:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, unless the epoch was cut short."""
        if not trainer.should_stop or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            super().on_train_epoch_end(trainer, pl_module)


def describe_run(trainer: pl.Trainer, tokenizer: Tokenizer, utterances: dict[str, str]) -> dict[str, Any]:
    """What of a run must stay as it was for a checkpoint of it to make sense, and no option says.

    Args:
        trainer: the run's.
        tokenizer: what its targets are made with.
        utterances: of each split, their `digest`.
    """
    pieces = json.dumps(tokenizer.to_dict(), sort_keys=True)
    return {
        "version of the optimizer": OPTIMIZER_VERSION,
        "batches to a step": trainer.world_size * trainer.accumulate_grad_batches,
        "vocabulary": hashlib.sha256(pieces.encode()).hexdigest()[:16],
        **{f"utterances ({split})": value for split, value in utterances.items()},
    }


def read_position(path: Path, run: dict[str, Any]) -> tuple[int, int, bool]:
    """How far the run in a checkpoint has come.

    Args:
        path: the checkpoint.
        run: `describe_run` of the one that is to go on.

    Returns:
        The epoch, from 0, the batches of it that are done, over all ranks, and whether it is over.

    Raises:
        ValueError: it is damaged, or not of such a run.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        position = checkpoint["position"]
        epoch, batches, found = int(position["epoch"]), int(position["batches"]), dict(position["run"])
        is_over = bool(position.get("is_over", False))  # earlier versions did not say
    except (OSError, MemoryError):  # which says nothing of the checkpoint
        raise
    except Exception as error:  # what torch raises depends on where the file is damaged
        raise ValueError(
            f"{path} cannot be gone on from, it is damaged or of another version ({type(error).__name__}: {error}); "
            "--restart discards it"
        ) from error
    if different := [f"{key}: {found.get(key)} there, {run[key]} now" for key in run if found.get(key) != run[key]]:
        raise ValueError(
            f"{path} is of a run on other data, with other processes or of another version ({'; '.join(different)}). "
            "Give it those (N processes do what one does that accumulates N batches), another --output-dir, or "
            "--restart to discard it."
        )
    return epoch, batches, is_over


def refuse_diverged(module: torch.nn.Module) -> None:
    """Raise a ValueError if weights are not finite, before they are saved in place of some that are."""
    if bad := [name for name, weight in module.named_parameters() if not torch.isfinite(weight).all()]:
        raise ValueError(
            f"the training has diverged: {len(bad)} of its tensors are not finite ({bad[0]}, ...). The last checkpoint "
            "is as it was; start again with --restart and a lower --optimizer.learning_rate"
        )
