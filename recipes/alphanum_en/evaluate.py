"""Measures models on the development sets of `alphanum-en`: at each latency and level, by telephone, without speech.

example: python recipes/alphanum_en/evaluate.py runs/alphanum_en --corpora-dir ~/corpora --json results.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prepare import add_folders, prepare

from sru_asr.script import run
from sru_asr.whole import whole

if TYPE_CHECKING:
    from lhotse import CutSet

    from sru_asr.model import Recognizer

LATENCIES_MS = (640, 320, 160)
# None of their speakers is trained on. Of data/alphanum the test voices: there are two development voices only.
SETS = {"an4": "dev", "an4_row": "dev", "fsdd": "dev", "alphanum": "test"}
# What of a window may be lookahead, where the best split is looked for.
SHARES = (0, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
NOISES = 200
# How much louder than they were recorded; docs/log.md has the levels of the recordings.
LEVELS_DB = (-20, -10, 10, 20)
TELEPHONE_HERTZ = 8000  # what telephones sample; FSDD is recorded so


def measure(path: Path, manifests: dict[str, Path], splits: bool = False) -> dict[str, Any]:
    """All that is measured of a model.

    Args:
        path: Of the model.
        manifests: By name of the set.
        splits: Whether to try every split of each latency.

    Returns:
        `training`, what the model says of its own; `rows`, see `word_errors`; `levels`, `telephone` and
        `without_speech`.
    """
    from sru_asr.model import load_model

    print(path)
    model = load_model(path)
    return {
        "training": model.training_data,
        "rows": word_errors(model, manifests, windows_of(model, splits)),
        "levels": at_levels(model, manifests),
        "telephone": by_telephone(model, manifests),
        "without_speech": without_speech(model),
    }


def word_errors(
    model: "Recognizer", manifests: dict[str, Path], windows: Sequence[tuple[int, int]]
) -> list[dict[str, Any]]:
    """Word errors on each set through each window.

    Args:
        model: In evaluation mode.
        manifests: By name of the set.
        windows: Chunk and lookahead in frames; (0, 0) for full context.

    Returns:
        For each set and window: `set`, `split`, `utterances`, `latency_ms` (None for full context), `chunk`,
        `lookahead`, and the counts of `words` in all and by speaker.
    """
    from sru_asr.evaluation import evaluate
    from sru_asr.manifest import load_manifest

    rows = []
    for name, path in manifests.items():
        cuts = load_manifest(path)
        for chunk, lookahead in windows:
            result = evaluate(model, cuts, chunk=chunk, lookahead=lookahead)
            words = result.words
            rows.append(
                {
                    "set": name,
                    "split": SETS[name],
                    "utterances": len(result.results),
                    "latency_ms": 1000 * (chunk + lookahead) / model.frames_per_second if chunk else None,
                    "chunk": chunk,
                    "lookahead": lookahead,
                    "words": words.to_dict(),
                    "speakers": {speaker: counts.to_dict() for speaker, counts in sorted(result.speakers.items())},
                }
            )
            print(
                f"{name} {SETS[name]}  {chunk:2d} + {lookahead:2d} frames  WER {100 * words.rate:6.2f} %  "
                f"({words.hits}, {words.substitutions}, {words.deletions}, {words.insertions})",
                flush=True,
            )
    return rows


def at_levels(model: "Recognizer", manifests: dict[str, Path]) -> list[dict[str, Any]]:
    """Word errors at full context where everything is louder or quieter than it was recorded.

    Returns:
        For each set but the one in a row, and each of `LEVELS_DB`: `set`, `split`, `gain_db` and the counts of `words`.
    """
    from lhotse import CutSet

    from sru_asr.manifest import load_manifest

    rows = []
    for name in SETS:
        if name == "an4_row":
            continue
        cuts = load_manifest(manifests[name])
        for gain in LEVELS_DB:
            louder = CutSet.from_cuts(cut.perturb_volume(10 ** (gain / 20)) for cut in cuts)
            rows.append({**at_full_context(model, name, louder, f"{gain:+d} dB"), "gain_db": gain})
    return rows


def by_telephone(model: "Recognizer", manifests: dict[str, Path]) -> list[dict[str, Any]]:
    """Word errors at full context where of what was recorded at 16 kHz only 8 kHz are left.

    Returns:
        For each set but FSDD: `set`, `split`, `hertz` and the counts of `words`.
    """
    from lhotse import CutSet

    from sru_asr.manifest import load_manifest

    rows = []
    for name in SETS:
        if name == "fsdd":
            continue
        cuts = CutSet.from_cuts(cut.resample(TELEPHONE_HERTZ) for cut in load_manifest(manifests[name]))
        rows.append({**at_full_context(model, name, cuts, f"{TELEPHONE_HERTZ} Hz"), "hertz": TELEPHONE_HERTZ})
    return rows


def at_full_context(model: "Recognizer", name: str, cuts: "CutSet", change: str) -> dict[str, Any]:
    """Word errors on a set that was changed as `change` says: `set`, `split` and the counts of `words`."""
    from sru_asr.evaluation import evaluate

    words = evaluate(model, cuts).words
    print(f"{name} {SETS[name]}  {change}  WER {100 * words.rate:6.2f} %", flush=True)
    return {"set": name, "split": SETS[name], "words": words.to_dict()}


def without_speech(model: "Recognizer") -> dict[str, int]:
    """How often something is recognised where nothing is said: in silence and noises of 1 to 10 s, seeded.

    The noises are of the kind that training makes, but not those it made; one in ten recordings is silence.

    Returns:
        `utterances`, and how many of them are `not_empty`.
    """
    import torch

    from sru_asr.augment import AugmentConfig, Augmented

    found = 0
    for i in range(NOISES):
        silence = torch.zeros(16_000 * (1 + i % 10))
        noise = Augmented(AugmentConfig(no_speech=1.0), f"without speech {i}")(silence)
        found += model.transcribe(silence if i < NOISES // 10 else noise).text != ""
    print(f"without speech  {found} of {NOISES} not empty", flush=True)
    return {"utterances": NOISES, "not_empty": found}


def windows_of(model: "Recognizer", splits: bool = False) -> list[tuple[int, int]]:
    """Full context and the window of each latency; with `splits` every way to divide it into chunk and lookahead."""
    from sru_asr.windows import window_of

    windows = [(0, 0)]
    for latency in LATENCIES_MS:
        window = window_of(latency, model.frames_per_second)
        if splits:
            frames = sum(window)
            behind = sorted({min(round(share * frames), frames - 1) for share in SHARES})
            windows += [(frames - lookahead, lookahead) for lookahead in behind]
        else:
            windows.append(window)
    return windows


def manifests_of(arguments: argparse.Namespace) -> dict[str, Path]:
    """The manifests of the sets, by name, from the options of `add_folders`."""
    corpora = prepare(arguments.corpora_dir, arguments.prepared_dir, arguments.download_dir)
    return {name: corpora[name][split] for name, split in SETS.items()}


def main() -> None:
    """Parses the command line, prepares, measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="output folders of train.py")
    parser.add_argument("--splits", action="store_true", help="try every split of each latency")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    add_folders(parser)
    arguments = parser.parse_args()
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise ValueError(f"--json: there is no folder {arguments.json.parent} to write {arguments.json.name} into")
    manifests = manifests_of(arguments)
    results = []
    for path in arguments.models:
        results.append(measure(path, manifests, arguments.splits))
        if arguments.json is not None:
            with whole(arguments.json) as part:
                part.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(run(main))
