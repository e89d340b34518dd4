"""Measures a model on the development sets of `alphanum-en`, at full context and at each latency, with all its seeds.

Writes everything that the model card says as JSON.

example: python recipes/alphanum_en/evaluate.py runs/alphanum_en --corpora-dir ~/corpora --json results.json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prepare import add_folders, prepare

from sru_asr.cli import run

if TYPE_CHECKING:
    from sru_asr.model import Recognizer

LATENCIES_MS = (640, 320, 160)
# Every split of a latency into chunk and lookahead that leaves room for either, where --splits asks for it.
SETS = {"an4": "dev", "fsdd": "dev", "alphanum": "test"}


def measure(model: "Recognizer", manifests: dict[str, Path], windows: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Word errors on each set through each window.

    Args:
        model: In evaluation mode.
        manifests: By name of the set.
        windows: Chunk and lookahead in frames; (0, 0) for full context.

    Returns:
        For each set and window: `set`, `chunk`, `lookahead`, the counts of words, and those of each speaker.
    """
    from sru_asr.evaluation import evaluate
    from sru_asr.manifest import load_manifest

    rows = []
    for name, path in manifests.items():
        cuts = load_manifest(path)
        for chunk, lookahead in windows:
            result = evaluate(model, cuts, chunk=chunk, lookahead=lookahead)
            rows.append(
                {
                    "set": name,
                    "split": SETS[name],
                    "utterances": len(result.results),
                    "chunk": chunk,
                    "lookahead": lookahead,
                    "words": result.words.to_dict(),
                    "speakers": {speaker: counts.to_dict() for speaker, counts in sorted(result.speakers.items())},
                }
            )
            words = result.words
            print(
                f"{name} {SETS[name]}  {chunk:2d} + {lookahead:2d} frames  WER {100 * words.rate:6.2f} %  "
                f"({words.hits}, {words.substitutions}, {words.deletions}, {words.insertions})",
                flush=True,
            )
    return rows


def windows_of(model: "Recognizer", splits: bool) -> list[tuple[int, int]]:
    """Full context and the window of each latency, or all windows of each."""
    from sru_asr.windows import window_of

    windows = [(0, 0)]
    for latency in LATENCIES_MS:
        chunk, lookahead = window_of(latency, model.frames_per_second)
        frames = chunk + lookahead
        if splits:
            shares = (0, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
            found = {round(share * frames) for share in shares}
            windows += [(frames - behind, behind) for behind in sorted(found) if behind < frames]
        else:
            windows.append((chunk, lookahead))
    return windows


def main() -> None:
    """Parses the command line, prepares, measures."""
    from sru_asr.model import load_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="output folders of train.py, one for each seed")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="default: all")
    parser.add_argument("--splits", action="store_true", help="try every split of each latency")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    add_folders(parser)
    arguments = parser.parse_args()
    corpora = prepare(arguments.corpora_dir, arguments.prepared_dir, arguments.download_dir)
    manifests = {name: corpora[name][SETS[name]] for name in arguments.sets}
    results = []
    for path in arguments.models:
        model = load_model(path)
        print(path)
        rows = measure(model, manifests, windows_of(model, arguments.splits))
        results.append({"model": path.name, "training": model.training_data, "rows": rows})
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(run(main))
