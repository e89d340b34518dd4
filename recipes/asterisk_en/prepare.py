"""Prepares Asterisk's English prompts: what a telephone exchange says, 568 recordings by one professional speaker.

Writes one Lhotse manifest, train.jsonl.gz, for other recipes' --also, and FLAC copies of audio that comes as Opus.
"""

import argparse
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from sru_asr.corpus import Utterance, flac_copies, numbered_lines, write_cuts
from sru_asr.script import run
from sru_asr.text import normalize

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "example: python recipes/asterisk_en/prepare.py --corpus-dir ../shared/corpora/asterisk_en"

TRANSCRIPTS = "core-sounds-en.txt"
SPEAKER = "asterisk_en"
LEAST = 400  # prompts with audio; the releases looked at have 520 that are written as they are said
AUDIO_SUFFIXES = (".opus", ".wav", ".flac")
DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
MISSPELT = {"FOURTIETH": "FORTIETH"}
# Left out is what is not written as it is said: numbers, symbols, abbreviations (500, *, A.M., PBX), and what is in
# brackets, which are tones.
AS_SAID = re.compile(r"[A-Z']+( [A-Z']+)*")
NOT_SAID = re.compile(r"[\[<(]|\b(?!PIN\b)[A-Z]{2,}\b|\w\.\w")

logger = logging.getLogger(__name__)


def prepare(corpus_dir: Path, output_dir: Path) -> dict[str, Path]:
    """Writes the manifest, and those FLAC copies that are not there yet.

    Args:
        corpus_dir: The folder that holds `core-sounds-en.txt`, and the recordings beside it or in its `wav`.
        output_dir: Where the manifest goes, and in its `audio` FLAC copies of audio that comes as `.opus`.

    Returns:
        The manifest under "train".

    Raises:
        ValueError: The corpus is not as expected; the message names the file.
    """
    utterances = _read(corpus_dir.resolve())
    manifest = output_dir / "train.jsonl.gz"
    write_cuts(flac_copies(utterances, output_dir / "audio"), manifest)
    return {"train": manifest}


def _read(corpus: Path) -> list[Utterance]:
    """Reads the prompts that are written as they are said and have their audio."""
    path = corpus / TRANSCRIPTS
    if not path.is_file():
        raise ValueError(
            f"no {path}: give the folder of {TRANSCRIPTS}, unpacked from an archive asterisk-core-sounds-en-*.tar.gz "
            "of https://downloads.asterisk.org/pub/telephony/sounds/"
        )
    utterances, silent = [], []
    for number, line in numbered_lines(path):
        if not line.strip() or line.startswith(";"):
            continue
        name, colon, said = line.partition(":")
        if not colon:
            raise ValueError(f"{path}:{number}: expected 'NAME: TEXT', found {line!r}; get the corpus again")
        text = _as_said(said)
        stems = (corpus / "wav" / name, corpus / name)
        candidates = [stem.with_name(stem.name + suffix) for stem in stems for suffix in AUDIO_SUFFIXES]
        audio = next((path for path in candidates if path.is_file()), None)
        if not text:
            continue
        if audio is None:
            silent.append(name)
        else:
            utterances.append(Utterance(name.replace("/", "-"), audio, text, SPEAKER))
    if silent:
        logger.warning("%s: no audio for %d prompts (%s, ...)", path, len(silent), silent[0])
    if len(utterances) < LEAST:
        raise ValueError(f"{path}: expected at least {LEAST} prompts with audio, found {len(utterances)}")
    return utterances


def _as_said(text: str) -> str:
    """The words of a prompt, or nothing where they cannot be told from what is written."""
    if NOT_SAID.search(text):
        return ""
    words = normalize(re.sub(r"\b[0-9]\b", lambda digit: DIGITS[int(digit[0])], text).replace("-", " ")).split()
    said = " ".join(MISSPELT.get(word, word) for word in words)
    return said if AS_SAID.fullmatch(said) else ""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the preparation from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus-dir", type=Path, required=True, help="the unpacked prompts")
    parser.add_argument(
        "--output-dir", type=Path, default=ROOT / "data/prepared/asterisk_en", help="default: %(default)s"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(lambda: prepare(arguments.corpus_dir, arguments.output_dir))


if __name__ == "__main__":
    main()
