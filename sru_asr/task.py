"""The LightningModule: what one training step and one validation do."""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from sru_asr.checkpoint import refuse_diverged
from sru_asr.ctc import ctc_loss
from sru_asr.data import Batch
from sru_asr.decode import greedy
from sru_asr.features import FRAMES_PER_SECOND, SpecAugment
from sru_asr.metrics import word_errors
from sru_asr.model import MOST_DELAY, Recognizer
from sru_asr.muon import Muon
from sru_asr.text import BLANK
from sru_asr.warp import Warp

# Of the windows that are trained with.
CHUNK_TO_LOOKAHEAD = (0.75, 1.5)


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights are learned: Muon for the encoder's matrices, AdamW for the rest, under one one-cycle schedule.

    Attributes:
        learning_rate: the highest.
        momentum: decay of Muon's momentum.
        weight_decay: of matrices; vectors (biases, norms, the SRU's v) are left alone.
        warmup: share of the steps in which the learning rate rises.
        beta2: decay of AdamW's second moment.
        average: decay of the moving average of the weights, which is what is measured and kept; 0 for the last weights.
    """

    learning_rate: float = 2e-3
    momentum: float = 0.95
    weight_decay: float = 0.01
    warmup: float = 0.05
    beta2: float = 0.98
    average: float = 0.998

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or self.weight_decay < 0 or not 0 < self.warmup < 1 or not 0 < self.beta2 < 1:
            raise ValueError(f"learning_rate must be positive, weight_decay not negative, shares in (0, 1): {self}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer momentum must be from 0 to below 1, found {self.momentum}")
        if not 0 <= self.average < 1:
            raise ValueError(f"optimizer average must be from 0 to below 1, found {self.average}")


@dataclass(frozen=True)
class LossConfig:
    """What is learned from a batch.

    Attributes:
        consistency: weight of the divergence between what is recognised in two views of a batch, each under masks of
            its own (CR-CTC, Yao et al. 2024, arXiv:2410.05101; 0.2 there); with 0 there is one view, for half the work.
        windowed: share of the steps in which the second view, or the only one, is seen through windows of a size
            drawn at random, as a live recogniser would see it. The first of two views always has full context.
        lookahead: frames of the encoder that a window has behind its chunk, least and most; the chunk has about as
            many. It is the lookahead that decides how well a frame is recognised (docs/log.md), and its share of the
            window how much a step computes twice. So live chunks are shorter than these.
        delay: frames by which tokens are emitted later than by the model that training starts from; 0 holds them where
            that one has them; none leaves them to CTC. It likes to emit a word well before its end, when a short window
            has not heard it yet.
        delayed: share of the steps in which the delay is learned or held, from the first on.
    """

    consistency: float = 0.0
    windowed: float = 0.6
    lookahead: tuple[int, int] = (2, 12)
    delay: int | None = None
    delayed: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.consistency <= 10 or not 0 <= self.windowed <= 1:
            raise ValueError(f"loss consistency must be from 0 to 10, windowed from 0 to 1, found {self}")
        low, high = self.lookahead
        if not 1 <= low <= high <= 1000:
            raise ValueError(f"loss lookahead must be two numbers of frames from 1 to 1000, found {self.lookahead}")
        if not 0 <= (self.delay or 0) <= MOST_DELAY or not 0 < self.delayed <= 1:
            raise ValueError(
                f"loss delay must be from 0 to {MOST_DELAY} frames, delayed above 0 and at most 1, found {self}"
            )

    def draw_window(self, generator: random.Random) -> tuple[int, int]:
        """Chunk and lookahead, in frames; (0, 0), which is full context, in some of the steps."""
        if generator.random() >= self.windowed:
            return 0, 0
        low, high = self.lookahead
        lookahead = round(low * (high / low) ** generator.random())
        return max(round(lookahead * generator.uniform(*CHUNK_TO_LOOKAHEAD)), 1), lookahead


class SpeechTask(pl.LightningModule):
    """Trains a `Recognizer` with CTC and watches its word error rate.

    All randomness of a step follows from the seed, the epoch and the batch's number over all ranks. So a resumed run
    repeats what the killed one would have done, and two processes do what one does that accumulates two batches.

    Args:
        model: to be trained.
        optimizer: how.
        loss: from what.
        masks: what is hidden of it.
        warp: how its tempo and frequencies change.
        seed: of dropout, warps, masks and windows.

    Attributes:
        run: what checkpoints say of the run, see `sru_asr.checkpoint.describe_run`.
    """

    def __init__(
        self,
        model: Recognizer,
        optimizer: OptimizerConfig | None = None,
        loss: LossConfig | None = None,
        masks: SpecAugment | None = None,
        warp: Warp | None = None,
        seed: int = 0,
        teacher: Recognizer | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._teacher = (teacher,)  # in a tuple: it is neither trained nor saved
        if teacher is not None:
            teacher.encoder.subsampling.train()  # which changes how it convolves, not what comes out
        self.optimizer = optimizer or OptimizerConfig()
        self.loss = loss or LossConfig()
        self.spec_augment = masks or SpecAugment()
        self.warp = warp or Warp()
        self.seed = seed
        self.run: dict[str, Any] = {}
        self._random = random.Random(seed)
        # hits, substitutions, deletions, insertions over the validation so far; then its loss and utterances
        self._validation = torch.zeros(6, dtype=torch.float64)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the step."""
        number = batch_idx * self.trainer.world_size + self.trainer.global_rank
        seed = zlib.crc32(f"{self.seed} {self.current_epoch} {number}".encode())
        torch.manual_seed(seed)
        self._random = random.Random(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss per utterance, in nats per token (per second, where there is less than one token a second)."""
        features, lengths = self.warp(*self.model.features(batch.waveforms, batch.lengths))
        window = self.loss.draw_window(self._random)
        windows = [(0, 0), window] if self.loss.consistency else [window]
        views = [self.model.log_probs(self.spec_augment(features, lengths), lengths, *size) for size in windows]
        losses = torch.stack([ctc_loss(*view, batch.targets, batch.target_lengths) for view in views]).mean(0)
        units = torch.maximum(batch.target_lengths, lengths / FRAMES_PER_SECOND)
        shown = (losses.detach() / units).mean()
        if self.loss.consistency:
            losses = losses + self.loss.consistency * _divergence(views[0][0], views[1][0], views[0][1])
        if (weight := self._delay_weight()) > 0:
            losses = losses + weight * self._lateness(features, lengths, views)
        self.log("train_loss", shown, on_step=True, on_epoch=True, batch_size=len(batch.ids), prog_bar=True)
        return (losses / units).mean()

    def _delay_weight(self) -> float:
        """Falls from 1 to 0 over the share of the steps in which the delay is learned."""
        if self._teacher[0] is None:
            return 0.0
        return 1 - self.trainer.global_step / (self.loss.delayed * self.trainer.estimated_stepping_batches)

    def _lateness(self, features: Tensor, lengths: Tensor, views: list[tuple[Tensor, Tensor]]) -> Tensor:
        """How far the views are, on average, from what the teacher says some frames earlier, (batch,) in nats.

        0 for utterances of which the last token would fall behind the end.
        """
        (teacher,) = self._teacher
        assert teacher is not None
        teacher.to(features.device)
        with torch.no_grad():
            log_probs, lengths = teacher.log_probs(features, lengths)
            late, fits = _delayed(log_probs, lengths, self.loss.delay or 0)
        inside = (torch.arange(late.shape[1], device=late.device) < lengths[:, None]) & fits[:, None]
        apart = [((late.exp() * (late - log_probs)).sum(2) * inside).sum(1) for log_probs, _ in views]
        return torch.stack(apart).mean(0)

    def on_validation_epoch_start(self) -> None:
        """Start counting anew."""
        self._validation = torch.zeros(6, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count word errors of greedy decoding."""
        log_probs, lengths = self.model(batch.waveforms, batch.lengths)
        losses = ctc_loss(log_probs, lengths, batch.targets, batch.target_lengths)
        sums = [0, 0, 0, 0]
        for text, path in zip(batch.texts, greedy(log_probs, lengths), strict=True):
            errors = word_errors(text, self.model.tokenizer.decode(path.tokens))
            counts = (errors.hits, errors.substitutions, errors.deletions, errors.insertions)
            sums = [a + b for a, b in zip(sums, counts, strict=True)]
        per_token = float((losses / batch.target_lengths.clamp(min=1)).sum())
        self._validation += torch.tensor([*sums, per_token, len(batch.ids)], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """Log loss and WER over all ranks."""
        sums = self.trainer.strategy.reduce(self._validation.to(self.device), reduce_op="sum")
        hits, substitutions, deletions, insertions, loss, utterances = sums.tolist()
        errors = substitutions + deletions + insertions
        self.log("val_wer", errors / max(hits + substitutions + deletions, 1), prog_bar=True, rank_zero_only=True)
        self.log("val_loss", loss / max(utterances, 1), rank_zero_only=True)

    def configure_optimizers(self) -> Any:
        """Muon and AdamW with a one-cycle schedule over exactly the steps of this run."""
        settings = self.optimizer
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < math.inf:
            raise ValueError("the learning rate needs an end: expected --trainer.max_epochs or max_steps above 0")
        encoder = self.model.encoder
        gates = [layer.weight for layer in encoder.sru.layers]
        projection = encoder.subsampling.project.weight
        others = [p for p in self.parameters() if p.requires_grad and not any(p is m for m in (*gates, projection))]
        optimizer = Muon(
            [
                {"params": gates, "weight_decay": settings.weight_decay, "block_rows": self.model.config.hidden_size},
                {"params": [projection], "weight_decay": settings.weight_decay, "block_rows": encoder.width},
                {"params": [p for p in others if _is_matrix(p)], "weight_decay": settings.weight_decay},
                {"params": [p for p in others if not _is_matrix(p)], "weight_decay": 0.0},
            ],
            momentum=settings.momentum,
            lr=settings.learning_rate,
            betas=(0.9, settings.beta2),
            fused=True,
        )
        steps = max(int(steps), 3)  # torch divides by zero where the rise is exactly one step
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=settings.learning_rate,
            total_steps=steps,
            pct_start=max(settings.warmup, 1.5 / steps),
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note how far the epoch has come, for the sampler to go on from there.

        Raises:
            ValueError: the weights are not finite.
        """
        refuse_diverged(self)
        # `completed` is counted only after the callbacks that save within an epoch.
        processed = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        checkpoint["position"] = {
            "epoch": self.current_epoch,
            "batches": processed * self.trainer.world_size,
            "is_over": processed >= self.trainer.num_training_batches,
            "run": self.run,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Count the batches of an epoch as this rank does, where a run goes on with another number of processes."""
        of_rank = checkpoint["position"]["batches"] // self.trainer.world_size
        current = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        too_many = current["processed"] - of_rank
        for name in ("ready", "started", "processed", "completed"):
            current[name] -= too_many


def _delayed(log_probs: Tensor, lengths: Tensor, delay: int) -> tuple[Tensor, Tensor]:
    """What was recognised, some frames later, and for which utterances nothing is lost behind the end by that.

    Args:
        log_probs: (batch, frames, vocab).
        lengths: (batch,) int64, frames.
        delay: frames.

    Returns:
        (batch, frames, vocab), which begins with the first frame's, repeated; (batch,) bool.
    """
    frames = torch.arange(log_probs.shape[1], device=log_probs.device)
    last = (frames >= lengths[:, None] - delay) & (frames < lengths[:, None])
    fits = ~((log_probs.argmax(2) != BLANK) & last).any(1)
    return log_probs[:, (frames - delay).clamp(min=0)], fits


def _divergence(first: Tensor, second: Tensor, lengths: Tensor) -> Tensor:
    """How far two views of a batch are apart, (batch,): half the sum of both Kullback-Leibler divergences.

    Summed over frames. What a view is compared with is taken as given: each learns from the other.

    Args:
        first: (batch, frames, vocab), log-probabilities.
        second: the same of the other view.
        lengths: (batch,) int64, frames.
    """
    apart = torch.zeros_like(first)
    for learner, teacher in ((first, second.detach()), (second, first.detach())):
        apart = apart + teacher.exp() * (teacher - learner)
    inside = torch.arange(first.shape[1], device=first.device) < lengths[:, None]
    return 0.5 * (apart.sum(2) * inside).sum(1)


def _is_matrix(parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: matrices and convolutions of several inputs; the SRU's v is a stack of vectors."""
    return parameter.dim() >= 2 and min(parameter.shape[:2]) > 2
