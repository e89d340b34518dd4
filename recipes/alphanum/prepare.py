"""Prepares the corpus that ships with the project, `data/alphanum`, or another one made by its `make.py`.

Writes the Lhotse manifests train.jsonl.gz, dev.jsonl.gz and test.jsonl.gz, and FLAC copies of the audio at the rate of
training: Opus takes ten times as long to decode, and every epoch would do so again.
"""

import argparse
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import soundfile

from sru_asr.corpus import Utterance, flac_copies, numbered_lines, write_cuts
from sru_asr.script import run

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "example: python recipes/alphanum/prepare.py --output-dir /tmp/alphanum"

# A voice is heard in one split only. Picked by hand before any recogniser was trained, so that test has each accent and
# sex (af, am, bf, bm), and no near twin of another voice: cosines of centred style vectors stay below 0.45, but for
# bf_emma, as each British woman has a neighbour at 0.6.
TEST_VOICES = frozenset(["af_sarah", "af_sky", "am_adam", "am_michael", "bf_emma", "bm_lewis"])
DEV_VOICES = frozenset(["am_eric", "bf_lily"])

COLUMNS = ["name", "voice", "seconds", "text"]
TEXT = re.compile(r"[A-Z']+( [A-Z']+)*")
TOLERANCE_SECONDS = 0.001  # of durations that the transcripts give to the millisecond


def prepare(
    corpus_dir: Path, output_dir: Path, most_train: int | None = None, train_only: bool = False
) -> dict[str, Path]:
    """Writes the copies that are not there yet, and the manifests anew.

    Args:
        corpus_dir: The folder of `transcripts.tsv` and `audio`.
        output_dir: Where manifests and copies go.
        most_train: Take so many of the utterances to train on, the first ones; None for all.
        train_only: There are none for development and test, as where voices are mixed.

    Returns:
        The manifests under "train" and, unless `train_only`, "dev" and "test", which have no voice in common.

    Raises:
        ValueError: The corpus is missing, incomplete or broken, or lacks the voices of a split; the message names file
            and line.
    """
    utterances = list(_read(corpus_dir.resolve()))
    names = ("train",) if train_only else ("train", "dev", "test")
    splits = {split: [u for u in utterances if split_of(u.speaker) == split] for split in names}
    splits["train"] = splits["train"][:most_train]
    if empty := [split for split, part in splits.items() if not part]:
        raise ValueError(
            f"{corpus_dir}: expected utterances for {', '.join(names)}, found none for {' and '.join(empty)}. "
            f"Dev takes the voices {', '.join(sorted(DEV_VOICES))}, test {', '.join(sorted(TEST_VOICES))}, "
            "train all others; --train-only is for a corpus without those of dev and test."
        )
    part = (
        "train" if most_train is None else f"train-{most_train}"
    )  # beside the manifest of all, if that is wanted, too
    manifests = {split: output_dir / f"{part if split == 'train' else split}.jsonl.gz" for split in splits}
    for split, path in manifests.items():
        write_cuts(flac_copies(splits[split], output_dir / "audio"), path)
    return manifests


def split_of(voice: str) -> str:
    """Names the split that a voice is heard in; that of a blend (`af_bella:63+am_echo:37`) is its voices'.

    Raises:
        ValueError: The voices of a blend belong to different splits.
    """
    names = {part.partition(":")[0] for part in voice.split("+")}
    splits = {"test" if name in TEST_VOICES else "dev" if name in DEV_VOICES else "train" for name in names}
    if len(splits) > 1:
        raise ValueError(f"expected a voice of one split, found {voice}, blended of {' and '.join(sorted(splits))}")
    return splits.pop()


def _read(corpus: Path) -> Iterator[Utterance]:
    """Reads the transcripts, and compares each line with its audio."""
    path = corpus / "transcripts.tsv"
    if not path.is_file():
        raise ValueError(
            f"no {path}: give the folder of a whole corpus, transcripts.tsv and audio, such as data/alphanum of the "
            "repository; data/alphanum/make.py makes others"
        )
    lines = numbered_lines(path)
    _, header = next(lines, (1, ""))
    if header.split("\t") != COLUMNS:
        raise ValueError(f"{path}:1: expected the header {COLUMNS}, found {header!r}")
    names = set()
    for number, line in lines:
        try:
            utterance = _utterance(line.split("\t"), corpus / "audio")
            if utterance.id in names:
                raise ValueError(f"expected every utterance to have its own name, found {utterance.id} twice")
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        names.add(utterance.id)
        yield utterance


def _utterance(fields: Sequence[str], audio_dir: Path) -> Utterance:
    if len(fields) != len(COLUMNS):
        raise ValueError(f"expected the fields {COLUMNS} with tabs between them, found {fields}")
    name, voice, seconds, text = fields
    if not TEXT.fullmatch(text):
        raise ValueError(f"expected words of A to Z with one space between them, found {text!r}")
    audio = audio_dir / f"{name}.opus"
    if not audio.is_file():
        raise ValueError(f"there is no audio file {audio}")
    try:
        found = soundfile.info(audio).duration
    except soundfile.LibsndfileError as error:
        raise ValueError(f"cannot read {audio}: {error}") from error
    # Ogg that was cut short opens all the same, with the samples it has left.
    if not abs(found - float(seconds)) <= TOLERANCE_SECONDS:  # in this form it catches 'nan'
        raise ValueError(f"expected {audio} to last {seconds} s, found {found:.3f} s")
    split_of(voice)
    return Utterance(name, audio, text, voice)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the preparation from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus-dir", type=Path, default=ROOT / "data/alphanum", help="default: %(default)s")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "data/prepared/alphanum", help="default: %(default)s")
    parser.add_argument("--train-only", action="store_true", help="the corpus has no voices of development and test")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(lambda: prepare(arguments.corpus_dir, arguments.output_dir, train_only=arguments.train_only))


if __name__ == "__main__":
    main()
