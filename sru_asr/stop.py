"""How a training ends when it is told to."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from sru_asr.progress import say


class StopsAtOnce(Callback):
    """Ends each of several processes as soon as it gets a SIGTERM; checkpoints are never half written.

    Lightning would exchange a message with the other processes from within the signal handler. That meets the messages
    of the training step that it interrupts, and both sides wait for ever.
    """

    def __init__(self, last: Path, restarts: bool) -> None:
        self.last = last
        self.restarts = restarts

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signal over from Lightning, which sets its handlers before this, and restores them after it."""
        if trainer.world_size == 1:
            return

        def stop(signum: int, _: object) -> None:
            try:
                if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
                    trainer.strategy.launcher.kill(signum)
                if trainer.is_global_zero:
                    say_how_it_goes_on(self.last, self.restarts)
            finally:  # whatever else is wrong
                os._exit(128 + signum)

        signal.signal(signal.SIGTERM, stop)


def say_how_it_goes_on(last: Path, restarts: bool) -> None:
    """What the same command will do, for somebody who has stopped it.

    Args:
        last: the checkpoint, if there is one.
        restarts: whether the command has --restart, which would discard it.
    """
    if not last.is_file():
        goes_on = "starts again, as no epoch was finished"
    elif restarts:
        goes_on = f"without --restart goes on from {last}"
    else:
        goes_on = f"goes on from {last}"
    say(f"stopped; the same command {goes_on}")
