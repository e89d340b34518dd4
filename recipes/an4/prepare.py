"""Prepares CMU AN4: spelled words, numbers, dates and commands, 948 training and 130 test utterances.

Writes the Lhotse manifests train.jsonl.gz, dev.jsonl.gz and, where the test part is present, test.jsonl.gz.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sru_asr.corpus import Utterance, copy_of, numbered_lines, write_cuts, write_flac
from sru_asr.download import fetch
from sru_asr.script import run_preparation

if TYPE_CHECKING:
    import numpy as np

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "example: python recipes/an4/prepare.py --corpus-dir ../shared/corpora/an4"

# The official address comes last: it is dead (github.com/NVIDIA-NeMo/Speech/issues/4188 of 2022 and 14136 of 2025). The
# others are the copies that NeMo's tutorials and ESPnet's recipe use. CMU publishes no checksum; the one of NVIDIA's
# copy is what a user of it reports. A copy without one is still checked by its gzip CRC and by what is in it.
ARCHIVES = (
    (
        "https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz",
        "a0525579493735d32b60fb6fa5975dd0eaacde087b0a4eeb7f13b7ef33077b12",
    ),
    ("https://huggingface.co/datasets/espnet/an4/resolve/main/an4_sphere.tar.gz", None),
    ("http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz", None),
)

# Held out from the 74 training speakers (21 women, 53 men; ids start with f or m). Drawn once, with random.Random(0),
# five women then five men, from the sorted ids without their trailing digits: mdcs and mdcs2 may be one person and
# would be drawn together.
DEV_SPEAKERS = frozenset(["fmjc", "fmjd", "fbbh", "fkai", "fsaf2", "mmkw", "mkdb", "mtxj", "mjda", "mmdg"])

AUDIO_SUFFIXES = (".flac", ".wav", ".sph", ".raw")
RAW_SAMPLE_RATE = 16_000

# "<s> SIX </s> (an255-fash-b)"; some of the official files have no <s> and </s>.
TRANSCRIPT = re.compile(r"(?:<s>)?\s*(?P<text>[^\s<>()][^<>()]*?)\s*(?:</s>)?\s*\((?P<id>[^()\s]+)\)")

logger = logging.getLogger(__name__)


def prepare(corpus_dir: Path | None, output_dir: Path, download_dir: Path) -> dict[str, Path]:
    """Writes the manifests of AN4.

    Args:
        corpus_dir: The official layout (`etc`, `wav`), or the folder that holds it as `an4`. None fetches it.
        output_dir: Where the manifests go, and FLAC copies of audio that comes as `.raw` or `.sph`.
        download_dir: Where archive and extraction go if it has to be fetched.

    Returns:
        The manifests under "train", "dev" and, where the test part is present, "test". "dev" are the utterances of
        `DEV_SPEAKERS`, whom "train" lacks.

    Raises:
        ValueError: The corpus is not as expected; the message names file and line.
        DownloadError: The corpus could not be fetched.
    """
    corpus = _find_corpus(fetch(ARCHIVES, download_dir / "an4") if corpus_dir is None else corpus_dir).resolve()
    utterances = _read_part(corpus, "train", output_dir)
    parts = {
        "train": [utterance for utterance in utterances if utterance.speaker not in DEV_SPEAKERS],
        "dev": [utterance for utterance in utterances if utterance.speaker in DEV_SPEAKERS],
    }
    if (corpus / "etc/an4_test.fileids").is_file() and (corpus / "wav/an4test_clstk").is_dir():
        parts["test"] = _read_part(corpus, "test", output_dir)
    else:
        logger.warning("%s has no test part: expected etc/an4_test.fileids and wav/an4test_clstk", corpus)
    manifests = {name: output_dir / f"{name}.jsonl.gz" for name in parts}
    for name, path in manifests.items():
        write_cuts(parts[name], path)
    return manifests


def byte_order(pcm: bytes) -> Literal["<", ">"]:
    """Tells the byte order of 16-bit speech from the signal itself.

    Speech changes little from sample to sample. Read in the wrong order, the noisy low byte becomes the high one, and
    the energy of the first differences rises (200-fold or more on every file of AN4's training part).

    Args:
        pcm: Headless 16-bit mono samples.

    Returns:
        "<" for little-endian, ">" for big-endian.
    """
    import numpy as np

    def roughness(order: str) -> float:
        return float(np.square(np.diff(np.frombuffer(pcm, f"{order}i2").astype(np.float64))).sum())

    return "<" if roughness("<") <= roughness(">") else ">"


def _find_corpus(corpus_dir: Path) -> Path:
    for corpus in (corpus_dir, corpus_dir / "an4"):
        if (corpus / "etc/an4_train.fileids").is_file():
            return corpus
    raise ValueError(
        f"{corpus_dir} is not AN4: expected etc/an4_train.fileids in it. Give the folder that holds etc and wav."
    )


def _read_part(corpus: Path, part: str, output_dir: Path) -> list[Utterance]:
    """Reads the utterances that `etc/an4_PART.fileids` names, and makes their audio readable where it is not."""
    texts = _read_transcripts(corpus / f"etc/an4_{part}.transcription")
    fileids = corpus / f"etc/an4_{part}.fileids"
    utterances = []
    for number, line in numbered_lines(fileids):
        if not (fileid := line.strip()):
            continue
        folder, _, utterance_id = fileid.rpartition("/")
        if not folder:
            raise ValueError(f"{fileids}:{number}: expected FOLDER/SPEAKER/UTTERANCE, found {line!r}")
        if utterance_id not in texts:
            raise ValueError(f"{fileids}:{number}: {utterance_id} has no line in etc/an4_{part}.transcription")
        candidates = [corpus / f"wav/{fileid}{suffix}" for suffix in AUDIO_SUFFIXES]
        audio = next((path for path in candidates if path.is_file()), None)
        if audio is None:
            raise ValueError(f"{fileids}:{number}: expected one of {', '.join(map(str, candidates))}, found none")
        if audio.suffix in (".raw", ".sph"):
            audio = _to_flac(audio, copy_of(audio, output_dir / "audio", fileid))
        utterances.append(Utterance(utterance_id, audio, texts[utterance_id], Path(folder).name))
    return utterances


def _read_transcripts(path: Path) -> dict[str, str]:
    """Reads the lines of a transcription file, by utterance id."""
    if not path.is_file():
        raise ValueError(f"there is no {path}: give the folder of the whole corpus, etc and wav")
    texts = {}
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        match = TRANSCRIPT.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"{path}:{number}: expected '<s> WORDS </s> (UTTERANCE-ID)', found {line!r}")
        texts[match["id"]] = match["text"]
    return texts


def _to_flac(source: Path, target: Path) -> Path:
    """Copies audio that not every reader takes: `.raw` has no header, and for `.sph` lhotse may want sph2pipe."""
    import soundfile

    if target.is_file():
        return target
    if source.suffix == ".raw":
        samples, sample_rate = _read_raw(source), RAW_SAMPLE_RATE
    else:
        from sru_asr.audio import check

        check(source)  # which finds what soundfile reads as if it were whole, and names it
        samples, sample_rate = soundfile.read(source, dtype="int16")
    write_flac(target, samples, sample_rate)
    return target


def _read_raw(path: Path) -> "np.ndarray":
    import numpy as np

    pcm = path.read_bytes()
    if not pcm or len(pcm) % 2:
        raise ValueError(f"{path}: expected 16-bit samples, found {len(pcm)} bytes")
    return np.frombuffer(pcm, f"{byte_order(pcm)}i2").astype(np.int16)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the preparation from the command line."""
    run_preparation(prepare, __doc__, EXAMPLE, ROOT / "data/prepared/an4", ROOT / "data/downloads", argv)


if __name__ == "__main__":
    main()
