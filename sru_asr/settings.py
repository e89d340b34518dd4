"""What a training is told: its options, and the record of them that a run's folder keeps."""

from __future__ import annotations

import json
import math
import os
import re
from argparse import RawDescriptionHelpFormatter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from sru_asr.augment import AugmentConfig
from sru_asr.checkpoint import LAST_CHECKPOINT
from sru_asr.features import SpecAugment
from sru_asr.model import ModelConfig, Recognizer, folder_of
from sru_asr.task import LossConfig, OptimizerConfig
from sru_asr.warp import Warp
from sru_asr.whole import whole

SETTINGS = "settings.json"
# Defaults for `training_parser` that won on a few hours of speech (docs/log.md). Each batch is seen twice, once
# through windows, as a live recogniser would see it.
FEW_HOURS: dict[str, Any] = {
    "augment__channel": 0.9,
    "augment__channel_db": 10.0,
    "augment__join": 0.4,
    "data__max_batch_seconds": 30.0,
    "data__speeds": [0.85, 1.0, 1.15],
    "loss__consistency": 0.2,
    "loss__windowed": 1.0,
    "model__floor": 1e-10,
}
_TRAINER_ARGUMENTS_OF_OURS = {
    *("logger", "callbacks", "default_root_dir", "enable_checkpointing", "use_distributed_sampler", "plugins"),
    *("enable_progress_bar", "enable_model_summary", "model_registry"),
    "overfit_batches",  # Lightning would replace our batches
    "fast_dev_run",  # it would leave a model, as if that were trained; --trainer.limit_train_batches says what it is
}


@dataclass(frozen=True)
class DataConfig:
    """How utterances become batches.

    Attributes:
        max_batch_seconds: audio in a batch, padding included; where `augment.join` puts utterances together, the pauses
            between them and what is padded then come on top, of a batch up to as much again.
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
        "--restart", action="store_true", help="discard the checkpoint in --output-dir instead of going on from it"
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


def settle(args: Namespace, manifests: dict[str, list[Path]], output: Path, given: Recognizer | None) -> dict[str, Any]:
    """The run's settings, which are those of the run that `output` holds if it goes on.

    Args:
        args: of `training_parser`, parsed.
        manifests: by split.
        output: the run's folder.
        given: what it starts from.

    Raises:
        ValueError: the folder holds a run with other settings, or its settings cannot be read.
    """
    wanted = json.loads(
        json.dumps(
            {
                "seed": args.seed,
                "data_sets": {split: [name_of(path) for path in manifests[split]] for split in ("train", "dev")},
                # With the settings of its own training, which have those of the one before, and so on.
                "init_from": None
                if given is None
                else {"name": folder_of(args.init_from), "settings": given.training_data.get("settings")},
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
                # (Where it is said: earlier runs have no word of it.)
                **({"gradient_clip_algorithm": clipped} if (clipped := args.trainer.gradient_clip_algorithm) else {}),
            },
            default=list,
        )
    )
    path = output / SETTINGS
    if has_begun(args, output) and path.is_file():
        try:
            found = dict(json.loads(path.read_text()))
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({error}): it says what the run in {LAST_CHECKPOINT} was. Delete it, if you know "
                "that this command is that run's, or --restart discards the run."
            ) from error
        if found != wanted:
            different = [
                f"{key}: {_difference(found.get(key), wanted.get(key))}"
                for key in dict.fromkeys((*wanted, *found))
                if found.get(key) != wanted.get(key)
            ]
            raise ValueError(
                f"{output} holds a run with other settings ({'; '.join(different)}). "
                "Give those settings to go on with it; another --output-dir, with --init-from to train longer; "
                "or --restart to discard it."
            )
    return wanted


def _difference(there: Any, now: Any) -> str:
    """Two settings; of models that training begins with the names, without all that they were trained by, and with."""
    shown = [
        str(value["name"]) if isinstance(value, dict) and "name" in value else str(value)[:200]
        for value in (there, now)
    ]
    return f"{shown[0]} there, {'another ' if shown[0] == shown[1] else ''}{shown[1]} now"


def has_begun(args: Namespace, output: Path) -> bool:
    """Whether a folder holds a run that goes on."""
    # torchrun starts its processes again where one has failed, with the same options.
    discards = args.restart and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    return not discards and (output / LAST_CHECKPOINT).is_file()


def begin(output: Path, settings: dict[str, Any], goes_on: bool) -> None:
    """Make a folder that of a run: discard the checkpoint of another one, and write down the settings."""
    path = output / SETTINGS
    if not goes_on:
        (output / LAST_CHECKPOINT).unlink(missing_ok=True)
    with whole(path) as part:
        part.write_text(json.dumps(settings, indent=1))


def name_of(manifest: Path) -> str:
    """Folder and file: what a checkpoint may say of a manifest without saying where somebody keeps it."""
    manifest = manifest.resolve()
    return f"{manifest.parent.name}/{manifest.name}"
