"""Puts a trained model into the package, in half precision, with its card.

The first model given is the one that ships; the others, of other seeds, show how far results depend on the seed.

example: python recipes/alphanum_en/ship.py runs/alphanum_en runs/seed1 runs/seed2 --corpora-dir ~/corpora
"""

import argparse
import json
import shlex
import shutil
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import mean
from string import Template
from tempfile import TemporaryDirectory
from typing import Any

from evaluate import SETS, manifests_of, measure
from prepare import ROOT, add_folders

sys.path.append(str(ROOT / "benchmarks"))
from context import context

from sru_asr.script import run
from sru_asr.whole import whole

MOST_BYTES = 8_000_000
CARD = Path(__file__).with_name("card.md")
# Speakers by the beginning of their names: AN4 has f and m, the voices of data/alphanum an accent as well.
GROUPS = {
    "an4": {"f": "women", "m": "men"},
    "fsdd": {"nicolas": "nicolas", "yweweler": "yweweler"},
    "alphanum": {"af": "American women", "am": "American men", "b": "British women and men"},
}
NAMES = {"an4": "AN4", "an4_row": "AN4 in a row", "fsdd": "FSDD", "alphanum": "data/alphanum"}


def latency_table(results: list[dict[str, Any]]) -> list[str]:
    """WER by set and latency of the shipped model and, where there are several, mean and range over the seeds."""
    lines = [
        "| set | latency (chunk + lookahead, frames) | words | S, D, I | WER | seeds: mean (lowest to highest) |",
        "|---|---|---|---|---|---|",
    ]
    for rows in zip(*(result["rows"] for result in results), strict=True):
        row, words = rows[0], rows[0]["words"]
        rates = [100 * other["words"]["rate"] for other in rows]
        seeds = f"{mean(rates):.2f} % ({min(rates):.2f} to {max(rates):.2f})" if len(rates) > 1 else "one seed only"
        latency = "full context"
        if row["chunk"]:
            latency = f"{row['latency_ms']:.0f} ms ({row['chunk']} + {row['lookahead']})"
        errors = f"{words['substitutions']}, {words['deletions']}, {words['insertions']}"
        name = f"{NAMES[row['set']]}, {row['split']}"
        lines.append(f"| {name} | {latency} | {words['reference']} | {errors} | {rates[0]:.2f} % | {seeds} |")
    return lines


def group_table(rows: list[dict[str, Any]]) -> list[str]:
    """WER of groups of speakers at full context."""
    lines = ["| set | speakers | words | WER |", "|---|---|---|---|"]
    for row in rows:
        if row["chunk"] or row["set"] not in GROUPS:
            continue
        for prefix, group in GROUPS[row["set"]].items():
            members = [counts for name, counts in row["speakers"].items() if name.startswith(prefix)]
            words, errors = (sum(counts[key] for counts in members) for key in ("reference", "errors"))
            if not words:
                raise ValueError(f"{row['set']}: expected speakers whose names begin with {prefix}, found none")
            lines.append(f"| {NAMES[row['set']]} | {group}, {len(members)} | {words} | {100 * errors / words:.2f} % |")
    return lines


def card(results: list[dict[str, Any]], parameters: int, size: int, late_ms: float) -> str:
    """The model card, from `card.md`."""
    settings, silence = results[0]["training"]["settings"], results[0]["without_speech"]
    return Template(CARD.read_text()).substitute(
        parameters=f"{parameters / 1e6:.1f}",
        megabytes=f"{size / 1e6:.1f}",
        layers=settings["model"]["num_layers"],
        trainings=trainings(settings),
        seed=settings["seed"],
        seeds=", ".join(str(result["training"]["settings"]["seed"]) for result in results),
        date=results[0]["date"][:10],
        commit=results[0]["commit"],
        latencies="\n".join(latency_table(results)),
        groups="\n".join(group_table(results[0]["rows"])),
        levels="\n".join(level_table(results[0])),
        telephone="\n".join(telephone_table(results[0])),
        noises=silence["utterances"],
        not_empty=silence["not_empty"],
        late=f"{late_ms:.0f}",
    )


def level_table(result: dict[str, Any]) -> list[str]:
    """WER of each set at full context, at each level."""
    rates: dict[str, dict[int, float]] = {}
    for row in result["levels"]:
        rates.setdefault(row["set"], {})[row["gain_db"]] = 100 * row["words"]["rate"]
    for row in result["rows"]:
        if row["set"] in rates and not row["chunk"]:
            rates[row["set"]][0] = 100 * row["words"]["rate"]
    gains = sorted(next(iter(rates.values())))
    lines = [f"| set | {' | '.join(f'{gain:+d} dB' if gain else 'as recorded' for gain in gains)} |"]
    lines.append("|---" * (len(gains) + 1) + "|")
    for name, of_set in rates.items():
        lines.append(f"| {NAMES[name]} | {' | '.join(f'{of_set[gain]:.2f} %' for gain in gains)} |")
    return lines


def telephone_table(result: dict[str, Any]) -> list[str]:
    """WER of each set at full context with 8 kHz sampled, and as it was recorded."""
    recorded = {row["set"]: row["words"]["rate"] for row in result["rows"] if not row["chunk"]}
    lines = ["| set | 8 kHz | as recorded |", "|---|---|---|"]
    for row in result["telephone"]:
        rate, whole = (f"{100 * rate:.2f} %" for rate in (row["words"]["rate"], recorded[row["set"]]))
        lines.append(f"| {NAMES[row['set']]}, {row['split']} | {rate} | {whole} |")
    return lines


def trainings(settings: dict[str, Any]) -> str:
    """How many epochs, in one training after another where each began with the weights of the one before."""
    chain = [settings]
    while earlier := chain[0].get("init_from"):
        if not isinstance(earlier, dict) or not isinstance(earlier.get("settings"), dict):
            raise ValueError(f"the model began with {earlier}, which does not say how it was trained itself")
        chain.insert(0, earlier["settings"])
    everything = [*chain, *(one for training in chain for since in _branches(training) for one in since)]
    if lacking := [key for key in ("data_sets", "max_epochs") for one in everything if key not in one]:
        raise ValueError(f"the model does not say all of how it was trained: expected {', '.join(lacking)}")
    trained_on = {name.partition("/")[0] for one in everything for name in one["data_sets"]["train"]}
    if others := trained_on - set(SETS):
        raise ValueError(f"the model was trained on {', '.join(sorted(others))}, too, which the card does not say")
    stopped = [f"{one['stopped_after']} of " if "stopped_after" in one else "" for one in chain]
    epochs = ", ".join(f"{when}{one['max_epochs']}" for when, one in zip(stopped, chain, strict=True))
    if len(chain) == 1:
        return f"{epochs} epochs, no pre-trained weights"
    means = "".join(
        f"; training {number} gave the mean of its weights and {_averaged(_branches(one))} (`average.py`)"
        for number, one in enumerate(chain, 1)
        if one.get("averaged")
    )
    return f"{len(chain)} trainings ({epochs} epochs), the first from nothing, each other from the one before{means}"


def _branches(settings: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The trainings of the models that a training's weights were averaged with; none of those that it began with."""
    others = settings.get("averaged") or []
    return [[]] if others is True else others  # before there could be several


def _averaged(others: list[list[dict[str, Any]]]) -> str:
    """What a training's weights were averaged with."""
    parts = Counter(
        f"those of another start from there ({', '.join(str(one['max_epochs']) for one in since)} epochs)"
        if since
        else "those that it began with"
        for since in others
    )
    return " and ".join(part if times == 1 else f"{part} ({times} times)" for part, times in parts.items())


def check_settings(models: list[Path]) -> None:
    """Refuses models that differ in more than their seed.

    Raises:
        ValueError: They do, or do not say how they were trained.
    """
    from sru_asr.model import load_model

    def without_seed(settings: dict[str, Any]) -> dict[str, Any]:
        others = {key: value for key, value in settings.items() if key != "seed"}
        if earlier := settings.get("init_from"):
            others["init_from"] = without_seed(earlier["settings"])
        if settings.get("averaged"):
            others["averaged"] = [[without_seed(one) for one in since] for since in _branches(settings)]
        return others

    first: dict[str, Any] = {}
    for path in models:
        settings = load_model(path).training_data.get("settings")
        if not isinstance(settings, dict) or not {"seed", "model"} <= settings.keys():
            raise ValueError(
                f"{path} does not say how it was trained: expected a model of recipes/alphanum_en/train.py"
            )
        trainings(settings)
        others = without_seed(settings)
        first = first or others
        if different := [key for key in {**first, **others} if first.get(key) != others.get(key)]:
            raise ValueError(
                f"{path} was trained with other {', '.join(different)} than {models[0]}: give other seeds of it"
            )


def main() -> None:
    """Parses the command line, measures a half-precision copy and the other seeds, puts copy and card into place."""
    import torch

    from sru_asr.model import CHECKPOINT_NAME, SHIPPED, load_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="output folders of train.py")
    parser.add_argument("--output-dir", type=Path, default=SHIPPED, help="default: %(default)s")
    add_folders(parser)
    arguments = parser.parse_args()
    check_settings(arguments.models)
    manifests = manifests_of(arguments)
    with TemporaryDirectory() as folder:  # the package changes when all is done, or not at all
        copy = Path(folder) / CHECKPOINT_NAME
        model = load_model(arguments.models[0])
        model.save(copy, torch.float16)
        size = copy.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"the copy has {size} bytes, expected at most {MOST_BYTES}: train a smaller model")
        # Without the paths of this machine, for results.json is part of the package.
        about = context() | {"command": shlex.join(["python", "ship.py", *(path.name for path in arguments.models)])}
        results = [about | measure(path, manifests) for path in (copy, *arguments.models[1:])]
        parameters = sum(parameter.numel() for parameter in model.parameters())
        (Path(folder) / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        late_ms = 1000 * model.delay / model.frames_per_second
        (Path(folder) / "README.md").write_text(card(results, parameters, size, late_ms))
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:  # puts them into place when it ends
            for path in Path(folder).iterdir():
                shutil.copyfile(path, stack.enter_context(whole(arguments.output_dir / path.name)))
    print(f"written to {arguments.output_dir}: model ({size / 1e6:.1f} MB), results.json, README.md")


if __name__ == "__main__":
    sys.exit(run(main))
