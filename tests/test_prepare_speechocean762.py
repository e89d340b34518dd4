"""The speechocean762 recipe: every audio format and fault in a corpus made here, and the real training part."""

import gzip
import json
import os
import random
import resource
import shutil
import signal
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from recipe_scripts import load_prepare

from sru_asr import audio
from sru_asr.corpus import Utterance, copy_of, flac_copies, write_flac
from sru_asr.download import DownloadError

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared/corpora/speechocean762"
TRAIN, DEV, TEST = "0001", "3423", "0003"


recipe = load_prepare("speechocean762")
texts = load_prepare("speechocean762", "texts")


def tone(seed: int) -> np.ndarray:
    """Half a second of a tone of its own, which Opus leaves what it is."""
    return np.round(8000 * np.sin(2 * np.pi * (200 + 50 * seed) * np.arange(8000) / 16_000)).astype(np.int16)


def write(path: Path, samples: np.ndarray) -> None:
    """Writes audio as the ending of its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".opus": ("OGG", "OPUS"), ".flac": ("FLAC", "PCM_16")}.get(path.suffix, ("WAV", "PCM_16"))
    soundfile.write(path, samples, 16_000, format=kind[0], subtype=kind[1])


def make_corpus(
    corpus: Path, suffix: str = ".WAV", speakers: tuple[str, ...] = (TRAIN, DEV), test: bool = True
) -> dict[str, np.ndarray]:
    """Writes a tiny speechocean762, whose wav.scp says .WAV in any case; returns its audio by utterance id."""
    made: dict[str, np.ndarray] = {}
    for part, ids in (("train", speakers), ("test", (TEST,)))[: 1 + test]:
        tables: dict[str, list[str]] = {"text": [], "utt2spk": [], "wav.scp": []}
        for speaker in ids:
            for number in range(2):
                utterance_id = f"{speaker}{number:05d}"
                made[utterance_id] = tone(len(made))
                write(corpus / f"WAVE/SPEAKER{speaker}/{utterance_id}{suffix}", made[utterance_id])
                tables["text"].append(f"{utterance_id}\tSPEAKER {speaker} SAYS  {number}")
                tables["utt2spk"].append(f"{utterance_id} {speaker}")
                tables["wav.scp"].append(f"{utterance_id}\tWAVE/SPEAKER{speaker}/{utterance_id}.WAV")
        tables["spk2gender"] = [f"{speaker} f" for speaker in ids]
        tables["spk2age"] = [f"{speaker}\t{15 if speaker == DEV else 16}" for speaker in ids]
        (corpus / part).mkdir(parents=True)
        for name, lines in tables.items():
            (corpus / part / name).write_text("\n".join(lines) + "\n")
    return made


def read(manifest: Path) -> list[dict[str, Any]]:
    """Reads a manifest without lhotse."""
    with gzip.open(manifest, "rt") as lines:
        return [json.loads(line) for line in lines]


def source(cut: dict[str, Any]) -> Path:
    """The audio file of a cut."""
    return Path(cut["recording"]["sources"][0]["source"])


@pytest.mark.parametrize("suffix", [".WAV", ".wav", ".flac", ".opus"])
def test_reads_every_format(tmp_path: Path, suffix: str) -> None:
    made = make_corpus(tmp_path / "speechocean762", suffix)
    manifests = recipe.prepare(tmp_path, tmp_path / "out", tmp_path / "downloads")  # the parent will do as well
    assert manifests == {name: tmp_path / f"out/{name}.jsonl.gz" for name in ("train", "dev", "test")}
    for name, speaker in (("train", TRAIN), ("dev", DEV), ("test", TEST)):
        cuts = read(manifests[name])
        assert [cut["id"] for cut in cuts] == [f"{speaker}00000", f"{speaker}00001"]
        for number, cut in enumerate(cuts):
            (supervision,) = cut["supervisions"]
            assert (supervision["text"], supervision["speaker"]) == (f"SPEAKER {speaker} SAYS  {number}", speaker)
            assert supervision["custom"] == {"gender": "f", "age": "child" if speaker == DEV else "adult"}
            assert (cut["recording"]["sampling_rate"], cut["duration"]) == (16_000, 0.5)
            found = soundfile.read(source(cut), dtype="int16")[0]
            if suffix == ".opus":
                opus = tmp_path / f"speechocean762/WAVE/SPEAKER{speaker}/{cut['id']}.opus"
                assert source(cut) == copy_of(opus, tmp_path / "out/audio", cut["id"])
                assert np.corrcoef(found, made[cut["id"]])[0, 1] > 0.98
            else:
                assert source(cut) == tmp_path / f"speechocean762/WAVE/SPEAKER{speaker}/{cut['id']}{suffix}"
                np.testing.assert_array_equal(found, made[cut["id"]])
    assert (tmp_path / "out/audio").exists() == (suffix == ".opus")
    assert not (tmp_path / "downloads").exists()


def test_takes_the_file_that_wav_scp_names(tmp_path: Path) -> None:
    make_corpus(tmp_path, ".WAV", test=False)
    for path in list(tmp_path.glob("WAVE/*/*.WAV")):
        write(path.with_suffix(".flac"), tone(0))
    scp = tmp_path / "train/wav.scp"
    lines = scp.read_text().splitlines()
    scp.write_text("\n".join([lines[0].replace(".WAV", ".flac"), *lines[1:]]))
    cuts = read(recipe.prepare(tmp_path, tmp_path / "out", tmp_path)["train"])
    assert [source(cut).suffix for cut in cuts] == [".flac", ".WAV"]


def test_decodes_only_what_is_new(tmp_path: Path) -> None:
    make_corpus(tmp_path, ".opus", test=False)
    opus = sorted(tmp_path.glob("WAVE/*/*.opus"))
    copies = [copy_of(path, tmp_path / "out/audio", path.stem) for path in opus]
    inodes = []
    for _ in range(2):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
        inodes.append([path.stat().st_ino for path in copies])
        assert sorted((tmp_path / "out/audio").iterdir()) == sorted(copies)  # and nothing half written
    assert inodes[0] == inodes[1]
    write(opus[0], tone(9))
    later = copies[0].stat().st_mtime + 10
    os.utime(opus[0], (later, later))
    recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    copy = copy_of(opus[0], tmp_path / "out/audio", opus[0].stem)
    assert np.corrcoef(soundfile.read(copy)[0], tone(9))[0, 1] > 0.98
    assert copies[1].stat().st_ino == inodes[0][1]


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/../../evil"])
def test_a_copy_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.opus").write_bytes(b"")
    with pytest.raises(ValueError, match=r"evil.* would leave"):
        copy_of(tmp_path / "a.opus", tmp_path / "out/audio", name)
    assert copy_of(tmp_path / "a.opus", tmp_path / "out", "an4_clstk/x").parent == tmp_path / "out/an4_clstk"


def test_two_corpora_in_one_folder_keep_their_own_audio(tmp_path: Path) -> None:
    """Copies used to be found by the utterance's name alone."""
    found = []
    for name, number in (("first", 1), ("second", 9)):
        write(tmp_path / name / "a.opus", tone(number))
        found += flac_copies([Utterance("a", tmp_path / name / "a.opus", "TEXT", "speaker")], tmp_path / "copies")
    for utterance, number in zip(found, (1, 9), strict=True):
        assert np.corrcoef(soundfile.read(utterance.audio)[0], tone(number))[0, 1] > 0.98


def test_a_copy_that_the_disk_has_no_room_for_is_not_kept(tmp_path: Path) -> None:
    """The last samples are written when soundfile closes a file, which says nothing of it."""
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 16_000).astype(np.int16)
    write_flac(tmp_path / "whole.flac", samples, 16_000)
    size = (tmp_path / "whole.flac").stat().st_size
    old, signals = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for room in (1_000, size // 2, size - 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
            with pytest.raises(OSError, match=r"damaged\.flac could not be written .*is the disk full\?"):
                write_flac(tmp_path / "damaged.flac", samples, 16_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, signals)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.flac"]


def test_copies_do_not_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_corpus(tmp_path, ".opus", test=False)
    waveform = torch.tensor([0.0, 1.5, -2.0, 1.0] * 400)
    monkeypatch.setattr(audio, "read", lambda path: waveform)
    manifests = recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    found = soundfile.read(source(read(manifests["dev"])[0]))[0]
    np.testing.assert_allclose(found, waveform / 2, atol=1e-4)


@pytest.mark.parametrize("tables", [False, True])
def test_does_without_a_test_part(tmp_path: Path, caplog: pytest.LogCaptureFixture, tables: bool) -> None:
    make_corpus(tmp_path, test=tables)
    if tables:
        shutil.rmtree(tmp_path / f"WAVE/SPEAKER{TEST}")
    assert list(recipe.prepare(tmp_path, tmp_path / "out", tmp_path)) == ["train", "dev"]
    assert f"{tmp_path} has no test part: expected test/wav.scp and the audio that it names" in caplog.messages


@pytest.mark.parametrize(("part", "speaker"), [("train", TRAIN), ("test", TEST)])
def test_names_missing_audio(tmp_path: Path, part: str, speaker: str) -> None:
    make_corpus(tmp_path, ".flac")
    (tmp_path / f"WAVE/SPEAKER{speaker}/{speaker}00001.flac").unlink()
    message = rf"{part}/wav\.scp: {speaker}00001: expected one of .*00001\.WAV, .*00001\.wav, .*\.opus, found none; get"
    with pytest.raises(ValueError, match=message):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["text", "utt2spk", "wav.scp"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"000100001", r":2: expected 'UTTERANCE-ID VALUE', found '000100001'"),
        (b"000100001\t", r":2: expected 'UTTERANCE-ID VALUE', found"),
        (b"000100000 X", ":2: expected one line of each utterance, found 000100000 twice"),
        (b"000100001 OL\xc9", ":2: expected text in UTF-8, found the byte 0xc9"),
    ],
)
def test_names_the_line_of_a_bad_table(tmp_path: Path, name: str, line: bytes, message: str) -> None:
    make_corpus(tmp_path)
    path = tmp_path / "train" / name
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(ValueError, match=rf"train/{name}{message}"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)


@pytest.mark.parametrize(("name", "other"), [("text", "utt2spk"), ("utt2spk", "utt2spk"), ("wav.scp", "wav.scp")])
def test_names_the_utterance_that_a_table_lacks(tmp_path: Path, name: str, other: str) -> None:
    make_corpus(tmp_path)
    path = tmp_path / "train" / name
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("000100001")))
    message = rf"train/{name}: expected the same utterances in text and {other}, found no line of 000100001; get"
    with pytest.raises(ValueError, match=message):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)


def test_empty_lines_and_blanks_are_no_fault(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    for name in ("text", "utt2spk", "wav.scp"):
        path = tmp_path / "train" / name
        path.write_text(path.read_text().replace("\n", " \n\n"))
    cuts = read(recipe.prepare(tmp_path, tmp_path / "out", tmp_path)["train"])
    assert [cut["supervisions"][0]["text"] for cut in cuts] == [f"SPEAKER {TRAIN} SAYS  {number}" for number in (0, 1)]


@pytest.mark.parametrize("name", ["utt2spk", "wav.scp"])
def test_says_which_table_is_missing(tmp_path: Path, name: str) -> None:
    make_corpus(tmp_path)
    (tmp_path / "train" / name).unlink()
    with pytest.raises(ValueError, match=rf"there is no .*train/{name}: give the folder of the whole corpus"):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [(".WAV", r"utterance 000100000: .*00000\.WAV: .* cut short"), (".opus", r"00000\.opus: exp")],
)
def test_names_a_file_that_was_cut_short(tmp_path: Path, suffix: str, message: str) -> None:
    make_corpus(tmp_path, suffix)
    path = tmp_path / f"WAVE/SPEAKER{TRAIN}/{TRAIN}00000{suffix}"
    path.write_bytes(path.read_bytes()[: 1000 if suffix == ".WAV" else 40])
    with pytest.raises(ValueError, match=message):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out/train.jsonl.gz").exists()


@pytest.mark.parametrize(("speakers", "lacking"), [((DEV, "9034"), "train"), ((TRAIN, "0005"), "dev")])
def test_says_which_split_has_no_speakers(tmp_path: Path, speakers: tuple[str, ...], lacking: str) -> None:
    make_corpus(tmp_path, speakers=speakers)
    with pytest.raises(ValueError, match=rf"/train: .* found none for {lacking}\. Dev takes the speakers 0048, 1029, "):
        recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("n_utterances", [4, 2500])
def test_says_when_utterances_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, n_utterances: int
) -> None:
    make_corpus(tmp_path)
    monkeypatch.setattr(recipe, "N_UTTERANCES", n_utterances)
    recipe.prepare(tmp_path, tmp_path / "out", tmp_path)
    warned = f"{tmp_path}/train: 4 of 2500 utterances are there" in caplog.messages
    assert warned == (n_utterances == 2500)
    assert f"{tmp_path}/test: 2 of {n_utterances} utterances are there" in caplog.messages


def test_refuses_a_folder_that_is_not_the_corpus(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .* is not speechocean762: expected train/text in it"):
        recipe.main(["--corpus-dir", str(tmp_path), "--output-dir", str(tmp_path / "out")])


def test_fetches_from_the_next_address_when_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, list[str]]
) -> None:
    url, asked = server
    make_corpus(tmp_path / "made")
    (tmp_path / "served/mirror").mkdir()
    with tarfile.open(tmp_path / "served/mirror/speechocean762.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made", "speechocean762")
    paths = ["/speechocean762.tar.gz", "/mirror/speechocean762.tar.gz", "/third/speechocean762.tar.gz"]
    monkeypatch.setattr(recipe, "ARCHIVES", [url + path for path in paths])
    for _ in range(2):  # the second time nothing is fetched
        manifests = recipe.prepare(None, tmp_path / "out", tmp_path / "downloads")
        assert [len(read(path)) for path in manifests.values()] == [2, 2, 2]
        for archive in (tmp_path / "downloads").glob("speechocean762-*/*.tar.gz"):  # the extraction will do
            archive.unlink()
    assert asked == paths[:2]


def test_says_so_when_no_address_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, server: tuple[str, list[str]]
) -> None:
    monkeypatch.setattr(recipe, "ARCHIVES", [f"{server[0]}/a.tar.gz", f"{server[0]}/b.tar.gz"])
    with pytest.raises(DownloadError, match=r"none of http.*/a\.tar\.gz, http.*/b\.tar\.gz;.*--corpus-dir"):
        recipe.prepare(None, tmp_path / "out", tmp_path / "downloads")
    assert ["404" in message for message in caplog.messages] == [True, True]


def values(path: Path) -> dict[str, str]:
    """Reads a file of Kaldi's."""
    return dict(line.split() for line in path.read_text().splitlines())


@pytest.mark.skipif(not REAL.is_dir(), reason=f"speechocean762 is not at {REAL}")
def test_development_speakers_are_drawn_as_said() -> None:
    age, gender = values(REAL / "train/spk2age"), values(REAL / "train/spk2gender")
    draw, drawn, sizes = random.Random(0), [], []
    for child, sex in ((True, "f"), (True, "m"), (False, "f"), (False, "m")):
        ids = sorted(speaker for speaker in age if (int(age[speaker]) < 16, gender[speaker]) == (child, sex))
        drawn += draw.sample(ids, 3)
        sizes.append(len(ids))
    assert sizes == [26, 32, 41, 26]
    assert set(drawn) == recipe.DEV_SPEAKERS


@pytest.mark.skipif(not REAL.is_dir(), reason=f"speechocean762 is not at {REAL}")
def test_the_real_training_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recipe, "flac_copies", lambda utterances, folder: utterances)  # which takes a minute
    manifests = recipe.prepare(REAL, tmp_path, tmp_path / "downloads")
    assert [message for message in caplog.messages if "utterances are there" in message] == []
    cuts = {name: read(manifests[name]) for name in ("train", "dev")}
    assert [len(part) for part in cuts.values()] == [2260, 240]
    speakers = [{cut["supervisions"][0]["speaker"] for cut in part} for part in cuts.values()]
    assert [len(part) for part in speakers] == [113, 12]
    assert speakers[1] == recipe.DEV_SPEAKERS
    texts = [{cut["supervisions"][0]["text"] for cut in part} for part in cuts.values()]
    assert [len(part) for part in texts] == [2260, 240]
    assert texts[0].isdisjoint(texts[1])
    assert set(" ".join(set.union(*texts))) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")
    assert sum(len(text.split()) for text in texts[1]) == 1548
    hours = sum(cut["duration"] for part in cuts.values() for cut in part) / 3600
    assert hours == pytest.approx(2.876, abs=0.0005)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"speechocean762 is not at {REAL}")
def test_a_real_file_is_copied_whole(tmp_path: Path) -> None:
    path = REAL / "WAVE/SPEAKER0001/000010011.opus"
    if not path.is_file():
        pytest.skip(f"{path} is not there: no Opus to decode")
    copy = flac_copies([Utterance("000010011", path, "WE CALL IT BEAR", "0001")], tmp_path)[0].audio
    np.testing.assert_allclose(soundfile.read(copy)[0], audio.read(path), atol=2**-15)


def make_wordnet(folder: Path, examples: dict[str, list[str]]) -> Path:
    """Writes a dictionary in WordNet's format: a licence, then a line for each meaning, its examples at the end."""
    folder.mkdir()
    for part in texts.PARTS:
        lines = ['  1 This software and database is being provided to you; "the software" is WordNet  ']
        for quoted in examples.get(part, ["never mind"]):
            lines.append(
                f'00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | what is (or was); "{quoted}"; "{quoted}!"  '
            )
        (folder / f"data.{part}").write_text("\n".join(lines), encoding="latin-1")
    return folder


def test_examples_of_a_dictionary_become_texts(tmp_path: Path) -> None:
    often = [f"the {'big ' * n}dog isn't well-known" for n in range(6)]
    rare = ["the dog chased a quokka", "at 5 o'clock the dog", "the dog"]
    folder = make_wordnet(tmp_path / "dict", {"noun": often[:3], "verb": [*rare, *often[3:]]})
    found = list(texts.examples(folder))
    assert found.count("NEVER MIND") == 4
    assert found.count("THE DOG ISN'T WELL KNOWN") == 2
    assert list(texts.examples(make_wordnet(tmp_path / "us", {"adv": ["the U.S. navy"]})))[-1] == "THE U S NAVY"
    assert not any("SOFTWARE" in text for text in found)
    # Neither short nor with rare words or digits, each once; BIG is in five texts.
    assert texts.common(found) == [f"THE {'BIG ' * n}DOG ISN'T WELL KNOWN" for n in range(5)]
    (folder / "data.adv").write_text("no example")
    with pytest.raises(ValueError, match=r"data.adv: expected examples"):
        list(texts.examples(folder))
    (folder / "data.adv").unlink()
    with pytest.raises(ValueError, match=r"found no data.adv: fetch it with npm pack"):
        list(texts.examples(folder))


def test_every_fourth_text_is_the_training_parts_own_until_none_is_left() -> None:
    general, own = [f"G{n}" for n in range(20)], [f"O{n}" for n in range(4)]
    lines = texts.mixed(general, own, 0)
    assert sorted(lines) == sorted(general + own)
    assert [n for n, line in enumerate(lines) if line[0] == "O"] == [0, 4, 8, 12]
    assert lines == texts.mixed(general, own, 0) != texts.mixed(general, own, 1)
    assert texts.mixed([], own, 0) != own  # in an order that is drawn


def test_texts_are_written_of_the_manifest_and_the_dictionary(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_corpus(tmp_path / "corpus")
    said = tmp_path / "corpus/train/text"
    said.write_text(said.read_text().replace(f"SPEAKER {TRAIN} SAYS  0", "Speaker, say it"))  # the other has digits
    manifests = recipe.prepare(tmp_path / "corpus", tmp_path / "out", tmp_path)
    folder = make_wordnet(tmp_path / "dict", {"noun": [f"the {'big ' * n}dog" for n in range(6)]})
    command = ["--wordnet-dir", str(folder), "--output", str(tmp_path / "new/texts.txt"), "--manifest"]
    texts.main([*command, str(manifests["train"])])
    lines = (tmp_path / "new/texts.txt").read_text().splitlines()
    assert lines[0] == "SPEAKER SAY IT"
    assert sorted(lines[1:]) == sorted(f"THE {'BIG ' * n}DOG" for n in range(1, 6))
    assert "6 texts, 1 of them of train.jsonl.gz" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"there is no manifest .*none.jsonl.gz"):
        texts.main([*command, str(tmp_path / "none.jsonl.gz")])
