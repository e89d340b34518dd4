"""What one sees of a training."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only


def say(line: str) -> None:
    """Print a line on standard output; what is trained is not lost because nobody reads on."""
    try:
        print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class EpochLine(Callback):
    """One line per epoch: what one reads where no progress bar can be shown, and keeps where one can."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.first_step = 0

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.start = time.monotonic()
        self.first_step = trainer.global_step

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line."""
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs
        steps = max(int(trainer.num_training_batches) // trainer.accumulate_grad_batches, 1)
        if epochs and trainer.max_steps > 0:
            epochs = min(epochs, -(-trainer.max_steps // steps)) if epochs > 0 else -(-trainer.max_steps // steps)
        metrics = trainer.callback_metrics
        elapsed = time.monotonic() - self.start
        line = f"epoch {epoch}" + (f"/{epochs}" if epochs and epochs > 0 else "")
        if "train_loss" in metrics:
            line += f"  train loss {float(metrics['train_loss_epoch']):.3f}"
        # What is not measured in every epoch is still there from an earlier one.
        if "val_wer" in metrics and epoch % (trainer.check_val_every_n_epoch or 1) == 0:
            line += f"  dev loss {float(metrics['val_loss']):.3f}  dev WER {100 * float(metrics['val_wer']):.2f} %"
        line += f"  {elapsed:.0f} s"
        # A run may go on amid an epoch, or at its very end.
        if epochs and epochs > epoch and (done := trainer.global_step - self.first_step):
            line += f", {elapsed / done * (epochs - epoch) * steps:.0f} s to go"
        say(line)


def quieten() -> None:
    """Silence what Lightning and torch say to everyone and nobody can act on."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*GPU available but not used.*",
        ".*The dataloader.*bottleneck.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*LeafSpec.*",
        ".*number of training batches.*smaller than the logging interval.*",
        ".*already saved the checkpoint.*",
        ".*callbacks used to create the checkpoint.*",  # where a run goes on with other --checkpoint-steps
        ".*your dataloader is not resumable.*",  # ours is: see BatchSampler.skip
        ".*when logging on epoch level in distributed setting.*",  # WER is reduced already; the loss shown is rank 0's
        ".*Grad strides do not match bucket view strides.*",  # of the first convolution, which has few weights
    ):
        warnings.filterwarnings("ignore", message)
