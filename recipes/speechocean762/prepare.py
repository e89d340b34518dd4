"""Prepares speechocean762: English sentences read by speakers of Mandarin, half of them children.

Writes the Lhotse manifests train.jsonl.gz, dev.jsonl.gz and, where the test part is present, test.jsonl.gz, and FLAC
copies of audio that comes as Opus, which takes ten times as long to decode, in every epoch again.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from sru_asr.corpus import Utterance, flac_copies, numbered_lines, write_cuts
from sru_asr.download import fetch
from sru_asr.script import run_preparation

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "example: python recipes/speechocean762/prepare.py --corpus-dir ../shared/corpora/speechocean762"

# OpenSLR and two mirrors of it. A checksum was not to be found; the archive's gzip CRC and what is in it are checked.
ARCHIVES = (
    "https://www.openslr.org/resources/101/speechocean762.tar.gz",
    "https://openslr.trmal.net/resources/101/speechocean762.tar.gz",
    "https://openslr.elda.org/resources/101/speechocean762.tar.gz",
)
N_UTTERANCES = 2500  # in either part

# Held out from the 125 speakers of the training part. Drawn once, with one random.Random(0): sample(ids, 3) from the
# sorted ids of the 26 girls, then of the 32 boys, the 41 women and the 26 men. A child is under
# ADULT_YEARS by spk2age.
DEV_SPEAKERS = frozenset(
    [
        *("3423", "9034", "3837"),
        *("0048", "2034", "9556"),
        *("2981", "2380", "9607"),
        *("1336", "8002", "1029"),
    ]
)

ADULT_YEARS = 16

# Tried in this order where what wav.scp names is not there. The official files end in .WAV.
AUDIO_SUFFIXES = (".WAV", ".wav", ".flac", ".opus")

logger = logging.getLogger(__name__)


def prepare(corpus_dir: Path | None, output_dir: Path, download_dir: Path) -> dict[str, Path]:
    """Writes the manifests of speechocean762, and those FLAC copies that are not there yet.

    Args:
        corpus_dir: The official layout (`train`, `test`, `WAVE`), or the folder that holds it as `speechocean762`.
            None fetches it.
        output_dir: Where the manifests go, and in its `audio` FLAC copies of audio that comes as `.opus`.
        download_dir: Where archive and extraction go if it has to be fetched.

    Returns:
        The manifests under "train", "dev" and, where the test part is present, "test". "dev" are the utterances of
        `DEV_SPEAKERS`, whom "train" lacks.

    Raises:
        ValueError: The corpus is not as expected; the message names the file.
        DownloadError: The corpus could not be fetched.
    """
    if corpus_dir is None:
        corpus_dir = fetch([(url, None) for url in ARCHIVES], download_dir / "speechocean762")
    corpus = _find_corpus(corpus_dir).resolve()
    utterances = _read_part(corpus, "train")
    parts = {
        "train": [utterance for utterance in utterances if utterance.speaker not in DEV_SPEAKERS],
        "dev": [utterance for utterance in utterances if utterance.speaker in DEV_SPEAKERS],
    }
    if empty := [name for name, part in parts.items() if not part]:
        raise ValueError(
            f"{corpus}/train: expected utterances for train and dev, found none for {' and '.join(empty)}. Dev takes "
            f"the speakers {', '.join(sorted(DEV_SPEAKERS))}, train all others: get the whole corpus."
        )
    if _is_present(corpus, "test"):
        parts["test"] = _read_part(corpus, "test")
    else:
        logger.warning("%s has no test part: expected test/wav.scp and the audio that it names", corpus)
    manifests = {name: output_dir / f"{name}.jsonl.gz" for name in parts}
    for name, path in manifests.items():
        write_cuts(flac_copies(parts[name], output_dir / "audio"), path)
    return manifests


def _find_corpus(corpus_dir: Path) -> Path:
    for corpus in (corpus_dir, corpus_dir / "speechocean762"):
        if (corpus / "train/text").is_file():
            return corpus
    raise ValueError(
        f"{corpus_dir} is not speechocean762: expected train/text in it. Give the folder that holds train and WAVE."
    )


def _is_present(corpus: Path, part: str) -> bool:
    """Whether a part has its list of audio files and any of them."""
    scp = corpus / part / "wav.scp"
    return scp.is_file() and any(path.is_file() for said in _table(scp).values() for path in _candidates(corpus / said))


def _read_part(corpus: Path, part: str) -> list[Utterance]:
    """Reads the utterances of `train` or `test`, in the order of its `text`."""
    folder = corpus / part
    texts, speakers, files = (_table(folder / name) for name in ("text", "utt2spk", "wav.scp"))
    for name, table in (("utt2spk", speakers), ("wav.scp", files)):
        if different := texts.keys() ^ table.keys():
            first = min(different)
            raise ValueError(
                f"{folder / (name if first in texts else 'text')}: expected the same utterances in text and {name}, "
                f"found no line of {first}; get the corpus again"
            )
    if len(texts) != N_UTTERANCES:
        logger.warning("%s: %d of %d utterances are there", folder, len(texts), N_UTTERANCES)
    genders, ages = (_table(folder / name) if (folder / name).is_file() else {} for name in ("spk2gender", "spk2age"))
    utterances = []
    for utterance_id, text in texts.items():
        candidates = _candidates(corpus / files[utterance_id])
        audio = next((path for path in candidates if path.is_file()), None)
        if audio is None:
            raise ValueError(
                f"{folder}/wav.scp: {utterance_id}: expected one of {', '.join(map(str, candidates))}, found none; "
                "get the corpus again"
            )
        speaker = speakers[utterance_id]
        fields = {"gender": genders.get(speaker, ""), "age": _age(ages.get(speaker, ""))}
        utterances.append(
            Utterance(utterance_id, audio, text, speaker, {name: said for name, said in fields.items() if said})
        )
    return utterances


def _age(years: str) -> str:
    return ("child" if int(years) < ADULT_YEARS else "adult") if years.isdecimal() else ""


def _candidates(said: Path) -> list[Path]:
    """The file that wav.scp names, and what it may be called where the audio was converted."""
    return list(dict.fromkeys([said, *map(said.with_suffix, AUDIO_SUFFIXES)]))


def _table(path: Path) -> dict[str, str]:
    """Reads a file of Kaldi's, in which each line is a key, a blank or tab, and a value."""
    if not path.is_file():
        raise ValueError(f"there is no {path}: give the folder of the whole corpus, train and WAVE")
    table: dict[str, str] = {}
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        key, *value = line.split(maxsplit=1)
        if not value:
            raise ValueError(f"{path}:{number}: expected 'UTTERANCE-ID VALUE', found {line!r}; get the corpus again")
        if key in table:
            raise ValueError(f"{path}:{number}: expected one line of each utterance, found {key} twice; take one out")
        table[key] = value[0].strip()
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the preparation from the command line."""
    run_preparation(prepare, __doc__, EXAMPLE, ROOT / "data/prepared/speechocean762", ROOT / "data/downloads", argv)


if __name__ == "__main__":
    main()
