"""The recipe of the Free Spoken Digit Dataset: names and faults in a corpus made here, and the real one."""

import gzip
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from recipe_scripts import load_prepare

from sru_asr.download import DownloadError

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared/corpora/fsdd"
TRAIN, DEV = "george", "nicolas"
WORDS = ["ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"]


recipe = load_prepare("fsdd")


def make_corpus(corpus: Path, suffix: str = ".flac", speakers: tuple[str, ...] = (TRAIN, DEV)) -> Path:
    """Writes a corpus in which each speaker says each digit once; returns its recordings."""
    recordings = corpus / "recordings"
    recordings.mkdir(parents=True)
    for speaker in speakers:
        for digit in range(10):
            samples = np.full(1600 + 8 * digit, digit, np.int16)
            soundfile.write(recordings / f"{digit}_{speaker}_7{suffix}", samples, 8000, subtype="PCM_16")
    return recordings


def read(manifest: Path) -> list[dict[str, Any]]:
    """Reads a manifest without lhotse."""
    with gzip.open(manifest, "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize("suffix", [".flac", ".wav", ".WAV"])
@pytest.mark.parametrize("folder", ["", "fsdd", "free-spoken-digit-dataset-1.0.10"])
def test_reads_names(tmp_path: Path, suffix: str, folder: str) -> None:
    recordings = make_corpus(tmp_path / folder, suffix)
    for other in (".DS_Store", "README.md"):
        (recordings / other).touch()
    manifests = recipe.prepare(tmp_path, tmp_path / "out", tmp_path / "downloads")
    assert manifests == {name: tmp_path / f"out/{name}.jsonl.gz" for name in ("train", "dev")}
    for name, speaker in (("train", TRAIN), ("dev", DEV)):
        cuts = read(manifests[name])
        assert [cut["id"] for cut in cuts] == [f"{digit}_{speaker}_7" for digit in range(10)]
        assert [cut["supervisions"][0]["text"] for cut in cuts] == WORDS
        assert {cut["supervisions"][0]["speaker"] for cut in cuts} == {speaker}
        for digit, cut in enumerate(cuts):
            assert cut["recording"]["sources"][0]["source"] == str(recordings / f"{digit}_{speaker}_7{suffix}")
            assert cut["recording"]["sampling_rate"] == 8000
            assert cut["duration"] == (1600 + 8 * digit) / 8000
    assert not (tmp_path / "downloads").exists()


@pytest.mark.parametrize(
    "name",
    ["10_george_0", "a_george_0", "1_george", "1__0", "1_george_0_1", "1_george_x", "._1_george_0", "²_george_0"],
)
def test_names_a_file_that_is_not_of_the_corpus(tmp_path: Path, name: str) -> None:
    recordings = make_corpus(tmp_path)
    (recordings / f"{name}.wav").touch()
    with pytest.raises(ValueError, match=rf"/{name}\.wav: expected a name like 7_jackson_32\.wav .*, found '{name}"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)


def test_names_the_digits_that_a_speaker_lacks(tmp_path: Path) -> None:
    recordings = make_corpus(tmp_path)
    for digit in (3, 7):
        (recordings / f"{digit}_{DEV}_7.flac").unlink()
    with pytest.raises(ValueError, match=r"recordings: expected every .*, found no THREE, SEVEN by nicolas; get"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("speakers", "lacking"), [((DEV, "yweweler"), "train"), ((TRAIN, "theo"), "dev")])
def test_says_which_split_has_no_speakers(tmp_path: Path, speakers: tuple[str, ...], lacking: str) -> None:
    make_corpus(tmp_path, speakers=speakers)
    with pytest.raises(ValueError, match=rf"found none for {lacking}\. Dev takes the speakers nicolas, yweweler, "):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_refuses_a_folder_without_audio(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings/0_george_0.mp3").touch()
    with pytest.raises(ValueError, match=r"recordings: expected files \.flac or \.wav, found none"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)


def test_refuses_a_folder_that_is_not_the_corpus(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .* is not the Free Spoken Digit Dataset: expected the folder record"):
        recipe.main(["--corpus-dir", str(tmp_path), "--output-dir", str(tmp_path / "out")])


def test_refuses_a_recording_that_comes_twice(tmp_path: Path) -> None:
    recordings = make_corpus(tmp_path)
    soundfile.write(recordings / "0_george_7.wav", np.zeros(1600, np.int16), 8000)
    with pytest.raises(ValueError, match="own id, found '0_george_7' twice"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out/train.jsonl.gz").exists()


def test_names_a_file_that_was_cut_short(tmp_path: Path) -> None:
    recordings = make_corpus(tmp_path, ".wav")
    path = recordings / f"4_{TRAIN}_7.wav"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"utterance 4_george_7: .*4_george_7\.wav: expected .* cut short"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out/train.jsonl.gz").exists()


@pytest.mark.parametrize("n_utterances", [20, 3000])
def test_says_when_recordings_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, n_utterances: int
) -> None:
    make_corpus(tmp_path)
    monkeypatch.setattr(recipe, "N_UTTERANCES", n_utterances)
    recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    warned = f"{tmp_path}/recordings: 20 of 3000 utterances are there" in caplog.messages
    assert warned == (n_utterances == 3000)


def test_fetches_the_corpus_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, list[str]]
) -> None:
    url, asked = server
    make_corpus(tmp_path / "made", ".wav")
    with tarfile.open(tmp_path / "served/v1.0.10.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made", "free-spoken-digit-dataset-1.0.10")
    monkeypatch.setattr(recipe, "ARCHIVE", f"{url}/v1.0.10.tar.gz")
    for _ in range(2):
        manifests = recipe.prepare(None, tmp_path / "out", tmp_path / "downloads")
        assert [len(read(path)) for path in manifests.values()] == [10, 10]
        for archive in (tmp_path / "downloads").glob("fsdd-*/*.tar.gz"):  # the extraction will do
            archive.unlink()
    assert asked == ["/v1.0.10.tar.gz"]


def test_says_what_to_do_where_it_cannot_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, list[str]]
) -> None:
    monkeypatch.setattr(recipe, "ARCHIVE", f"{server[0]}/v1.0.10.tar.gz")
    with pytest.raises(DownloadError, match=r"fsdd could be fetched from none of http.*v1\.0\.10\.tar\.gz; .*--corpus"):
        recipe.prepare(None, tmp_path / "out", tmp_path / "downloads")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the Free Spoken Digit Dataset is not at {REAL}")
def test_the_real_corpus(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifests = recipe.prepare(REAL, tmp_path, tmp_path / "downloads")
    assert not caplog.records
    train, dev = read(manifests["train"]), read(manifests["dev"])
    assert (len(train), len(dev)) == (2000, 1000)
    speakers = [{cut["supervisions"][0]["speaker"] for cut in cuts} for cuts in (train, dev)]
    assert speakers == [{"george", "jackson", "lucas", "theo"}, {"nicolas", "yweweler"}]
    assert speakers[1] == set(random.Random(0).sample(sorted(set.union(*speakers)), 2))
    texts = [cut["supervisions"][0]["text"] for cut in dev]
    assert {word: texts.count(word) for word in texts} == dict.fromkeys(WORDS, 100)
    assert sum(cut["duration"] for cut in train + dev) / 3600 == pytest.approx(0.365, abs=0.0005)
    assert {cut["recording"]["sampling_rate"] for cut in train + dev} == {8000}
