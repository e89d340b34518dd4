"""What every recipe's training does: from manifests to a checkpoint with a measured WER."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from jsonargparse import ArgumentParser, Namespace
from lhotse import CutSet
from pytorch_lightning.callbacks import Callback, LambdaCallback, TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from sru_asr.augment import AugmentConfig
from sru_asr.average import WeightAverage
from sru_asr.checkpoint import LAST_CHECKPOINT, AfterSteps, WholeFiles, describe_run, read_position
from sru_asr.data import BatchSampler, is_lost_worker, make_loader
from sru_asr.evaluation import Evaluation, evaluate
from sru_asr.features import SAMPLE_RATE, SpecAugment, frame_count
from sru_asr.initial import given_model, measure_features, new_model
from sru_asr.manifest import digest, load_manifest, refuse_shared, too_fast, validate
from sru_asr.memory import keep_freed_memory
from sru_asr.model import CHECKPOINT_NAME, MOST_DELAY, ModelConfig, Recognizer, load_model
from sru_asr.progress import EpochLine, quieten, say
from sru_asr.settings import DataConfig, begin, has_begun, name_of, settle
from sru_asr.stop import StopsAtOnce, say_how_it_goes_on
from sru_asr.task import LossConfig, OptimizerConfig, SpeechTask
from sru_asr.warp import Warp
from sru_asr.whole import BEGINNING, whole

PRECISIONS = ("32", "32-true", "bf16-mixed", "16-mixed")
MISCONFIGURED = "these options of --trainer or --checkpoint-steps do not work here"
# Options of Lightning's trainer of which 0 means to train nothing, or a division by it.
NOT_ZERO = ("max_epochs", "max_steps", "limit_train_batches", "check_val_every_n_epoch", "accumulate_grad_batches")
SECONDS_TO_END = 8  # after which the workers of a training that was killed, who look every 5, have ended, too


def train(parser: ArgumentParser, prepare: Callable[[Namespace], dict[str, list[Path]]]) -> Evaluation | None:
    """Train, measure on the development set, and say where the checkpoint is.

    A run that was stopped, by whatever, goes on from its last checkpoint when the same command is given again.

    Args:
        parser: of `training_parser`.
        prepare: makes the manifests, given the parsed options; returns their paths by split, `train` and `dev` among
            them. What a split has several of is put together.

    Returns:
        The evaluation on `dev` (on rank 0; None elsewhere).

    Raises:
        ValueError: faults in the data or the settings, named.
    """
    args = parser.parse_args()
    if args.new_tokenizer and args.init_from is None:
        raise ValueError("--new-tokenizer is for --init-from: without it the tokenizer is new anyway")
    if args.loss.delay is not None and (args.init_from is None or args.new_tokenizer):
        raise ValueError(
            f"--loss.delay {args.loss.delay} is by how much tokens come later than from the model of --init-from: "
            "expected that one, and none of --new-tokenizer"
        )
    for path in args.also:
        if not path.is_file():
            raise ValueError(f"--also: there is no manifest {path}; a recipe's prepare.py writes them")
    model = None if args.init_from is None else given_model(args, parser.parse_args(defaults=False))
    if model is not None and model.delay + (args.loss.delay or 0) > MOST_DELAY:
        raise ValueError(
            f"--loss.delay {args.loss.delay}: the model of --init-from is {model.delay} frames late, expected at most "
            f"{MOST_DELAY} together"
        )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with _alone_in(args.output_dir):
        return _train(args, prepare, model)


def _train(
    args: Namespace, prepare: Callable[[Namespace], dict[str, list[Path]]], model: Recognizer | None
) -> Evaluation | None:
    """Train with the options as they were parsed, from a model if one was given; else as `train`."""
    config = ModelConfig(**args.model.as_dict())
    optimizer = OptimizerConfig(**args.optimizer.as_dict())
    loss = LossConfig(**args.loss.as_dict())
    augment = AugmentConfig(**args.augment.as_dict())
    masks = SpecAugment(**args.masks.as_dict())
    warp = Warp(**args.warp.as_dict())
    data = DataConfig(**args.data.as_dict())
    output: Path = args.output_dir
    quieten()
    keep_freed_memory()
    with FileLock(output / ".prepare.lock"):  # ranks of one machine prepare one after another
        manifests = prepare(args)
        manifests["train"] = [*manifests["train"], *args.also]
        goes_on = has_begun(args, output)
        settings = settle(args, manifests, output, model)
    train_cuts, dev_cuts = (
        CutSet.from_cuts(cut for path in manifests[split] for cut in load_manifest(path)) for split in ("train", "dev")
    )
    refuse_shared(train_cuts, dev_cuts)
    pl.seed_everything(args.seed, verbose=False)
    unmeasured = model is None
    if model is None or args.new_tokenizer:
        model = new_model(config, data, train_cuts, model)
    for cuts in (train_cuts, dev_cuts):
        validate(cuts, model.tokenizer, max_seconds=data.max_seconds, min_seconds=data.min_seconds)
    train_cuts = _learnable(train_cuts, model)
    if unmeasured:
        measure_features(model, train_cuts, data.max_batch_seconds)
    last = output / LAST_CHECKPOINT
    teacher = load_model(args.init_from) if loss.delay is not None else None
    model.delay += loss.delay or 0
    task = SpeechTask(model, optimizer, loss, masks, warp, args.seed, teacher)
    average = WeightAverage(optimizer.average)
    begins = LambdaCallback(  # what was there goes only where nothing is known to be wrong
        on_train_start=lambda trainer, _: begin(output, settings, goes_on) if trainer.is_global_zero else None
    )
    trainer = _trainer(args, [begins, *([average] if optimizer.average else []), StopsAtOnce(last, args.restart)])
    rank_loader = partial(make_loader, rank=trainer.global_rank, world_size=trainer.world_size)
    train_loader = rank_loader(
        train_cuts,
        model.tokenizer,
        max_seconds=data.max_batch_seconds,
        seed=args.seed,
        speeds=data.speeds,
        augment=augment,
        training=True,
        workers=data.workers if data.workers >= 0 else 0 if trainer.strategy.root_device.type == "cpu" else 2,
        accumulate=trainer.accumulate_grad_batches,
    )
    dev_loader = rank_loader(dev_cuts, model.tokenizer, max_seconds=data.max_batch_seconds, training=False)
    task.run = describe_run(trainer, model.tokenizer, {"train": digest(train_cuts), "dev": digest(dev_cuts)})
    if goes_on:
        epoch, batches, is_over = read_position(last, task.run)
        assert isinstance(train_loader.sampler, BatchSampler)
        train_loader.sampler.skip(epoch, batches // trainer.world_size, is_over)
        if trainer.is_global_zero:
            say(f"going on from {last} (epoch {epoch + 1}, batch {batches})")
    elif trainer.is_global_zero:
        hours = sum(cut.duration for cut in train_cuts) / 3600
        parameters = sum(parameter.numel() for parameter in model.parameters())
        say(
            f"training {parameters / 1e6:.1f} M parameters on {len(train_cuts)} utterances, {hours:.2f} h, "
            f"{len(train_loader)} batches an epoch; developing on {len(dev_cuts)} utterances"
        )
    try:
        trainer.fit(task, train_loader, dev_loader, ckpt_path=last if goes_on else None, weights_only=True)
    except SystemExit as stop:  # what Lightning makes of Ctrl-C and SIGTERM
        if not trainer.interrupted:
            raise
        say_how_it_goes_on(last, args.restart)
        raise SystemExit(128 + (signal.SIGTERM if isinstance(stop, SIGTERMException) else signal.SIGINT)) from None
    except RuntimeError as error:
        if not is_lost_worker(error):
            raise
        say_how_it_goes_on(last, args.restart)
        raise ChildProcessError(
            f"a process that loads audio has ended, perhaps for want of memory ({error}); --data.workers 0 needs none"
        ) from error
    except OSError:  # as a full disk's, once there is room again
        say_how_it_goes_on(last, args.restart)
        raise
    except MisconfigurationException as error:
        raise ValueError(f"{MISCONFIGURED}: {error}") from error
    if trainer.should_stop and trainer.is_global_zero and trainer.global_step < trainer.estimated_stepping_batches:
        options = "without --restart and with" if args.restart else "with"
        say(f"stopped before its end; the same command goes on, {options} a longer --trainer.max_time")
        steps = trainer.num_training_batches / trainer.accumulate_grad_batches
        settings["stopped_after"] = round(trainer.global_step / steps, 2)
    if optimizer.average:
        average.write_to(task)
    if not trainer.is_global_zero:
        return None
    return _report(model, dev_cuts, manifests, output, settings)


@contextmanager
def _alone_in(output: Path) -> Iterator[None]:
    """Two trainings in one folder would write over each other's checkpoints. Of several processes the first has it."""
    if getattr(rank_zero_only, "rank", 0) != 0:
        yield
        return
    try:
        held = FileLock(output / ".training.lock").acquire(timeout=SECONDS_TO_END)
    except Timeout:
        raise ValueError(
            f"another training writes to {output}: expected to be alone there. Wait for its end, stop it, or choose "
            "another --output-dir"
        ) from None
    with held:
        for part in output.glob(f"{BEGINNING}*"):  # what one left that was killed while it wrote
            part.unlink(missing_ok=True)
        yield


def _report(
    model: Recognizer, dev_cuts: CutSet, manifests: dict[str, list[Path]], output: Path, settings: dict[str, Any]
) -> Evaluation:
    model = model.cpu().eval()
    evaluation = evaluate(model, dev_cuts)
    counts = evaluation.words
    model.training_data = {
        "recipe": output.name,
        "settings": settings,
        "manifests": {split: [name_of(path) for path in manifests[split]] for split in ("train", "dev")},
        "dev": {"utterances": len(evaluation.results), "words": counts.to_dict()},
    }
    model.save(output / CHECKPOINT_NAME)
    with whole(output / "dev.json") as part:
        part.write_text(json.dumps(evaluation.to_dict(), indent=1))
    say(f"development set, greedy, no language model:\n{evaluation.summary()}")
    say(f"model: {output / CHECKPOINT_NAME}")
    say(f"transcribe with it: sru-asr transcribe --model {shlex.quote(str(output))} AUDIO...")
    return evaluation


def _trainer(args: Namespace, callbacks: list[Callback]) -> pl.Trainer:
    """Lightning's, with these callbacks and those that every training has."""
    output: Path = args.output_dir
    if args.trainer.precision is not None and str(args.trainer.precision) not in PRECISIONS:
        raise ValueError(
            f"--trainer.precision: expected one of {', '.join(PRECISIONS)}, found {args.trainer.precision}: weights "
            "and features stay float32"
        )
    for name in NOT_ZERO:
        if args.trainer[name] == 0:
            raise ValueError(f"--trainer.{name}: expected a number above 0, found {args.trainer[name]}")
    # Showing a loss means to wait for the GPU that computes it.
    bars = [TQDMProgressBar(20 if _on_gpu(args) else 1, leave=False)] if sys.stderr.isatty() else []
    try:
        trainer = pl.Trainer(
            **args.trainer.as_dict(),
            default_root_dir=output,
            logger=TensorBoardLogger(output, name="", version="tensorboard"),
            callbacks=[*callbacks, *_checkpoints(output, args.checkpoint_steps), EpochLine(), *bars],
            plugins=[WholeFiles()],
            enable_progress_bar=sys.stderr.isatty(),
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except MisconfigurationException as error:
        raise ValueError(f"{MISCONFIGURED}: {error}") from error
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):  # its processes would have the same data
        raise ValueError(
            "--trainer.strategy: expected processes that start by themselves (ddp), found spawned or forked ones"
        )
    return trainer


def _checkpoints(output: Path, steps: int) -> list[Callback]:
    """Keep one checkpoint to go on from, renewed after every epoch and, in long epochs, every `steps` steps."""
    last = partial(AfterSteps, output, Path(LAST_CHECKPOINT).stem, enable_version_counter=False)
    return [last(every_n_epochs=1, save_on_train_epoch_end=True), last(every_n_train_steps=steps)]


def _on_gpu(args: Namespace) -> bool:
    return torch.cuda.is_available() and args.trainer.accelerator in {"auto", "gpu", "cuda"}


def _learnable(cuts: CutSet, model: Recognizer) -> CutSet:
    """Leave out what CTC cannot align as it was recorded; say so. Where it is made faster, its loss may be none."""
    samples = torch.tensor([round(cut.duration * SAMPLE_RATE) for cut in cuts])
    frames = model.encoder.subsampling.lengths(frame_count(samples)).tolist()
    left_out = {cut.id for cut, n in zip(cuts, frames, strict=True) if too_fast(cut, model.tokenizer, n)}
    if len(left_out) == len(cuts):
        raise ValueError("every training utterance has more tokens than the encoder has frames: are the texts right?")
    if left_out:
        examples = ", ".join(sorted(left_out)[:3])
        print(
            f"left out {len(left_out)} of {len(cuts)} utterances, too fast for their text ({examples}, ...)", flush=True
        )
    return CutSet.from_cuts(cut for cut in cuts if cut.id not in left_out)
