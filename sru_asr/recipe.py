"""What every recipe shares: its options, and training from manifests to a checkpoint with a measured WER."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import sys
import time
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from filelock import FileLock
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
from lhotse import CutSet
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from sru_asr.augment import AugmentConfig
from sru_asr.average import WeightAverage
from sru_asr.checkpoint import AfterSteps, WholeFiles, describe_run, read_position
from sru_asr.data import BatchSampler, make_loader
from sru_asr.evaluation import Evaluation, evaluate
from sru_asr.features import FeatureStatistics, SpecAugment, frame_count
from sru_asr.manifest import digest, load_manifest, too_fast, validate
from sru_asr.memory import keep_freed_memory
from sru_asr.model import CHECKPOINT_NAME, ModelConfig, Recognizer, load_model
from sru_asr.task import LossConfig, OptimizerConfig, SpeechTask
from sru_asr.text import CharTokenizer, SentencePieceTokenizer, Tokenizer, normalize
from sru_asr.warp import Warp

LAST_CHECKPOINT = "last.ckpt"
SETTINGS = "settings.json"
# Utterances from which feature statistics are taken, evenly spaced through the training set.
STATISTICS_UTTERANCES = 500
_TRAINER_ARGUMENTS_OF_OURS = {
    *("logger", "callbacks", "default_root_dir", "enable_checkpointing", "use_distributed_sampler", "plugins"),
    *("enable_progress_bar", "enable_model_summary", "model_registry"),
}


@dataclass(frozen=True)
class DataConfig:
    """How utterances become batches.

    Attributes:
        max_batch_seconds: audio in a batch, padding included.
        max_seconds: longest utterance accepted.
        min_seconds: shortest.
        speeds: factors of speed perturbation.
        workers: processes that load audio; if negative, two for each GPU, and none where the CPU trains: it has all its
            cores busy, and they wait for each other at every step.
        vocab_size: of a sentencepiece tokenizer trained on the training transcripts; 0 for characters.
    """

    max_batch_seconds: float = 60.0
    max_seconds: float = 40.0
    min_seconds: float = 0.1
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    workers: int = -1
    vocab_size: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.max_batch_seconds < math.inf:
            raise ValueError(f"data max_batch_seconds must be above 0, found {self.max_batch_seconds}")
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ValueError(
                "data min_seconds must be at least 0 and below max_seconds, "
                f"found {self.min_seconds} and {self.max_seconds}"
            )
        if not self.speeds or not all(0.1 <= speed <= 10 for speed in self.speeds):
            raise ValueError(
                f"data speeds must be factors from 0.1 to 10, found {list(self.speeds)}; [1.0] leaves audio as it is"
            )
        if self.vocab_size < 0:
            raise ValueError(
                f"data vocab_size must be a number of tokens, or 0 for characters, found {self.vocab_size}"
            )


class _Help(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Examples keep their lines."""


def training_parser(name: str, description: str | None, **defaults: Any) -> ArgumentParser:
    """The options of a recipe's train.py; the recipe adds its own, such as --corpus-dir.

    Args:
        name: of the recipe; its output goes to `runs/<name>` unless told otherwise.
        description: for the help text.
        defaults: what the recipe sets differently, with `__` for dots: `trainer__max_epochs=60`.
    """
    parser = ArgumentParser(
        prog=f"recipes/{name}/train.py",
        description=description,
        usage="%(prog)s [options]; --help lists them",  # or each mistake would be answered with all two hundred
        formatter_class=_Help,
    )
    parser.add_argument("--config", action="config", help="YAML file of options; flags behind it override it")
    parser.add_argument("--output-dir", type=Path, default=Path("runs") / name, help="checkpoints, logs, results")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--init-from", type=Path, help="start from the weights of this model, and keep its tokenizer")
    parser.add_argument(
        "--new-tokenizer",
        action="store_true",
        help="with --init-from: keep the encoder alone; tokenizer and head are made anew for these transcripts",
    )
    parser.add_argument(
        "--also",
        type=Path,
        nargs="+",
        default=[],
        metavar="MANIFEST",
        help="train on these, too: manifests that another recipe's prepare.py has written",
    )
    parser.add_argument("--checkpoint-steps", type=int, default=1000, help="save this often within an epoch, too")
    parser.add_argument(
        "--restart", action="store_true", help="discard what --output-dir holds instead of going on from it"
    )
    parser.add_class_arguments(ModelConfig, "model")
    parser.add_class_arguments(OptimizerConfig, "optimizer")
    parser.add_class_arguments(LossConfig, "loss")
    parser.add_class_arguments(AugmentConfig, "augment")
    parser.add_class_arguments(SpecAugment, "masks", instantiate=False)
    parser.add_class_arguments(Warp, "warp", instantiate=False)
    parser.add_class_arguments(DataConfig, "data")
    parser.add_class_arguments(
        pl.Trainer,
        "trainer",
        instantiate=False,
        skip=_TRAINER_ARGUMENTS_OF_OURS,
    )
    for action in parser._actions:  # Lightning's docstrings are written for Sphinx
        if action.dest.startswith("trainer.") and action.help:
            action.help = re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`|`{1,2}(.+?)`{1,2}", r"\1\2", action.help)
    parser.set_defaults({"trainer.max_epochs": 50, "trainer.gradient_clip_val": 5.0, "trainer.log_every_n_steps": 10})
    parser.set_defaults({key.replace("__", "."): value for key, value in defaults.items()})
    return parser


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
    if args.loss.delay and (args.init_from is None or args.new_tokenizer):
        raise ValueError(
            f"--loss.delay {args.loss.delay} is by how much tokens come later than from the model of --init-from: "
            "expected that one, and none of --new-tokenizer"
        )
    for path in args.also:
        if not path.is_file():
            raise ValueError(f"--also: there is no manifest {path}; a recipe's prepare.py writes them")
    model = None if args.init_from is None else _given_model(args, parser.get_defaults())
    config = ModelConfig(**args.model.as_dict())
    optimizer = OptimizerConfig(**args.optimizer.as_dict())
    loss = LossConfig(**args.loss.as_dict())
    augment = AugmentConfig(**args.augment.as_dict())
    masks = SpecAugment(**args.masks.as_dict())
    warp = Warp(**args.warp.as_dict())
    data = DataConfig(**args.data.as_dict())
    output: Path = args.output_dir
    output.mkdir(parents=True, exist_ok=True)
    _quieten()
    keep_freed_memory()
    with FileLock(output / ".prepare.lock"):  # ranks of one machine prepare one after another
        manifests = prepare(args)
        manifests["train"] = [*manifests["train"], *args.also]
        settings = _settle(args, manifests, output, model)
    train_cuts, dev_cuts = (
        CutSet.from_cuts(cut for path in manifests[split] for cut in load_manifest(path)) for split in ("train", "dev")
    )
    if shared := {cut.id for cut in train_cuts} & {cut.id for cut in dev_cuts}:
        raise ValueError(
            f"expected no id in both training and development set, found {len(shared)} ({min(shared)}, ...): "
            "trained on, it would measure nothing; leave those utterances out, or give others ids of their own"
        )
    pl.seed_everything(args.seed, verbose=False)
    if model is None or args.new_tokenizer:
        model = _new_model(config, data, train_cuts, model)
    for cuts in (train_cuts, dev_cuts):
        validate(cuts, model.tokenizer, max_seconds=data.max_seconds, min_seconds=data.min_seconds)
    train_cuts = _learnable(train_cuts, model, max(data.speeds) * warp.tempo)
    last = output / LAST_CHECKPOINT
    teacher = load_model(args.init_from) if loss.delay else None
    model.delay += loss.delay
    task = SpeechTask(model, optimizer, loss, masks, warp, args.seed, teacher)
    average = WeightAverage(optimizer.average)
    trainer = pl.Trainer(
        **args.trainer.as_dict(),
        default_root_dir=output,
        logger=TensorBoardLogger(output, name="", version="tensorboard"),
        callbacks=[
            *([average] if optimizer.average else []),
            *_checkpoints(output, args.checkpoint_steps),
            EpochLine(),
            StopsAtOnce(last),
            # Showing a loss means to wait for the GPU that computes it.
            *([TQDMProgressBar(20 if _on_gpu(args) else 1, leave=False)] if sys.stderr.isatty() else []),
        ],
        plugins=[WholeFiles()],
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
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
    if last.is_file():
        epoch, batches = read_position(last, task.run)
        assert isinstance(train_loader.sampler, BatchSampler)
        train_loader.sampler.skip(epoch, batches // trainer.world_size)
        if trainer.is_global_zero:
            print(f"going on from {last} (epoch {epoch + 1}, batch {batches})", flush=True)
    elif trainer.is_global_zero:
        hours = sum(cut.duration for cut in train_cuts) / 3600
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(
            f"training {parameters / 1e6:.1f} M parameters on {len(train_cuts)} utterances, {hours:.2f} h, "
            f"{len(train_loader)} batches an epoch; developing on {len(dev_cuts)} utterances",
            flush=True,
        )
    try:
        trainer.fit(task, train_loader, dev_loader, ckpt_path=last if last.is_file() else None, weights_only=True)
    except SystemExit as stop:  # what Lightning makes of Ctrl-C and SIGTERM
        if not trainer.interrupted:
            raise
        _say_how_it_goes_on(last)
        raise SystemExit(128 + (signal.SIGTERM if isinstance(stop, SIGTERMException) else signal.SIGINT)) from None
    if optimizer.average:
        average.write_to(task)
    if not trainer.is_global_zero:
        return None
    return _report(model, dev_cuts, manifests, output, settings)


def _report(
    model: Recognizer, dev_cuts: CutSet, manifests: dict[str, list[Path]], output: Path, settings: dict[str, Any]
) -> Evaluation:
    model = model.cpu().eval()
    evaluation = evaluate(model, dev_cuts)
    counts = evaluation.words
    model.training_data = {
        "recipe": output.name,
        "settings": settings,
        "manifests": {split: [_name(path) for path in manifests[split]] for split in ("train", "dev")},
        "dev": {"utterances": len(evaluation.results), "words": counts.to_dict()},
    }
    model.save(output / CHECKPOINT_NAME)
    (output / "dev.json").write_text(json.dumps(evaluation.to_dict(), indent=1))
    print(f"development set, greedy, no language model:\n{evaluation.summary()}")
    print(f"model: {output / CHECKPOINT_NAME}")
    print(f"transcribe with it: sru-asr transcribe --model {output} AUDIO...", flush=True)
    return evaluation


def _say_how_it_goes_on(last: Path) -> None:
    goes_on = f"goes on from {last}" if last.is_file() else "starts again, as no epoch was finished"
    print(f"stopped; the same command {goes_on}", flush=True)


class StopsAtOnce(Callback):
    """Ends each of several processes as soon as it gets a SIGTERM; checkpoints are never half written.

    Lightning would exchange a message with the other processes from within the signal handler. That meets the messages
    of the training step that it interrupts, and both sides wait for ever.
    """

    def __init__(self, last: Path) -> None:
        self.last = last

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signal over from Lightning, which sets its handlers before this, and restores them after it."""
        if trainer.world_size == 1:
            return

        def stop(signum: int, _: object) -> None:
            if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
                trainer.strategy.launcher.kill(signum)
            if trainer.is_global_zero:
                _say_how_it_goes_on(self.last)
            os._exit(128 + signum)

        signal.signal(signal.SIGTERM, stop)


class EpochLine(Callback):
    """One line per epoch: what one reads where no progress bar can be shown, and keeps where one can."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.first_epoch = 0

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.start = time.monotonic()
        self.first_epoch = trainer.current_epoch

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line."""
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs
        metrics = trainer.callback_metrics
        elapsed = time.monotonic() - self.start
        line = f"epoch {epoch}" + (f"/{epochs}" if epochs and epochs > 0 else "")
        if "train_loss" in metrics:
            line += f"  train loss {float(metrics['train_loss_epoch']):.3f}"
        # What is not measured in every epoch is still there from an earlier one.
        if "val_wer" in metrics and epoch % (trainer.check_val_every_n_epoch or 1) == 0:
            line += f"  dev loss {float(metrics['val_loss']):.3f}  dev WER {100 * float(metrics['val_wer']):.2f} %"
        line += f"  {elapsed:.0f} s"
        if epochs and epochs > epoch:
            line += f", {elapsed / (epoch - self.first_epoch) * (epochs - epoch):.0f} s to go"
        print(line, flush=True)


def _checkpoints(output: Path, steps: int) -> list[Callback]:
    """Keep one checkpoint to go on from, renewed after every epoch and, in long epochs, every `steps` steps."""
    last = partial(AfterSteps, output, Path(LAST_CHECKPOINT).stem, enable_version_counter=False)
    return [last(every_n_epochs=1, save_on_train_epoch_end=True), last(every_n_train_steps=steps)]


def _settle(
    args: Namespace, manifests: dict[str, list[Path]], output: Path, given: Recognizer | None
) -> dict[str, Any]:
    """Write down and return the run's settings, or check that they are those of the run that `output` holds."""
    wanted = json.loads(
        json.dumps(
            {
                "seed": args.seed,
                "data_sets": {split: [_name(path) for path in manifests[split]] for split in ("train", "dev")},
                # With the settings of its own training, which have those of the one before, and so on.
                "init_from": None
                if given is None
                else {"name": _folder(args.init_from), "settings": given.training_data.get("settings")},
                "new_tokenizer": args.new_tokenizer,
                "model": args.model.as_dict(),
                "optimizer": args.optimizer.as_dict(),
                "loss": args.loss.as_dict(),
                "augment": args.augment.as_dict(),
                "masks": args.masks.as_dict(),
                "warp": args.warp.as_dict(),
                "data": {k: v for k, v in args.data.as_dict().items() if k != "workers"},
                "max_epochs": args.trainer.max_epochs,
                "max_steps": args.trainer.max_steps,
                "precision": args.trainer.precision,
                "gradient_clip_val": args.trainer.gradient_clip_val,
                "limit_train_batches": args.trainer.limit_train_batches,
            },
            default=list,
        )
    )
    path, last = output / SETTINGS, output / LAST_CHECKPOINT
    # No rank trains before all have been here. But torchrun starts them again where one has failed.
    if args.restart and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        last.unlink(missing_ok=True)
    if last.is_file() and path.is_file():
        try:
            found = dict(json.loads(path.read_text()))
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({error}): it says what the run in {LAST_CHECKPOINT} was. Delete it, if you know "
                "that this command is that run's, or --restart discards the run."
            ) from error
        if found != wanted:
            different = [
                f"{key}: {found.get(key)} there, {wanted[key]} now" for key in wanted if found.get(key) != wanted[key]
            ]
            raise ValueError(
                f"{output} holds a run with other settings ({'; '.join(different)}). "
                "Give those settings to go on with it, another --output-dir, or --restart to discard it."
            )
        return wanted
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(wanted, indent=1))
    part.replace(path)
    return wanted


def _name(manifest: Path) -> str:
    """Folder and file: what a checkpoint may say of a manifest without saying where somebody keeps it."""
    manifest = manifest.resolve()
    return f"{manifest.parent.name}/{manifest.name}"


def _folder(model: Path) -> str:
    """The name of a model: that of its folder, if it is given as the file in it, too."""
    model = model.resolve()
    return model.parent.name if model.name == CHECKPOINT_NAME else model.name


def _given_model(args: Namespace, defaults: Namespace) -> Recognizer:
    """Load what `--init-from` names, and have `args` say what it is; options that ask for another one are refused."""
    model = load_model(args.init_from)
    vocab_size = 0 if isinstance(model.tokenizer, CharTokenizer) else model.tokenizer.vocab_size
    found = {f"model.{name}": value for name, value in asdict(model.config).items()}
    if not args.new_tokenizer:
        found["data.vocab_size"] = vocab_size
    refused = [
        f"--{name} {args[name]} (it has {value})"
        for name, value in found.items()
        if args[name] not in (value, defaults[name])
    ]
    if refused:
        brought = "an architecture" if args.new_tokenizer else "architecture and tokenizer"
        raise ValueError(f"--init-from {args.init_from} brings {brought} of its own: leave out {', '.join(refused)}")
    for name, value in found.items():
        args[name] = value
    return model.train()


def _new_model(config: ModelConfig, data: DataConfig, train_cuts: CutSet, given: Recognizer | None) -> Recognizer:
    """A model with a tokenizer for these transcripts, which has the encoder of `given` where there is one."""
    tokenizer: Tokenizer = CharTokenizer()
    if data.vocab_size:
        texts = (normalize(cut.supervisions[0].text) for cut in train_cuts)
        tokenizer = SentencePieceTokenizer.train(texts, data.vocab_size)
    model = Recognizer(config, tokenizer)
    if given is None:
        _measure_features(model, train_cuts, data.max_batch_seconds)
    else:
        model.features.load_state_dict(given.features.state_dict())  # the encoder knows no others
        model.encoder.load_state_dict(given.encoder.state_dict())
    return model


def _on_gpu(args: Namespace) -> bool:
    return torch.cuda.is_available() and args.trainer.accelerator in {"auto", "gpu", "cuda"}


def _learnable(cuts: CutSet, model: Recognizer, fastest: float) -> CutSet:
    """Leave out what CTC cannot align; say so."""
    rate = model.frames_per_second / fastest
    left_out = {cut.id for cut in cuts if too_fast(cut, model.tokenizer, rate)}
    if len(left_out) == len(cuts):
        raise ValueError("every training utterance has more tokens than the encoder has frames: are the texts right?")
    if left_out:
        examples = ", ".join(sorted(left_out)[:3])
        print(
            f"left out {len(left_out)} of {len(cuts)} utterances, too fast for their text ({examples}, ...)", flush=True
        )
    return CutSet.from_cuts(cut for cut in cuts if cut.id not in left_out)


def _measure_features(model: Recognizer, cuts: CutSet, max_batch_seconds: float) -> None:
    """Take mean and deviation of the features from utterances spread over the training set."""
    every = max(len(cuts) // STATISTICS_UTTERANCES, 1)
    sample = CutSet.from_cuts(cut for i, cut in enumerate(cuts) if i % every == 0)
    statistics = FeatureStatistics(model.features.n_mels)
    for batch in make_loader(sample, None, max_seconds=max_batch_seconds, training=False):
        statistics.add(model.features.log_mel(batch.waveforms), frame_count(batch.lengths))
    statistics.write_to(model.features)


def _quieten() -> None:
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
