"""The AN4 recipe: every audio format of the distribution in a corpus made here, and the real training part."""

import gzip
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from recipe_scripts import load_prepare

from sru_asr.download import DownloadError
from sru_asr.model import load_model

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared/corpora/an4"
TRAIN, DEV, TEST = "mdcs", "fmjc", "fcaw"


recipe = load_prepare("an4")


def samples(seed: int, quiet: bool = False) -> np.ndarray:
    """Half a second that changes as slowly as speech does: two tones and noise, or room noise of one step only."""
    random = np.random.default_rng(seed)
    if quiet:
        return random.integers(-1, 2, 8000).astype(np.int16)
    time = np.arange(8000) / 16_000
    tones = 3000 * np.sin(2 * np.pi * 150 * time) + 500 * np.sin(2 * np.pi * 2500 * time)
    return (tones + random.normal(0, 20, 8000)).astype(np.int16)


def write(stem: Path, kind: str, data: np.ndarray) -> None:
    """Writes audio in one of the forms in which AN4 is distributed, or in which people keep it."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    if kind in ("<", ">"):
        stem.with_suffix(".raw").write_bytes(data.astype(f"{kind}i2").tobytes())
    elif kind == "sph":
        soundfile.write(stem.with_suffix(".sph"), data, 16_000, format="NIST", subtype="PCM_16", endian="BIG")
    else:
        soundfile.write(stem.with_suffix(f".{kind}"), data, 16_000, subtype="PCM_16")


def make_corpus(corpus: Path, kind: str = "flac", test: bool = True) -> dict[str, np.ndarray]:
    """Writes a tiny AN4 and returns its audio by utterance id."""
    audio: dict[str, np.ndarray] = {}
    (corpus / "etc").mkdir(parents=True)
    for part, speakers in (("train", (TRAIN, DEV)), ("test", (TEST,)))[: 1 + test]:
        fileids, transcripts = [], []
        for speaker in speakers:
            for number in range(2):
                utterance_id = f"an{number}-{speaker}-b"
                fileid = f"{'an4_clstk' if part == 'train' else 'an4test_clstk'}/{speaker}/{utterance_id}"
                audio[utterance_id] = samples(len(audio), quiet=number == 1)
                write(corpus / "wav" / fileid, kind, audio[utterance_id])
                fileids.append(fileid)
                marks = ("<s> ", " </s>") if part == "train" else ("", "")  # the official test part has none
                transcripts.append(f"{marks[0]}RUBOUT {speaker.upper()} SIX{marks[1]} ({utterance_id})")
        (corpus / f"etc/an4_{part}.fileids").write_text("\n".join(fileids) + "\n")
        (corpus / f"etc/an4_{part}.transcription").write_text("\n".join(transcripts) + "\n")
    return audio


def read(manifest: Path) -> list[dict[str, Any]]:
    """Reads a manifest without lhotse."""
    with gzip.open(manifest, "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize("kind", ["<", ">", "sph", "flac", "wav"])
def test_reads_every_format(tmp_path: Path, kind: str) -> None:
    from lhotse import CutSet

    audio = make_corpus(tmp_path / "an4", kind)
    manifests = recipe.prepare(tmp_path, tmp_path / "out", tmp_path / "downloads")  # the parent will do as well
    assert list(manifests) == ["train", "dev", "test"]
    for name, speaker in (("train", TRAIN), ("dev", DEV), ("test", TEST)):
        assert manifests[name] == tmp_path / "out" / f"{name}.jsonl.gz"
        cuts = list(CutSet.from_file(manifests[name]))
        assert [cut.id for cut in cuts] == [f"an0-{speaker}-b", f"an1-{speaker}-b"]
        for cut in cuts:
            (supervision,) = cut.supervisions
            assert (supervision.text, supervision.speaker) == (f"RUBOUT {speaker.upper()} SIX", speaker)
            assert (cut.sampling_rate, cut.duration, supervision.duration) == (16_000, 0.5, 0.5)
            found = np.round(cut.load_audio()[0] * 2**15).astype(np.int16)
            np.testing.assert_array_equal(found, audio[cut.id])
    assert not (tmp_path / "downloads").exists()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("quiet", [False, True])
def test_tells_the_byte_order(order: str, quiet: bool) -> None:
    assert recipe.byte_order(samples(1, quiet).astype(f"{order}i2").tobytes()) == order


def test_does_without_a_test_part(tmp_path: Path) -> None:
    make_corpus(tmp_path, test=False)
    assert list(recipe.prepare(tmp_path, tmp_path / "out", tmp_path)) == ["train", "dev"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "<s> YES </s>",
            r"an4_train\.transcription:2: expected '<s> WORDS </s> \(UTTERANCE-ID\)', found '<s> YES </s>'",
        ),
        ("<s> </s> (an1-mdcs-b)", r"an4_train\.transcription:2: expected"),
        ("<s> YES </s> (an7-mdcs-b)", r"an4_train\.fileids:2: an1-mdcs-b has no line in etc/an4_train\.transcription"),
    ],
)
def test_names_the_line_of_a_bad_transcript(tmp_path: Path, line: str, message: str) -> None:
    make_corpus(tmp_path)
    path = tmp_path / "etc/an4_train.transcription"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(ValueError, match=message):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)


def test_names_the_line_of_missing_audio(tmp_path: Path) -> None:
    make_corpus(tmp_path, "sph")
    (tmp_path / "wav/an4_clstk/mdcs/an1-mdcs-b.sph").unlink()
    with pytest.raises(ValueError, match=r"an4_train\.fileids:2: expected one of .*an1-mdcs-b\.sph.* found none"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".raw", b"odd", r"an0-mdcs-b\.raw: expected 16-bit samples, found 3 bytes"),
        (".sph", b"NIST_1A\n", r"an0-mdcs-b\.sph: expected WAV, FLAC"),
        (".flac", b"fLaC", r"utterance an0-mdcs-b: .*an0-mdcs-b\.flac: expected WAV, FLAC"),
    ],
)
def test_names_an_unreadable_file(tmp_path: Path, suffix: str, content: bytes, message: str) -> None:
    make_corpus(tmp_path)
    stem = tmp_path / "wav/an4_clstk/mdcs/an0-mdcs-b"
    stem.with_suffix(".flac").unlink()
    stem.with_suffix(suffix).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out/train.jsonl.gz").exists()


@pytest.mark.parametrize("kind", ["sph", "wav"])
def test_names_a_file_that_was_cut_short(tmp_path: Path, kind: str) -> None:
    """The half that is there is read without complaint, and a model learned to hear all of the text in it."""
    make_corpus(tmp_path, kind)
    path = tmp_path / f"wav/an4_clstk/mdcs/an0-mdcs-b.{kind}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"an0-mdcs-b\.{kind}: expected .* cut short"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out/train.jsonl.gz").exists()


@pytest.mark.parametrize("name", ["an4_train.fileids", "an4_train.transcription"])
def test_names_the_line_that_is_not_utf_8(tmp_path: Path, name: str) -> None:
    make_corpus(tmp_path)
    path = tmp_path / "etc" / name
    path.write_bytes(path.read_bytes() + b"<s> OL\xc9 </s> (x)\n")
    with pytest.raises(ValueError, match=rf"{name}:5: expected text in UTF-8, found the byte 0xc9 at b'<s> OL"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)


def test_refuses_an_utterance_that_comes_twice(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    path = tmp_path / "etc/an4_train.fileids"
    path.write_text(path.read_text() + "an4_clstk/mdcs/an0-mdcs-b\n")
    with pytest.raises(ValueError, match="own id, found 'an0-mdcs-b' twice"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir() if "train.jsonl.gz" in path.name] == []


def test_refuses_a_folder_that_is_not_the_corpus(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .* is not AN4: expected etc/an4_train\.fileids in it"):
        recipe.main(["--corpus-dir", str(tmp_path), "--output-dir", str(tmp_path / "out")])


def test_fetches_from_the_next_address_when_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_corpus(tmp_path / "an4", "sph")
    with tarfile.open(tmp_path / "served.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "an4", "an4")
    asked = []

    def download(url: str, path: Path, *, sha256: str | None) -> Path:
        asked.append(url)
        if len(asked) < len(recipe.ARCHIVES):
            raise DownloadError(f"could not fetch {url}")
        path.parent.mkdir(parents=True)
        return (tmp_path / "served.tar.gz").rename(path)

    monkeypatch.setattr("sru_asr.download.download", download)
    for _ in range(2):  # the second time nothing is fetched
        manifests = recipe.prepare(None, tmp_path / "out", tmp_path / "downloads")
        assert [len(read(path)) for path in manifests.values()] == [2, 2, 2]
        assert asked == [url for url, _ in recipe.ARCHIVES]


def test_says_so_when_no_address_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, path: Path, *, sha256: str | None) -> Path:
        raise DownloadError(f"could not fetch {url}")

    monkeypatch.setattr("sru_asr.download.download", download)
    with pytest.raises(DownloadError, match=r"none of https://.*an4_sphere\.tar\.gz.*--corpus-dir"):
        recipe.prepare(None, tmp_path / "out", tmp_path / "downloads")


def test_development_speakers_are_balanced() -> None:
    assert sorted(speaker[0] for speaker in recipe.DEV_SPEAKERS) == ["f"] * 5 + ["m"] * 5


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the AN4 corpus is not at {REAL}")
def test_the_real_training_part(tmp_path: Path) -> None:
    manifests = recipe.prepare(REAL, tmp_path, tmp_path / "downloads")
    train, dev = read(manifests["train"]), read(manifests["dev"])
    assert (len(train), len(dev)) == (817, 131)
    speakers = [{cut["supervisions"][0]["speaker"] for cut in cuts} for cuts in (train, dev)]
    assert [len(part) for part in speakers] == [64, 10]
    # Not even two sessions of what may be one person ("mdcs", "mdcs2") are on both sides.
    people = [{speaker.rstrip("0123456789") for speaker in part} for part in speakers]
    assert people[0].isdisjoint(people[1])
    hours = sum(cut["duration"] for cut in train + dev) / 3600
    assert hours == pytest.approx(0.71, abs=0.005)
    assert all(Path(cut["recording"]["sources"][0]["source"]).is_file() for cut in train + dev)
    texts = " ".join(cut["supervisions"][0]["text"] for cut in train + dev)
    assert set(texts) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ ")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the AN4 corpus is not at {REAL}")
def test_the_recipe_trains_on_words_and_synthetic_speech_too(tmp_path: Path) -> None:
    options = {
        "--corpus-dir": REAL,
        "--prepared-dir": tmp_path / "prepared",
        "--output-dir": tmp_path / "run",
        "--trainer.max_steps": 2,
        "--trainer.limit_val_batches": 1,
    }
    script = ROOT / "recipes/an4/train.py"
    command = [sys.executable, script, *(str(part) for option in options.items() for part in option)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load_model(tmp_path / "run").training_data["settings"]["data_sets"] == {
        "train": ["an4/train.jsonl.gz", "an4/words.jsonl.gz", "alphanum/train-1000.jsonl.gz"],
        "dev": ["an4/dev.jsonl.gz"],
    }


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the AN4 corpus is not at {REAL}")
def test_tells_the_byte_order_of_real_speech() -> None:
    paths = sorted(REAL.glob("wav/an4_clstk/*/*.flac"))[::20]
    for path in paths:
        pcm = soundfile.read(path, dtype="int16")[0]
        for order in ("<", ">"):
            assert recipe.byte_order(pcm.astype(f"{order}i2").tobytes()) == order, path
