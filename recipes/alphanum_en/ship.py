"""Puts a trained model into the package, in half precision, with its card.

The first model given is the one that ships; the others, of other seeds, show how far results depend on the seed.

example: python recipes/alphanum_en/ship.py runs/alphanum_en runs/seed1 runs/seed2 --corpora-dir ~/corpora
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from string import Template
from typing import Any

from evaluate import manifests_of, measure
from prepare import add_folders

from sru_asr.cli import run

MOST_BYTES = 8_000_000
CARD = Path(__file__).with_name("card.md")
# Speakers by the beginning of their names: AN4 has f and m, the voices of data/alphanum an accent as well.
GROUPS = {
    "an4": {"f": "women", "m": "men"},
    "fsdd": {"nicolas": "nicolas", "yweweler": "yweweler"},
    "alphanum": {"af": "American women", "am": "American men", "b": "British women and men"},
}
NAMES = {"an4": "AN4", "fsdd": "FSDD", "alphanum": "data/alphanum"}


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
        if row["chunk"]:
            continue
        for prefix, group in GROUPS[row["set"]].items():
            members = [counts for name, counts in row["speakers"].items() if name.startswith(prefix)]
            words, errors = (sum(counts[key] for counts in members) for key in ("reference", "errors"))
            lines.append(f"| {NAMES[row['set']]} | {group}, {len(members)} | {words} | {100 * errors / words:.2f} % |")
    return lines


def card(results: list[dict[str, Any]], parameters: int, size: int) -> str:
    """The model card, from `card.md`."""
    training, silence = results[0]["training"], results[0]["without_speech"]
    return Template(CARD.read_text()).substitute(
        parameters=f"{parameters / 1e6:.1f}",
        megabytes=f"{size / 1e6:.1f}",
        epochs=training["epochs"],
        seed=training["seed"],
        seeds=", ".join(str(result["training"]["seed"]) for result in results),
        latencies="\n".join(latency_table(results)),
        groups="\n".join(group_table(results[0]["rows"])),
        noises=silence["utterances"],
        not_empty=silence["not_empty"],
    )


def main() -> None:
    """Parses the command line, prepares, writes the half-precision copy, measures it, writes its card."""
    import torch

    from sru_asr.model import CHECKPOINT_NAME, SHIPPED, load_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="output folders of train.py")
    parser.add_argument("--output-dir", type=Path, default=SHIPPED, help="default: %(default)s")
    add_folders(parser)
    arguments = parser.parse_args()
    output = arguments.output_dir / CHECKPOINT_NAME
    load_model(arguments.models[0]).save(output, torch.float16)
    size = output.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{output} has {size} bytes, expected at most {MOST_BYTES}: train a smaller model")
    manifests = manifests_of(arguments)
    # The copy is measured, not what it was made of.
    results = [measure(path, manifests) for path in (output, *arguments.models[1:])]
    (arguments.output_dir / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    parameters = sum(parameter.numel() for parameter in load_model(output).parameters())
    (arguments.output_dir / "README.md").write_text(card(results, parameters, size))
    print(f"written: {output} ({size / 1e6:.1f} MB), results.json, README.md")


if __name__ == "__main__":
    sys.exit(run(main))
