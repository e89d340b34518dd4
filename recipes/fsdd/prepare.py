"""Prepares the Free Spoken Digit Dataset: 3000 recordings of single digits by six speakers, 8 kHz.

Writes the Lhotse manifests train.jsonl.gz and dev.jsonl.gz.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from sru_asr.corpus import Utterance, write_cuts
from sru_asr.download import fetch
from sru_asr.script import run_preparation

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "example: python recipes/fsdd/prepare.py --corpus-dir ../shared/corpora/fsdd"

# The release with six speakers. Zenodo's copy (DOI 10.5281/zenodo.1342401) is release 1.0.8, which has fewer, so it
# cannot stand in. GitHub makes the archive when asked and promises no checksum; its gzip CRC and what is in it are
# checked.
ARCHIVE = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
FOLDERS = ("fsdd", "free-spoken-digit-dataset-1.0.10", "free-spoken-digit-dataset")
N_UTTERANCES = 3000

# Never trained on. Drawn once, with random.Random(0).sample(names, 2) from the six names in alphabetical order. The
# customary split, index 0 to 4 for test, has every speaker on both sides.
DEV_SPEAKERS = frozenset(["nicolas", "yweweler"])

WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
AUDIO_SUFFIXES = (".flac", ".wav")
NAME = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[^\s_]+)_[0-9]+")

logger = logging.getLogger(__name__)


def prepare(corpus_dir: Path | None, output_dir: Path, download_dir: Path) -> dict[str, Path]:
    """Writes the manifests.

    Args:
        corpus_dir: The folder that holds `recordings`, or its parent. None fetches the corpus.
        output_dir: Where the manifests go.
        download_dir: Where archive and extraction go if it has to be fetched.

    Returns:
        The manifests under "train" and "dev". "dev" are the utterances of `DEV_SPEAKERS`, whom "train" lacks.

    Raises:
        ValueError: The corpus is not as expected; the message names folder or file.
        DownloadError: The corpus could not be fetched.
    """
    if corpus_dir is None:
        corpus_dir = fetch([(ARCHIVE, None)], download_dir / "fsdd")
    recordings = _find_recordings(corpus_dir).resolve()
    utterances = _read(recordings)
    parts = {
        "train": [utterance for utterance in utterances if utterance.speaker not in DEV_SPEAKERS],
        "dev": [utterance for utterance in utterances if utterance.speaker in DEV_SPEAKERS],
    }
    if empty := [name for name, part in parts.items() if not part]:
        raise ValueError(
            f"{recordings}: expected utterances for train and dev, found none for {' and '.join(empty)}. Dev takes the "
            f"speakers {', '.join(sorted(DEV_SPEAKERS))}, train all others: get the whole corpus."
        )
    manifests = {name: output_dir / f"{name}.jsonl.gz" for name in parts}
    for name, path in manifests.items():
        write_cuts(parts[name], path)
    return manifests


def _find_recordings(corpus_dir: Path) -> Path:
    for folder in ("", *FOLDERS):
        if (recordings := corpus_dir / folder / "recordings").is_dir():
            return recordings
    raise ValueError(
        f"{corpus_dir} is not the Free Spoken Digit Dataset: expected the folder recordings in it. "
        "Give the folder that holds recordings."
    )


def _read(recordings: Path) -> list[Utterance]:
    """Reads what is known of each recording from its name, and looks for what is missing."""
    utterances = []
    said: dict[str, set[str]] = {}
    for path in sorted(path for path in recordings.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES):
        name = NAME.fullmatch(path.stem)
        if name is None:
            raise ValueError(
                f"{path}: expected a name like 7_jackson_32{path.suffix} (digit, speaker, index), found {path.name!r}; "
                "rename the file or take it out"
            )
        text = WORDS[int(name["digit"])]
        utterances.append(Utterance(path.stem, path, text, name["speaker"]))
        said.setdefault(name["speaker"], set()).add(text)
    if not utterances:
        raise ValueError(
            f"{recordings}: expected files {' or '.join(AUDIO_SUFFIXES)}, found none; get the corpus again"
        )
    for speaker, words in said.items():
        if missing := [word for word in WORDS if word not in words]:
            raise ValueError(
                f"{recordings}: expected every speaker to say all ten digits, found no {', '.join(missing)} by "
                f"{speaker}; get the corpus again, or take the speaker's files out"
            )
    if len(utterances) != N_UTTERANCES:
        logger.warning("%s: %d of %d utterances are there", recordings, len(utterances), N_UTTERANCES)
    return utterances


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the preparation from the command line."""
    run_preparation(prepare, __doc__, EXAMPLE, ROOT / "data/prepared/fsdd", ROOT / "data/downloads", argv)


if __name__ == "__main__":
    main()
