"""The words of AN4's speakers one by one: when each is said, and a manifest of them as utterances.

When is in words.tsv, of the training speakers: utterance, word, start and end in hundredths of a second, from forced
alignment with PocketSphinx and the English model that comes with it. This script makes that file anew.

example: pip install sru-asr[align] && python recipes/an4/words.py --corpus-dir ../shared/corpora/an4
example: python recipes/an4/words.py --split dev --output dev-words.tsv  # what benchmarks/word_times.py asks for
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sru_asr.corpus import numbered_lines
from sru_asr.script import run
from sru_asr.whole import whole

if TYPE_CHECKING:
    from lhotse.cut import Cut

ROOT = Path(__file__).resolve().parents[2]
TIMES = Path(__file__).with_name("words.tsv")
COLUMNS = ["utterance", "word", "start", "end"]
# Around a word, so that its first and last sounds are whole where the alignment is a little off.
MARGIN_SECONDS = 0.02
# What is shorter is mostly a mistake of the alignment.
MIN_SECONDS = 0.1
# Hundredths of a second by which the last word may end behind the recording: the aligner's frames are longer than that.
TOLERANCE = 3


class Word(NamedTuple):
    """A line of words.tsv; times in hundredths of a second, the end exclusive."""

    utterance: str
    word: str
    start: int
    end: int


def prepare_words(train: Path, path: Path, times: Path = TIMES) -> Path:
    """Writes a manifest in which each word is a cut of the recording that it is said in.

    Args:
        train: Manifest of the training part, as prepare.py writes it. Words of utterances that it lacks are left out.
        path: The manifest to be written.
        times: When each is said.

    Raises:
        ValueError: `times` is damaged, or does not fit the recordings.
    """
    from lhotse import CutSet

    words: dict[str, list[Word]] = {}
    for word in _read(times):
        words.setdefault(word.utterance, []).append(word)
    cuts = [
        _part(cut, word, f"{cut.id}-word{number}")
        for cut in CutSet.from_file(train)
        for number, word in enumerate(words.get(cut.id, ()), 1)
        if not 0 < word.end - word.start < 100 * MIN_SECONDS
    ]
    if not cuts:
        raise ValueError(f"{train}: expected utterances of AN4's training part, found none that {times} names")
    with whole(path) as part:  # others may prepare the same corpus
        CutSet.from_cuts(cuts).to_file(part)
    return path


def _part(cut: "Cut", word: Word, name: str) -> "Cut":
    if not 0 <= word.start < word.end <= 100 * cut.duration + TOLERANCE:
        raise ValueError(f"{cut.id}: expected a word within its {cut.duration} s, found {word}")
    start = max(word.start / 100 - MARGIN_SECONDS, 0)
    end = min(word.end / 100 + MARGIN_SECONDS, cut.duration)
    part = cut.truncate(offset=start, duration=end - start, preserve_id=False)
    (supervision,) = part.supervisions
    part.id = supervision.id = name
    supervision.text, supervision.start, supervision.duration = word.word, 0.0, part.duration
    return part


def _read(path: Path) -> Iterator[Word]:
    lines = numbered_lines(path)
    _, header = next(lines, (1, ""))
    if header.split("\t") != COLUMNS:
        raise ValueError(f"{path}:1: expected the header {COLUMNS}, found {header!r}")
    for number, line in lines:
        try:
            utterance, word, start, end = line.split("\t")
            yield Word(utterance, word, int(start), int(end))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: expected {COLUMNS} with tabs between them, found {line!r}") from error


def align(manifest: Path) -> Iterator[Word]:
    """Finds the words of utterances by forced alignment; those that it does not fit are left out, and named.

    Args:
        manifest: Theirs; recordings of 16 kHz.
    """
    from lhotse import CutSet
    from pocketsphinx import Decoder

    decoder = Decoder(lm=None, loglevel="FATAL", beam=1e-80, wbeam=1e-60, pbeam=1e-80)
    for cut in CutSet.from_file(manifest):
        text = cut.supervisions[0].text.lower()
        decoder.set_align_text(text)
        decoder.start_utt()
        decoder.process_raw((cut.load_audio()[0] * 32767).astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        # A word's second pronunciation is called two(2).
        found = [(part.word.partition("(")[0], part) for part in decoder.seg() if part.word[0] not in "<["]
        if [word for word, _ in found] != text.split():
            print(f"left out {cut.id}: found only {' '.join(word for word, _ in found)!r} of {text!r}", file=sys.stderr)
            continue
        for word, part in found:
            yield Word(cut.id, word.upper(), part.start_frame, part.end_frame + 1)


def main(argv: Sequence[str] | None = None) -> None:
    """Makes words.tsv anew."""
    from prepare import prepare

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus-dir", type=Path, help="as for prepare.py (default: fetch it)")
    parser.add_argument("--prepared-dir", type=Path, default=ROOT / "data/prepared/an4", help="default: %(default)s")
    parser.add_argument("--download-dir", type=Path, default=ROOT / "data/downloads", help="default: %(default)s")
    parser.add_argument("--split", default="train", choices=("train", "dev"), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=TIMES, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    if arguments.split != "train" and arguments.output == TIMES:
        parser.error(f"expected --output with --split {arguments.split}: {TIMES.name} is of the training speakers")
    manifest = prepare(arguments.corpus_dir, arguments.prepared_dir, arguments.download_dir)[arguments.split]
    lines = ["\t".join(COLUMNS), *("\t".join(map(str, word)) for word in align(manifest))]
    with whole(arguments.output) as part:
        part.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    run(main)
