"""Averages the weights of models whose trainings began with one another, or with the same model.

The mean is often better than each on what all were trained for (Wortsman et al. 2022, arXiv:2203.05482 and
arXiv:2109.01903), and not always (docs/log.md).

example: python recipes/alphanum_en/average.py runs/first runs/second --output-dir runs/mean
"""

import argparse
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from sru_asr.script import run

Settings = dict[str, Any]


def averaged(models: list[tuple[Path, Settings]]) -> Settings:
    """The settings of a mean: those of the last model's training, and in `averaged` what the others are.

    Args:
        models: Where each is, and the settings of its training.

    Returns:
        With `averaged`: for each but the last the settings of its trainings after the model that all have begun with,
        none where it is that model itself.

    Raises:
        ValueError: They have not begun with one model, or the last is a mean itself.
    """
    if "averaged" in models[-1][1]:  # which would be forgotten
        raise ValueError(
            f"{models[-1][0]} is a mean itself: name what it is the mean of, as often as it counts, or name it "
            "before a model that began with it"
        )
    lineages = [list(_lineage(settings)) for _, settings in models]
    common = next((one for one in lineages[-1] if all(one in lineage for lineage in lineages)), None)
    if common is None:
        raise ValueError(
            f"{' and '.join(str(path) for path, _ in models)} did not begin with one another or with the same model, "
            "as their settings say: no mean of them"
        )
    others = [
        [{key: one[key] for key in one if key != "init_from"} for one in takewhile(lambda one: one != common, lineage)]
        for lineage in lineages[:-1]
    ]
    return {**models[-1][1], "averaged": [since[::-1] for since in others]}


def _lineage(settings: Settings) -> Iterator[Settings]:
    """The settings of a training, of the one that it began with, and so on."""
    following: Any = settings
    while isinstance(following, dict) and following:
        yield following
        earlier = following.get("init_from")
        following = earlier.get("settings") if isinstance(earlier, dict) else None


def main() -> None:
    """Parses the command line, averages, writes."""
    import torch

    from sru_asr.model import CHECKPOINT_NAME, load_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="output folders of train.py, two or more")
    parser.add_argument("--output-dir", type=Path, required=True, help="where the mean goes")
    arguments = parser.parse_args()
    if len(arguments.models) < 2:
        parser.error("expected two models or more")
    models = [load_model(path) for path in arguments.models]
    *others, mean = models
    settings = [model.training_data.get("settings") or {} for model in models]
    of_mean = averaged(list(zip(arguments.models, settings, strict=True)))
    for path, other in zip(arguments.models, others, strict=False):
        if other.config != mean.config or other.tokenizer.to_dict() != mean.tokenizer.to_dict():
            raise ValueError(
                f"{arguments.models[-1]} has another architecture or vocabulary than {path} (--new-tokenizer gives "
                "another one): a mean of their weights means nothing"
            )
        if other.delay != mean.delay:
            raise ValueError(
                f"{path} emits tokens {other.delay} frames late, {arguments.models[-1]} {mean.delay}: a mean of their "
                "weights means nothing"
            )
    with torch.no_grad():
        for weights in zip(*(model.parameters() for model in (mean, *others)), strict=True):
            weights[0].copy_(torch.stack(weights).mean(0))
    mean.training_data = {**mean.training_data, "recipe": arguments.output_dir.name, "settings": of_mean}
    mean.training_data.pop("dev", None)  # which was that of the last model
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    mean.save(arguments.output_dir / CHECKPOINT_NAME)
    print(f"written to {arguments.output_dir / CHECKPOINT_NAME}")


if __name__ == "__main__":
    run(main)
