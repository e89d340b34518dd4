"""The LibriSpeech recipe on four genuine utterances, and on a corpus made here for what they cannot show."""

import gzip
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from recipe_scripts import load_prepare

from sru_asr import audio

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared/corpora/LibriSpeech"


recipe = load_prepare("librispeech")


def make_part(corpus: Path, part: str, speaker: int) -> list[str]:
    """Writes a part of two chapters with two utterances each, and returns their ids."""
    ids = []
    for chapter in (10, 9):
        folder = corpus / part / str(speaker) / str(chapter)
        folder.mkdir(parents=True)
        names = [f"{speaker}-{chapter}-{number:04d}" for number in range(2)]
        for name in names:
            soundfile.write(folder / f"{name}.flac", np.zeros(1600, np.int16), 16_000)
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("\n".join(f"{name} IT IS {part}" for name in names))
        ids += names
    return ids


def read(manifest: Path) -> list[dict[str, Any]]:
    """Reads a manifest without lhotse."""
    with gzip.open(manifest, "rt") as lines:
        return [json.loads(line) for line in lines]


def ids(manifest: Path) -> list[str]:
    """The utterances a manifest lists."""
    return [cut["id"] for cut in read(manifest)]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the genuine LibriSpeech utterances are not at {REAL}")
@pytest.mark.parametrize("corpus", [REAL, REAL.parent])
def test_genuine_utterances(tmp_path: Path, corpus: Path) -> None:
    from lhotse import CutSet

    manifests = recipe.prepare(corpus, tmp_path, tmp_path / "downloads", "100", ["test-clean"])
    assert manifests == {"test-clean": tmp_path / "test-clean.jsonl.gz"}
    cuts = list(CutSet.from_file(manifests["test-clean"]))
    assert [cut.id for cut in cuts] == [f"1089-{chapter}-{n:04d}" for chapter in (134686, 134691) for n in range(2)]
    assert cuts[1].supervisions[0].text == "STUFF IT INTO YOU HIS BELLY COUNSELLED HIM"
    assert cuts[1].supervisions[0].speaker == "1089"
    for cut in cuts:
        assert cut.load_audio().shape == (1, cut.num_samples)
        assert cut.num_samples == soundfile.info(cut.recording.sources[0].source).frames > 30_000


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the genuine LibriSpeech utterances are not at {REAL}")
def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    arguments = ["--corpus-dir", str(REAL), "--output-dir", str(tmp_path), "--subset", "100"]
    with pytest.raises(SystemExit, match=r"error: .*found no train-clean-100, dev-clean\. Add .* --parts"):
        recipe.main(arguments)
    recipe.main([*arguments, "--parts", "test-clean"])
    assert len(ids(tmp_path / "test-clean.jsonl.gz")) == 4


def test_train_joins_its_parts_and_dev_is_clean(tmp_path: Path) -> None:
    from lhotse import CutSet

    expected = {
        part: make_part(tmp_path / "LibriSpeech", part, speaker)
        for speaker, part in enumerate([*recipe.SUBSETS["960"].train, "dev-clean", "test-other"])
    }
    manifests = recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "960")
    assert manifests.keys() == expected.keys() | {"train", "dev"}
    assert {part: ids(manifests[part]) for part in expected} == expected
    assert ids(manifests["dev"]) == expected["dev-clean"]
    train = [name for part in recipe.SUBSETS["960"].train for name in expected[part]]
    assert [cut.id for cut in CutSet.from_file(manifests["train"])] == train


def test_mini_takes_its_own_parts(tmp_path: Path) -> None:
    train = make_part(tmp_path, "train-clean-5", 1)
    dev = make_part(tmp_path, "dev-clean-2", 2)
    manifests = recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "mini")
    assert (ids(manifests["train"]), ids(manifests["dev"])) == (train, dev)


def test_keeps_finished_manifests_and_only_those(tmp_path: Path) -> None:
    make_part(tmp_path, "train-clean-5", 1)
    make_part(tmp_path, "dev-clean-2", 2)
    manifests = recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "mini")
    before = {name: path.stat().st_ino for name, path in manifests.items()}
    transcripts = tmp_path / "dev-clean-2/2/9/2-9.trans.txt"
    transcripts.write_text(transcripts.read_text().replace("0001 IT IS", "0001 IT WAS"))
    recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "mini")
    assert manifests["train-clean-5"].stat().st_ino == before["train-clean-5"]
    assert read(manifests["dev"])[-1]["supervisions"][0]["text"] == "IT WAS dev-clean-2"
    shutil.copytree(tmp_path / "dev-clean-2/2/9", tmp_path / "dev-clean-2/3/9")
    for path in (tmp_path / "dev-clean-2/3/9").iterdir():
        text = path.read_bytes()
        path.with_name(path.name.replace("2-9", "3-9")).write_bytes(text.replace(b"2-9", b"3-9"))
        path.unlink()
    recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "mini")
    assert ids(manifests["dev"])[-2:] == ["3-9-0000", "3-9-0001"]
    replaced = tmp_path / "train-clean-5/1/9/1-9-0001.flac"
    os.utime(replaced, (1, 1))
    soundfile.write(replaced, np.zeros(3200, np.int16), 16_000)
    os.utime(replaced, (1, 1))  # as a copy that keeps its time
    recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "mini")
    assert {cut["id"]: cut["duration"] for cut in read(manifests["train-clean-5"])}["1-9-0001"] == 0.2
    whole = manifests["train-clean-5"].read_bytes()
    for damaged in (whole[:-20], whole[:30] + b"\xff\xff\xff\xff" + whole[34:], b"{}\n"):
        manifests["train-clean-5"].write_bytes(damaged)
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "mini")
        assert read(manifests["train-clean-5"])


def test_an_interrupted_run_leaves_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_part(tmp_path, "train-clean-5", 1)
    make_part(tmp_path, "dev-clean-2", 2)
    header, calls = audio.header, []

    def interrupt(path: str) -> audio.Header:
        calls.append(path)
        if len(calls) == 6:  # in the second part
            raise OSError("the disk is gone")
        return header(path)

    with monkeypatch.context() as patch:
        patch.setattr(audio, "header", interrupt)
        with pytest.raises(OSError, match="the disk is gone"):
            recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "mini")
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["train-clean-5.jsonl.gz"]
    assert len(ids(recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "mini")["dev"])) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1-9-0001", r"1-9\.trans\.txt:2: expected 'UTTERANCE-ID WORDS' and its audio, found '1-9-0001'"),
        ("1-9-0007 YES", r"1-9\.trans\.txt:2: expected .*, found no .*1-9-0007\.flac"),
    ],
)
def test_names_the_line_of_a_bad_transcript(tmp_path: Path, line: str, message: str) -> None:
    make_part(tmp_path, "train-clean-5", 1)
    (tmp_path / "train-clean-5/1/9/1-9.trans.txt").write_text(f"1-9-0000 YES\n{line}\n")
    with pytest.raises(ValueError, match=message):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "mini", ["train-clean-5"])


def test_names_the_line_that_is_not_utf_8(tmp_path: Path) -> None:
    make_part(tmp_path, "train-clean-5", 1)
    (tmp_path / "train-clean-5/1/9/1-9.trans.txt").write_bytes(b"1-9-0000 YES\n1-9-0001 OL\xc9\n")
    with pytest.raises(ValueError, match=r"1-9\.trans\.txt:2: expected text in UTF-8, found the byte 0xc9"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "mini", ["train-clean-5"])


def test_never_decodes_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_part(tmp_path, "train-clean-5", 1)
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    monkeypatch.setattr(soundfile.SoundFile, "buffer_read", None)
    recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "mini", ["train-clean-5"])


def test_refuses_names_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="subset: expected one of mini, 100, 960, found '50'"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "50")
    with pytest.raises(ValueError, match=r"parts: expected some of .*, found test"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path, "100", ["test", "test-clean"])


def test_fetches_what_it_was_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, path: Path, *, sha256: str | None, md5: str | None) -> Path:
        part = Path(url).name.removesuffix(".tar.gz")
        asked.append((url, md5))
        make_part(tmp_path / "served/LibriSpeech", part, len(asked))
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tmp_path / "served/LibriSpeech" / part, f"LibriSpeech/{part}")
        return path

    monkeypatch.setattr(recipe, "download", download)
    for _ in range(2):  # the second time nothing is fetched
        manifests = recipe.prepare(None, tmp_path / "out", tmp_path / "downloads", "mini")
    assert asked == [
        ("https://www.openslr.org/resources/31/train-clean-5.tar.gz", "5df7d4e78065366204ca6845bb08f490"),
        ("https://www.openslr.org/resources/31/dev-clean-2.tar.gz", "6d7ab67ac6a1d2c993d050e16d61080d"),
    ]
    assert ids(manifests["dev"])[0] == "2-10-0000"


def test_checksums_are_torchaudios() -> None:
    from torchaudio.datasets.librispeech import _CHECKSUMS

    found = {f"http://www.openslr.org/resources/{part.archive}": part.sha256 for part in recipe.PARTS.values()}
    assert {url: found[url] for url in _CHECKSUMS} == _CHECKSUMS
