"""A moving average of the weights, which is what is measured and kept.

Lightning's own averaging waits for the GPU in every step, gives the first step's weights a share that short runs never
lose, and when a finished run is started again leaves the last weights in place of the average.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor


class WeightAverage(Callback):
    """Keeps an exponential moving average of the parameters; validation sees it in their place.

    In step n the average keeps min(decay, (1 + n) / (10 + n)) of itself, so that it forgets where training started.

    Args:
        decay: of what the average holds, at each optimizer step, in the long run.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._average: list[Tensor] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the weights as they are, unless a checkpoint brought an average."""
        parameters = _parameters(pl_module)
        if not self._average:
            self._average = [parameter.clone() for parameter in parameters]
        self._average = [average.to(parameter) for average, parameter in zip(self._average, parameters, strict=True)]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the weights, if this batch ended an optimizer step."""
        if trainer.global_step == self.steps:
            return
        self.steps = trainer.global_step
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._average, _parameters(pl_module), 1 - keep)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in the weights' place."""
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights back."""
        self._swap(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The average, which checkpoints keep beside the weights."""
        return {"steps": self.steps, "average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.steps, self._average = state_dict["steps"], state_dict["average"]

    def write_to(self, module: torch.nn.Module) -> None:
        """Make the average the module's weights; `module` is what was trained, or the LightningModule around it."""
        for parameter, average in zip(_parameters(module), self._average, strict=True):
            parameter.copy_(average)

    def _swap(self, module: pl.LightningModule) -> None:
        weights = [parameter.clone() for parameter in _parameters(module)]
        self.write_to(module)
        self._average = weights


def _parameters(module: torch.nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in module.parameters()]
