"""Averages the weights of a model and of the one that its training began with.

The mean of the two is often better than either on what both were trained for (Wortsman et al. 2022, arXiv:2109.01903),
and not always (docs/log.md).

example: python recipes/alphanum_en/average.py runs/first runs/second --output-dir runs/alphanum_en
"""

import argparse
from pathlib import Path
from typing import Any

from sru_asr.script import run


def main() -> None:
    """Parses the command line, averages, writes."""
    import torch

    from sru_asr.model import CHECKPOINT_NAME, load_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="output folder of the first training")
    parser.add_argument("second", type=Path, help="of the one that began with it, by --init-from")
    parser.add_argument("--output-dir", type=Path, required=True, help="where the mean goes")
    arguments = parser.parse_args()
    first, second = (load_model(path) for path in (arguments.first, arguments.second))
    settings: dict[str, Any] = second.training_data.get("settings") or {}
    began_with = settings.get("init_from")
    if not isinstance(began_with, dict) or began_with.get("settings") != first.training_data.get("settings"):
        raise ValueError(
            f"{arguments.second} did not begin with {arguments.first}, as its settings say: no mean of them"
        )
    if first.config != second.config or first.tokenizer.to_dict() != second.tokenizer.to_dict():
        raise ValueError(
            f"{arguments.second} has another architecture or vocabulary than {arguments.first} (--new-tokenizer gives "
            "another one): a mean of their weights means nothing"
        )
    if first.delay != second.delay:
        raise ValueError(
            f"{arguments.first} emits tokens {first.delay} frames late, {arguments.second} {second.delay}: no mean of "
            "their weights means anything"
        )
    with torch.no_grad():
        for mean, other in zip(second.parameters(), first.parameters(), strict=True):
            mean.lerp_(other.to(mean), 0.5)
    second.training_data = {**second.training_data, "settings": {**settings, "averaged": True}}
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    second.save(arguments.output_dir / CHECKPOINT_NAME)
    print(f"written to {arguments.output_dir / CHECKPOINT_NAME}")


if __name__ == "__main__":
    run(main)
