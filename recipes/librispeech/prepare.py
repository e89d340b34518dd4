"""Prepares LibriSpeech, or Mini LibriSpeech: read English books.

Writes one Lhotse manifest per part (train-clean-100.jsonl.gz, test-other.jsonl.gz, ...), and train.jsonl.gz and
dev.jsonl.gz for training. A run that was interrupted keeps what it had downloaded and the manifests it had finished.
"""

import argparse
import logging
import shutil
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from sru_asr.corpus import Utterance, numbered_lines, write_cuts
from sru_asr.download import download, extract
from sru_asr.script import run
from sru_asr.whole import whole

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = """\
examples:
  python recipes/librispeech/prepare.py --subset mini
  python recipes/librispeech/prepare.py --subset 100 --corpus-dir /data/LibriSpeech
  python recipes/librispeech/prepare.py --subset 100 --corpus-dir ../shared/corpora --parts test-clean
"""

BASE_URL = "https://www.openslr.org/resources"


class Part(NamedTuple):
    """What is known of one part: its archive, relative to `BASE_URL`, a checksum of it, and what it holds."""

    archive: str
    n_utterances: int
    sha256: str | None = None
    md5: str | None = None


# SHA-256 as in torchaudio.datasets.librispeech. Of the mini parts OpenSLR publishes the MD5
# (openslr.org/resources/31/md5sum.txt); these values are the ones PaddleSpeech's and other recipes check against.
PARTS = {
    "train-clean-5": Part("31/train-clean-5.tar.gz", 1519, md5="5df7d4e78065366204ca6845bb08f490"),
    "dev-clean-2": Part("31/dev-clean-2.tar.gz", 1089, md5="6d7ab67ac6a1d2c993d050e16d61080d"),
    "train-clean-100": Part(
        "12/train-clean-100.tar.gz", 28539, "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"
    ),
    "train-clean-360": Part(
        "12/train-clean-360.tar.gz", 104014, "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"
    ),
    "train-other-500": Part(
        "12/train-other-500.tar.gz", 148688, "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"
    ),
    "dev-clean": Part("12/dev-clean.tar.gz", 2703, "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"),
    "dev-other": Part("12/dev-other.tar.gz", 2864, "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"),
    "test-clean": Part(
        "12/test-clean.tar.gz", 2620, "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"
    ),
    "test-other": Part(
        "12/test-other.tar.gz", 2939, "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"
    ),
}


class Subset(NamedTuple):
    """The parts to train on, to choose models on, and to measure on besides."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    others: tuple[str, ...]


SUBSETS = {
    "mini": Subset(("train-clean-5",), ("dev-clean-2",), ()),
    "100": Subset(("train-clean-100",), ("dev-clean",), ("dev-other", "test-clean", "test-other")),
    "960": Subset(
        ("train-clean-100", "train-clean-360", "train-other-500"),
        ("dev-clean",),
        ("dev-other", "test-clean", "test-other"),
    ),
}

logger = logging.getLogger(__name__)


def prepare(
    corpus_dir: Path | None, output_dir: Path, download_dir: Path, subset: str, parts: Sequence[str] | None = None
) -> dict[str, Path]:
    """Writes the manifests of a subset of LibriSpeech.

    Args:
        corpus_dir: The folder `LibriSpeech`, or the one that holds it. None fetches the parts.
        output_dir: Where the manifests go.
        download_dir: Where archives and extractions go if they have to be fetched.
        subset: A key of `SUBSETS`.
        parts: Prepare these parts only. By default all of the subset; of a given corpus, those for training and
            development must be there, the others are taken if they are.

    Returns:
        The manifests by the name of their part, and under "train" and "dev" where all that belongs in them was
        prepared.

    Raises:
        ValueError: A name is unknown, or the corpus is not as expected; the message names file and line.
        DownloadError: A part could not be fetched.
    """
    if subset not in SUBSETS:
        raise ValueError(f"subset: expected one of {', '.join(SUBSETS)}, found {subset!r}")
    if unknown := set(parts or ()) - set(PARTS):
        raise ValueError(f"parts: expected some of {', '.join(PARTS)}, found {', '.join(sorted(unknown))}")
    train, dev, others = SUBSETS[subset]
    wanted = list(parts or train + dev + others)
    if corpus_dir is None:
        folders = {part: _find_part(_fetch(part, download_dir), part) for part in wanted}
    else:
        folders = {part: _find_part(corpus_dir, part) for part in wanted}
    required = wanted if parts else train + dev
    if missing := [part for part in required if folders[part] is None]:
        raise ValueError(
            f"{corpus_dir or download_dir}: expected {', '.join(required)} in it or in LibriSpeech below it, found no "
            f"{', '.join(missing)}. Add what is missing, or ask for given parts with --parts."
        )
    manifests = {}
    for part, folder in folders.items():
        if folder is None:
            logger.warning("%s has no %s: left out", corpus_dir, part)
        else:
            manifests[part] = _prepare_part(part, folder, output_dir / f"{part}.jsonl.gz")
    for name, pieces in (("train", train), ("dev", dev)):
        if manifests.keys() >= set(pieces):
            manifests[name] = _join([manifests[piece] for piece in pieces], output_dir / f"{name}.jsonl.gz")
    return manifests


def _fetch(part: str, download_dir: Path) -> Path:
    """Fetches and extracts a part; returns the folder that holds `LibriSpeech`, with nothing but this part in it."""
    # lhotse's download_librispeech compares no checksum, so a damaged archive shows late or never.
    directory = download_dir / part
    if not directory.is_dir():
        archive, _, sha256, md5 = PARTS[part]
        url = f"{BASE_URL}/{archive}"
        extract(download(url, download_dir / Path(archive).name, sha256=sha256, md5=md5), directory)
    return directory


def _find_part(corpus_dir: Path, part: str) -> Path | None:
    folders = (corpus_dir / part, corpus_dir / "LibriSpeech" / part)
    return next((folder.resolve() for folder in folders if folder.is_dir()), None)


def _prepare_part(part: str, folder: Path, manifest: Path) -> Path:
    """Writes the manifest of one part, unless an earlier run has."""
    utterances = _read_part(folder)
    if len(utterances) != PARTS[part].n_utterances:
        logger.warning("%s: %d of %d utterances are there", folder, len(utterances), PARTS[part].n_utterances)
    if _is_prepared(utterances, manifest):
        logger.info("%s: kept, it lists these %d utterances", manifest, len(utterances))
    else:
        write_cuts(utterances, manifest)
    return manifest


def _read_part(folder: Path) -> list[Utterance]:
    """Reads the transcripts of one part, `SPEAKER/CHAPTER/*.trans.txt`."""
    # lhotse's prepare_librispeech leaves out an utterance whose audio is missing, and takes up a manifest that an
    # interrupted run left half written. Both are silent; reading the files takes no more lines than calling it would.
    utterances = []
    for transcripts in sorted(folder.glob("*/*/*.trans.txt")):
        for number, line in numbered_lines(transcripts):
            utterance_id, _, text = line.strip().partition(" ")
            audio = transcripts.parent / f"{utterance_id}.flac"
            if not text or not audio.is_file():
                found = repr(line) if not text else f"no {audio}"
                raise ValueError(f"{transcripts}:{number}: expected 'UTTERANCE-ID WORDS' and its audio, found {found}")
            utterances.append(Utterance(utterance_id, audio, text.strip(), transcripts.parts[-3]))
    if not utterances:
        raise ValueError(f"{folder}: expected SPEAKER/CHAPTER/*.trans.txt in it, found none")
    return utterances


def _is_prepared(utterances: list[Utterance], manifest: Path) -> bool:
    """Whether a manifest lists exactly these utterances, of files that have not changed since."""
    from lhotse import CutSet

    if not manifest.is_file():
        return False
    cuts = (
        Utterance(cut.id, Path(cut.recording.sources[0].source), supervision.text, supervision.speaker)
        for cut in CutSet.from_jsonl_lazy(manifest)
        for supervision in cut.supervisions
    )
    try:
        made = manifest.stat().st_mtime
        return all(
            utterance == cut and max(utterance.audio.stat().st_mtime, utterance.audio.stat().st_ctime) <= made
            for utterance, cut in zip_longest(utterances, cuts)
        )
    except Exception:  # whatever Lhotse makes of one that is damaged: it will be written anew
        return False


def _join(manifests: list[Path], path: Path) -> Path:
    """Puts manifests one after the other; gzip files in a row are one gzip file."""
    with whole(path) as part, part.open("wb") as target:
        for manifest in manifests:
            with manifest.open("rb") as source:
                shutil.copyfileobj(source, target)
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the preparation from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subset", choices=SUBSETS, required=True, help="how much of it: about 5, 100 or 960 hours")
    parser.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help="prepare these parts only")
    parser.add_argument("--corpus-dir", type=Path, help="LibriSpeech or its parent, if you have it (default: fetch it)")
    parser.add_argument("--output-dir", type=Path, help="default: data/prepared/librispeech-SUBSET in the repository")
    parser.add_argument("--download-dir", type=Path, default=ROOT / "data/downloads", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output_dir = arguments.output_dir or ROOT / f"data/prepared/librispeech-{arguments.subset}"
    run(lambda: prepare(arguments.corpus_dir, output_dir, arguments.download_dir, arguments.subset, arguments.parts))


if __name__ == "__main__":
    main()
