import gzip
import json
import math
import random
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import full_disk
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lhotse import AudioSource, CutSet, MonoCut, Recording, SupervisionSegment, fastcopy

from sru_asr import audio
from sru_asr import corpus as corpus_module
from sru_asr import manifest as manifest_module
from sru_asr.audio import AudioError
from sru_asr.audio import read as read_audio
from sru_asr.augment import AugmentConfig, Augmented
from sru_asr.data import Batch, BatchSampler, SpeechDataset, load_waveform, make_loader
from sru_asr.manifest import (
    ManifestError,
    digest,
    field,
    file_of,
    load_manifest,
    place,
    read_manifest,
    refuse_shared,
    too_fast,
    validate,
)
from sru_asr.text import BLANK, CharTokenizer

TOKENIZER = CharTokenizer()
VALID = {"max_seconds": 20.0, "min_seconds": 0.1}


def write_audio(path: Path, seconds: float, rate: int = 16_000, channels: int = 1, **kind: str) -> Path:
    """A tone of 200 Hz."""
    tone = 0.3 * np.sin(2 * np.pi * 200 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.tile(tone[:, None], (1, channels)), rate, **kind)
    return path


def make_cut(
    cut_id: str, seconds: float, file: Path | str = "nowhere.wav", text: str | None = "HELLO", rate: int = 16_000
) -> MonoCut:
    recording = Recording(cut_id, [AudioSource("file", [0], str(file))], rate, round(seconds * rate), seconds)
    supervision = SupervisionSegment(cut_id, cut_id, 0.0, seconds, text=text, speaker=f"speaker of {cut_id}")
    return MonoCut(cut_id, 0.0, seconds, 0, recording=recording, supervisions=[supervision])


def write_lines(path: Path, *entries: object) -> Path:
    path.write_text("".join(f"{entry if isinstance(entry, str) else json.dumps(entry)}\n" for entry in entries))
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> CutSet:
    """Twelve utterances of 0.3 to 1.4 s."""
    seconds = [0.3 + 0.1 * i for i in range(12)]
    return CutSet.from_cuts(
        make_cut(f"u{i}", s, write_audio(tmp_path / f"{i}.wav", s), text=f"word {'abc'[i % 3]}")
        for i, s in enumerate(seconds)
    )


# Manifests


def test_json_lines_become_cuts(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_audio(tmp_path / "sub" / "a.flac", 0.5, rate=8000)
    absolute = write_audio(tmp_path / "b.wav", 0.25)
    manifest = write_lines(
        tmp_path / "m.jsonl",
        {"audio": "sub/a.flac", "text": "one"},
        "",
        {"audio": str(absolute), "text": "two", "id": "second", "speaker": "s", "other": 1},
    )
    first, second = load_manifest(manifest)
    assert (first.id, first.duration, first.sampling_rate, first.supervisions[0].speaker) == (
        "sub/a.flac",
        0.5,
        8000,
        None,
    )
    assert (second.id, second.supervisions[0].text, second.supervisions[0].speaker) == ("second", "two", "s")
    assert load_waveform(first).shape == (8000,)


@pytest.mark.parametrize("name", ["m.jsonl", "m.jsonl.gz"])
def test_lhotse_cuts_are_read_as_they_are(tmp_path: Path, corpus: CutSet, name: str) -> None:
    corpus.to_file(tmp_path / name)
    found = list(load_manifest(tmp_path / name))
    assert [place(cut) for cut in found] == [f"{tmp_path / name}:{i}: u{i - 1}" for i in range(1, 13)]
    assert [fastcopy(cut, custom=None) for cut in found] == list(corpus)


@pytest.mark.parametrize("where", ["recording", "transforms", "custom"])
@pytest.mark.parametrize("kind", ["command", "url"])
def test_a_manifest_runs_no_command_and_fetches_nothing(tmp_path: Path, corpus: CutSet, where: str, kind: str) -> None:
    entry = next(iter(corpus)).to_dict()
    evil = {"type": kind, "channels": [0], "source": f"touch {tmp_path / 'run'}"}
    recording = {**entry["recording"], "sources": [evil]}
    if where == "recording":
        entry["recording"] = recording
    elif where == "transforms":
        reverberation = {"name": "ReverbWithImpulseResponse", "kwargs": {"rir": recording, "normalize_output": True}}
        entry["recording"]["transforms"] = [reverberation]
    else:
        entry["custom"] = {"target": recording}
    manifest = write_lines(tmp_path / "m.jsonl", entry)
    cuts, faults = read_manifest(manifest)
    assert list(cuts) == []
    assert faults == [f"{manifest}:1: expected audio in a file, found a source of the type '{kind}'"]
    with pytest.raises(ManifestError, match="expected audio in a file"):
        load_manifest(manifest)
    assert not (tmp_path / "run").exists()


def test_faulty_lines_are_named_and_the_others_read(tmp_path: Path) -> None:
    write_audio(tmp_path / "good.wav", 0.5)
    write_audio(tmp_path / "stereo.wav", 0.5, channels=2)
    write_audio(tmp_path / "empty.wav", 0.0)
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:-2000])
    (tmp_path / "headerless.raw").write_bytes(bytes(1000))
    flac = write_audio(tmp_path / "endless.flac", 0.5)
    streamed = bytearray(flac.read_bytes())
    streamed[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
    streamed[22:26] = bytes(4)
    flac.write_bytes(streamed)
    cut = make_cut("c", 0.5, tmp_path / "good.wav").to_dict()
    faults = [
        ('{"audio": ', "invalid JSON"),
        ("[1, 2]", "expected a JSON object"),
        ({"text": "no audio"}, "no field `audio`, only: text"),
        ({"audio": "good.wav"}, "no field `text`"),
        ({"audio": 3, "text": "a"}, "field `audio`: expected a string, found 3"),
        ({"audio": "a.wav", "text": "YES \ud83d NO"}, "field `text`: expected Unicode, found half a character"),
        ({"audio": "good.wav", "text": None}, "field `text`"),
        ({"audio": "good.wav", "text": "a", "id": 7}, "field `id`"),
        ({"audio": "good.wav", "text": "a", "speaker": 7}, "field `speaker`"),
        ({"audio": "good.wav", "text": "a", "offset": "1"}, "field `offset`: expected a number of seconds, found '1'"),
        ({"audio": "good.wav", "text": "a", "offset": -0.1}, "field `offset`"),
        ({"audio": "good.wav", "text": "a", "duration": True}, "field `duration`"),
        ('{"audio": "good.wav", "text": "a", "duration": NaN}', "field `duration`"),
        ({"audio": "good.wav", "text": "a", "offset": 99}, "expected a part of the file, which has"),
        ({"audio": "good.wav", "text": "a", "offset": 0.2, "duration": 0.4}, "found 0.40 s from 0.20 s on"),
        ({"audio": "good.wav", "text": "a", "offset": 0.2, "duration": 0}, "found 0.00 s from 0.20 s on"),
        ({"audio": "good.wav", "text": "a", "duration": 9.0}, "the manifest says at 9.00 s"),
        ({"audio": "good.wav", "text": "a", "duration": 1e-5}, "found 0.00 s from 0.00 s on"),
        ({"audio": "good.wav", "text": "a", "offset": 0.49999999}, "found 0.00 s from 0.50 s on"),
        ({"audio": "good.wav", "text": "a", "offset": 0.49999999, "duration": 0.01}, "found 0.01 s from 0.50 s on"),
        ({"audio": "good.wav", "text": "a", "offset": 1e308}, "expected a part of the file"),
        ({"audio": "good.wav", "text": "a", "duration": 10**400}, "field `duration`"),
        ({"audio_filepath": 7, "text": "a"}, "field `audio`: expected a string, found 7"),
        ({"audio": "absent.wav", "text": "a"}, "absent.wav: expected an audio file; found nothing there"),
        ({"audio": ".", "text": "a"}, ": expected an audio file; found a directory"),
        ({"audio": "text.wav", "text": "a"}, "found no audio"),
        ({"audio": "headerless.raw", "text": "a"}, "found no audio"),
        ({"audio": "long name" * 99, "text": "a"}, "File name too long"),
        ({"audio": "empty.wav", "text": "a"}, "found 0 samples"),
        ({"audio": "cut.wav", "text": "a"}, "cut.wav: expected 16000 bytes"),
        ({"type": "MonoCut", "id": "c"}, "not a Lhotse cut"),
        ({"type": "HairCut", "id": "c"}, "not a Lhotse cut"),
        (cut | {"duration": "long"}, "not a Lhotse cut"),
        (cut | {"id": 1}, "an id that is no string"),
        (cut | {"start": "0"}, "not a Lhotse cut"),
        (cut | {"start": -1}, "starts at -1 s, before its recording"),
        (cut | {"channel": [[0]]}, "not a Lhotse cut"),
        (cut | {"duration": math.nan}, "not a Lhotse cut"),
        (cut | {"recording": cut["recording"] | {"duration": None}}, "not a Lhotse cut"),
        (cut | {"supervisions": [cut["supervisions"][0] | {"speaker": 0}]}, "has a speaker that is no string: 0"),
        ("[" * 10**6, "invalid JSON"),
        (cut | {"supervisions": []}, "0 supervisions"),
        (make_cut("c", 0.5, tmp_path / "good.wav", text=None).to_dict(), "no text"),
        (make_cut("c", 0.2, tmp_path / "good.wav").to_dict(), "the file ends at 0.50 s, the manifest says at 0.20 s"),
        (make_cut("c", 0.5, tmp_path / "absent.wav").to_dict(), f"c ({tmp_path}/absent.wav): expected an audio file"),
    ]
    good, stereo = {"audio": "good.wav", "text": "a"}, {"audio": "stereo.wav", "text": "a"}
    endless = {"audio": "endless.flac", "text": "a"}
    manifest = write_lines(tmp_path / "m.jsonl", good, "", *(entry for entry, _ in faults), cut, stereo, endless)
    cuts, found = read_manifest(manifest)
    assert [cut.id for cut in cuts] == ["good.wav", "c", "stereo.wav", "endless.flac"]
    assert [cut.duration for cut in cuts] == [0.5] * 4
    assert len(found) == len(faults)
    for number, (message, (_, expected)) in enumerate(zip(found, faults, strict=True), start=3):
        assert message.startswith(f"{manifest}:{number}: ")
        assert expected in message
    # The last two are for `validate` to find.
    with pytest.raises(ManifestError, match=f"{len(faults) - 2} faults") as error:
        load_manifest(manifest)
    assert str(error.value).count("m.jsonl:") == 20


def test_a_fault_is_named_in_few_words(tmp_path: Path) -> None:
    """A line with a long list for a text was said whole, in a megabyte."""
    write_audio(tmp_path / "a.wav", 0.5)
    wrong = ({"text": ["word"] * 10_000}, {"text": "a", "duration": "1" * 10_000})
    manifest = write_lines(tmp_path / "m.jsonl", *({"audio": "a.wav"} | entry for entry in wrong))
    with pytest.raises(ManifestError, match="2 faults") as error:
        load_manifest(manifest)
    assert len(str(error.value)) < 1000


def test_nothing_is_said_of_a_language_that_the_manifest_does_not_name(tmp_path: Path) -> None:
    """All were English, also where they were grouped by it."""
    write_audio(tmp_path / "a.wav", 0.5)
    entries = ({"audio": "a.wav", "text": "ja"}, {"audio": "a.wav", "text": "ja", "id": "b", "language": "de"})
    cuts = load_manifest(write_lines(tmp_path / "m.jsonl", *entries))
    assert [field(cut, "language") for cut in cuts] == ["", "de"]


def test_letters_of_another_language_want_another_tokenizer(tmp_path: Path) -> None:
    cut = make_cut("a", 0.5, write_audio(tmp_path / "a.wav", 0.5), text="GR\u00d6SSE")
    with pytest.raises(
        ManifestError, match=r"tokenizer lacks: '\u00d6'; with --init-from, --new-tokenizer takes new letters$"
    ):
        validate(CutSet.from_cuts([cut]), TOKENIZER, **VALID)


def test_the_line_of_a_bad_byte_is_named(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 0.5)
    manifest = write_lines(tmp_path / "m.jsonl", {"audio": "a.wav", "text": "a"})
    manifest.write_bytes(b"\xef\xbb\xbf" + manifest.read_bytes() + b'{"audio": "a.wav", "text": "ol\xe9"}\n')
    cuts, faults = read_manifest(manifest)
    assert len(cuts) == 1
    assert len(faults) == 1
    assert faults[0].startswith(f"{manifest}:2: ")
    assert "can't decode byte 0xe9" in faults[0]


def test_every_file_is_decoded_once_before_it_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They used to pass, and to stop the training, one a run, when it came to them."""
    decoded, check = [], audio.check
    monkeypatch.setattr(audio, "check", lambda path: (decoded.append(Path(path).name), check(path)))
    soundfile.write(tmp_path / "nan.wav", np.full(8000, np.nan), 16_000, subtype="FLOAT")
    whole = write_audio(tmp_path / "half.flac", 2.0).read_bytes()
    (tmp_path / "half.flac").write_bytes(whole[: len(whole) // 2])
    write_audio(tmp_path / "good.wav", 0.5)
    cuts = [make_cut("c", 0.5, tmp_path / "good.wav"), make_cut("d", 0.5, tmp_path / "absent.wav")]
    others = [{"audio": name, "text": "a"} for name in ("nan.wav", "half.flac", "good.wav")]
    manifest = write_lines(tmp_path / "m.jsonl", *(cut.to_dict() for cut in cuts), *others)
    for n_decoded in (4, 3):  # the faulty ones again
        with pytest.raises(ManifestError, match="3 faults") as error:
            load_manifest(manifest)
        faults = str(error.value).splitlines()[1:]
        expected = [
            f"  {manifest}:2: d: {tmp_path}/absent.wav: expected an audio file; found nothing there",
            f"  {manifest}:3: nan.wav: {tmp_path}/nan.wav: expected samples that are finite numbers",
            f"  {manifest}:4: half.flac: {tmp_path}/half.flac: expected audio that is whole",
        ]
        assert all(fault.startswith(start) for fault, start in zip(faults, expected, strict=True))
        assert capsys.readouterr().err == f"audio files to decode once, to find damaged ones: {n_decoded}\n"
    for name in ("absent.wav", "nan.wav", "half.flac"):
        write_audio(tmp_path / name, 0.5)
    decoded.clear()
    for _ in range(2):
        assert len(load_manifest(manifest)) == 5
        assert sorted(decoded) == ["absent.wav", "half.flac", "nan.wav"]
    assert (tmp_path / "m.jsonl.decoded").is_file()


@pytest.mark.parametrize("channels", [1, 2])
def test_parts_of_a_file_are_what_the_manifest_says(tmp_path: Path, channels: int) -> None:
    """As NeMo writes it: its name for the file, times in seconds, and the duration of whole files, too."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (16_000, channels))
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    manifest = write_lines(
        tmp_path / "m.jsonl",
        {"audio_filepath": "a.wav", "duration": 1.0, "text": "all"},
        {"audio_filepath": "a.wav", "offset": 0.25, "duration": 0.5, "text": "middle", "speaker": "ann", "lang": "en"},
        {"audio_filepath": "a.wav", "offset": 0.75, "text": "end"},
        {"audio_filepath": "a.wav", "duration": 0.25, "text": "start", "id": "mine"},
    )
    cuts = list(load_manifest(manifest))
    assert [cut.id for cut in cuts] == ["a.wav", "a.wav:0.25+0.5", "a.wav:0.75", "mine"]
    assert [(cut.supervisions[0].start, cut.supervisions[0].duration) for cut in cuts] == [
        *((0, 1), (0, 0.5), (0, 0.25), (0, 0.25))
    ]
    assert cuts[1].supervisions[0].speaker == "ann"
    assert cuts[1].supervisions[0].custom == {"lang": "en"}
    assert [file_of(cut) is None for cut in cuts] == [False, True, True, True]
    whole = torch.from_numpy(samples.mean(1)).float()
    parts = (whole, whole[4_000:12_000], whole[12_000:], whole[:4_000])
    for cut, expected in zip(cuts, parts, strict=True):
        torch.testing.assert_close(load_waveform(cut), expected, rtol=0, atol=1e-6)
    validate(CutSet.from_cuts(cuts), TOKENIZER, **VALID)


def test_what_was_decoded_before_an_interruption_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{i}.wav" for i in range(100)]
    for name in names:
        write_audio(tmp_path / name, 0.1)
    manifest = write_lines(tmp_path / "m.jsonl", *({"audio": name, "text": "a"} for name in names))

    def stopped(items: Iterable[object], *_: object) -> Iterator[object]:
        yield from islice(items, 90)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(corpus_module, "_progress", stopped)
        with pytest.raises(KeyboardInterrupt):
            load_manifest(manifest)
    with (tmp_path / "m.jsonl.decoded").open("a") as file:  # as a power cut leaves it
        file.write('["/tor')
    decoded: list[str] = []
    monkeypatch.setattr(audio, "check", lambda name: decoded.append(Path(name).name))
    load_manifest(manifest)
    assert sorted(decoded) == names[90:]
    load_manifest(manifest)
    assert len(decoded) == 11  # one was remembered behind the torn line, which spoiled it
    load_manifest(manifest)
    assert len(decoded) == 11


def test_files_are_decoded_where_nothing_can_be_remembered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(tmp_path / "nan.wav", np.full(8000, np.nan), 16_000, subtype="FLOAT")
    (tmp_path / "m.jsonl.decoded").mkdir()
    with pytest.raises(ManifestError, match="finite numbers"):
        load_manifest(write_lines(tmp_path / "m.jsonl", {"audio": "nan.wav", "text": "a"}))
    assert "m.jsonl.decoded: cannot remember which files were decoded: Is a directory" in caplog.text


fields = st.sampled_from(["audio", "text", "id", "speaker", "type", "recording", "supervisions", "start", "duration"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["MonoCut", "MixedCut"]),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(fields | st.text(), value, max_size=9),
)


@settings(deadline=None, max_examples=25)
@given(st.lists(values | st.dictionaries(fields, values), min_size=1, max_size=5))
def test_any_json_is_a_cut_or_a_fault(tmp_path_factory: pytest.TempPathFactory, entries: list[object]) -> None:
    manifest = write_lines(tmp_path_factory.mktemp("any") / "m.jsonl", *map(json.dumps, entries))
    cuts, faults = read_manifest(manifest)
    assert len(cuts) + len(faults) == len(entries)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_a_cut_with_anything_in_it_is_a_cut_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Some used to end the reading of all, or the training, with an error of Lhotse's."""
    folder = tmp_path_factory.mktemp("any")
    whole = make_cut("c", 0.5, write_audio(folder / "a.wav", 0.5)).to_dict()
    owner = data.draw(
        st.sampled_from([whole, *whole["supervisions"], whole["recording"], *whole["recording"]["sources"]])
    )
    owner[data.draw(st.sampled_from(sorted(owner)))] = data.draw(values)
    manifest = write_lines(folder / "m.jsonl", json.dumps(whole))
    cuts, faults = read_manifest(manifest)
    assert len(cuts) + len(faults) == 1
    with suppress(ManifestError):
        validate(load_manifest(manifest), TOKENIZER, **VALID)


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file can hold gigabytes of one."""
    monkeypatch.setattr(manifest_module, "MOST_BYTES_OF_A_LINE", 1000)
    write_audio(tmp_path / "a.wav", 0.5)
    line = json.dumps({"audio": "a.wav", "text": "a"})
    with gzip.open(tmp_path / "m.jsonl.gz", "wt") as file:
        file.write("\n" * 2000 + line.ljust(999) + "\n")
    assert len(load_manifest(tmp_path / "m.jsonl.gz")) == 1
    with gzip.open(tmp_path / "m.jsonl.gz", "wt") as file:
        file.write(line + "\n" + "0" * 1001)
    with pytest.raises(ManifestError, match="expected lines of at most 1000 bytes, found b'00000000"):
        load_manifest(tmp_path / "m.jsonl.gz")


def test_a_manifest_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"absent\.jsonl: cannot be read"):
        read_manifest(tmp_path / "absent.jsonl")
    with pytest.raises(ManifestError, match=r"m\.jsonl: is empty"):
        read_manifest(write_lines(tmp_path / "m.jsonl", "", " "))
    (tmp_path / "plain.jsonl.gz").write_text("{}")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1000)[:20])
    for name in ("plain.jsonl.gz", "cut.jsonl.gz"):
        with pytest.raises(ManifestError, match="cannot be read as a manifest"):
            read_manifest(tmp_path / name)


def test_validate_accepts_what_is_right(tmp_path: Path, corpus: CutSet) -> None:
    validate(corpus, TOKENIZER, **VALID)
    stereo = write_audio(tmp_path / "stereo.wav", 0.5, channels=2)
    right = make_cut("right", 0.5, stereo)
    right.recording.sources[0].channels = [0, 1]
    right.channel = 1
    perturbed = make_cut("c", 1.0, write_audio(tmp_path / "c.wav", 1.0)).perturb_speed(1.1)
    mixed = corpus[0].pad(duration=2.0)
    validate(CutSet.from_cuts([right, perturbed, mixed]), TOKENIZER, **VALID)


def test_channels_of_one_recording_are_different_audio(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "call.wav", np.zeros((16_000, 2)), 16_000)
    whole = make_cut("call", 1.0, tmp_path / "call.wav")
    source = AudioSource("file", [0, 1], str(tmp_path / "call.wav"))
    recording = replace(whole.recording, sources=[source], channel_ids=[0, 1])
    caller, callee = (replace(whole, id=f"{n}", channel=n, recording=recording) for n in (0, 1))
    refuse_shared(CutSet.from_cuts([caller]), CutSet.from_cuts([callee]))
    (tmp_path / "link.wav").symlink_to(tmp_path / "call.wav")
    source = AudioSource("file", [0, 1], str(tmp_path / "link.wav"))
    again = replace(caller, id="2", recording=replace(recording, sources=[source]))
    with pytest.raises(ManifestError, match=r"no audio in both .* found 1 \(.*leave those utterances out$"):
        refuse_shared(CutSet.from_cuts([caller]), CutSet.from_cuts([again]))


def test_segments_of_one_recording_may_touch_but_not_overlap(tmp_path: Path) -> None:
    """Only equal ones were found: what had been cut a little otherwise was trained on, and measured on."""
    path = write_audio(tmp_path / "long.wav", 4.0)

    def part(name: str, start: float, end: float) -> MonoCut:
        return replace(make_cut(name, 4.0, path), start=start, duration=end - start)

    dev = CutSet.from_cuts([part("x", 0, 0.5), part("y", 1, 3), part("z", 1.2, 1.3)])
    refuse_shared(CutSet.from_cuts([part("a", 0.45, 1.05), part("b", 2.95, 4.0)]), dev)
    for name, start, end, other in (("c", 2.8, 4, "y"), ("d", 0.02, 0.5, "x"), ("e", 0, 4, "x"), ("f", 1.5, 1.54, "y")):
        with pytest.raises(ManifestError, match=rf"no audio in both .*{name} .* and {other} "):
            refuse_shared(CutSet.from_cuts([part(name, start, end)]), dev)


def test_a_file_whose_name_is_in_no_encoding_can_be_trained_on(tmp_path: Path) -> None:
    """Its id could not be written, which a message said that named no file."""
    write_audio(tmp_path / "a.wav", 1.0).rename(tmp_path / "caf\udce9.wav")
    cuts = load_manifest(write_lines(tmp_path / "m.jsonl", {"audio": "caf\udce9.wav", "text": "HELLO"}))
    assert [cut.id for cut in cuts] == ["caf\\udce9.wav"]
    validate(cuts, TOKENIZER, **VALID)
    digest(cuts)
    other = CutSet.from_cuts([replace(next(iter(cuts)), id="caf\udce9")])
    with pytest.raises(ManifestError, match="has an id that is none: expected Unicode, found half a character"):
        validate(other, TOKENIZER, **VALID)


def test_validate_names_every_fault(tmp_path: Path) -> None:
    file = write_audio(tmp_path / "second.wav", 1.0)
    stereo = write_audio(tmp_path / "stereo.wav", 1.0, channels=2)
    (tmp_path / "text.wav").write_text("this is no audio")
    cuts = {
        "silent": make_cut("silent", 1.0, file),
        "absent": make_cut("absent", 1.0, tmp_path / "absent.wav"),
        "unreadable": make_cut("unreadable", 1.0, tmp_path / "text.wav"),
        "cut short": make_cut("cut short", 1.2, file),
        "instant": make_cut("instant", 0.0, file),
        "early": make_cut("early", 0.5, file),
        "elsewhere": make_cut("elsewhere", 0.5, file),
        "long": make_cut("long", 20.1, file),
        "short": make_cut("short", 0.05, file, text="A"),
        "other rate": make_cut("other rate", 1.0, file, rate=8000),
        "stereo": make_cut("stereo", 1.0, stereo),
        "no text": make_cut("no text", 1.0, file, text=None),
        "only a dash": make_cut("only a dash", 1.0, file, text=" - "),
        "digits": make_cut("digits", 1.0, file, text="A 12"),
        "unsaid": make_cut("unsaid", 1.0, file),
        "dialogue": make_cut("dialogue", 1.0, file),
        "overlap": make_cut("overlap", 1.0, file),
        "twice": make_cut("twice", 1.0, file),
    }
    cuts["early"].start = -0.2
    cuts["elsewhere"].channel = 3
    cuts["silent"].recording = None
    cuts["unsaid"].supervisions = []
    cuts["dialogue"].supervisions *= 2
    cuts["overlap"].supervisions[0].start = 0.5
    expected = {
        "silent (no file)": "has no audio file",
        f"absent ({tmp_path}/absent.wav)": "found nothing there",
        "unreadable": "found no audio",
        "cut short": "the file ends at 1.00 s, the cut at 1.20 s",
        "instant": "lasts 0.0 s",
        "early": "starts at -0.2 s, before its recording",
        "elsewhere": "wants channel 3, and its recording has [0]",
        "long": "lasts 20.10 s, expected 0.1 to 20 s",
        "short": "lasts 0.05 s",
        "other rate": "the file is at 16000 Hz, the manifest says 8000 Hz",
        "stereo": "the file has 2 channels, the manifest says 1",
        "no text": "found None",
        "only a dash": "no words",
        "digits": "lacks: '1', '2'; numbers are to be spelled out",
        "unsaid": "0 supervisions",
        "dialogue": "2 supervisions",
        "overlap": "reaches out of the cut",
        f"twice ({file})": f"expected an id of its own, found that of twice ({file})",
    }
    for (start, fault), cut in zip(expected.items(), cuts.values(), strict=True):
        pair = [cut, make_cut("another", 1.0, file), *([cut] if cut.id == "twice" else [])]
        with pytest.raises(ManifestError) as error:
            validate(CutSet.from_cuts(pair), TOKENIZER, **VALID)
        lines = [line for line in str(error.value).splitlines() if line.startswith(f"  {start}")]
        assert any(fault in line for line in lines), f"{start}: {error.value}"
        assert "another" not in str(error.value)
    with pytest.raises(ManifestError, match="21 faults") as error:
        validate(CutSet.from_cuts([*cuts.values(), cuts["twice"]]), TOKENIZER, **VALID)
    assert len(str(error.value).splitlines()) == 1 + 20 + 1
    with pytest.raises(ManifestError, match="30 faults") as error:
        validate(CutSet.from_cuts([*cuts.values(), *[cuts["silent"]] * 5]), TOKENIZER, **VALID)
    assert len(str(error.value).splitlines()) == 1 + 20 + 1
    assert str(error.value).endswith("... and 10 more")
    with pytest.raises(ManifestError, match="no utterances"):
        validate(CutSet.from_cuts([]), TOKENIZER, **VALID)


@pytest.mark.parametrize(
    ("text", "needed"), [("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 26), ("AA" * 7, 27), ("A A A", 5), ("", 0)], ids=str
)
def test_too_fast_counts_a_frame_for_each_token_and_each_repeat(tmp_path: Path, text: str, needed: int) -> None:
    cut = make_cut("c", 1.0, write_audio(tmp_path / "c.wav", 1.0), text=text)
    assert not too_fast(cut, TOKENIZER, needed)
    assert needed == 0 or too_fast(cut, TOKENIZER, needed - 1)


# Audio


@pytest.mark.parametrize(
    ("name", "rate", "kind"),
    [
        ("a.wav", 16_000, {}),
        ("a.wav", 8000, {}),
        ("a.flac", 44_100, {}),
        ("a.opus", 16_000, {"format": "OGG", "subtype": "OPUS"}),
        ("a.opus", 8000, {"format": "OGG", "subtype": "OPUS"}),
    ],
)
def test_audio_arrives_at_16_khz(tmp_path: Path, name: str, rate: int, kind: dict[str, str]) -> None:
    file = write_audio(tmp_path / name, 1.5, rate=rate, **kind)
    (cut,) = load_manifest(write_lines(tmp_path / "m.jsonl", {"audio": name, "text": "a"}))
    waveform = load_waveform(cut)
    assert waveform.dtype == torch.float32
    assert waveform.shape == (24_000,)
    torch.testing.assert_close(waveform, read_audio(file), atol=1e-3, rtol=0)  # what transcription hears
    assert abs(torch.fft.rfft(waveform).abs().argmax().item() - 300) <= 1  # 200 Hz in 1.5 s


def test_a_segment_is_cut_out(tmp_path: Path) -> None:
    file = tmp_path / "ramp.wav"
    soundfile.write(file, np.arange(16_000) / 16_000, 16_000, subtype="FLOAT")
    cut = make_cut("c", 1.0, file).truncate(offset=0.25, duration=0.5)
    torch.testing.assert_close(load_waveform(cut), torch.arange(4000, 12_000) / 16_000)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.5, 2.0), st.sampled_from([8000, 16_000, 22_050]))
@example(0.5078125, 8000)
def test_speed_divides_length_and_multiplies_pitch(
    tmp_path_factory: pytest.TempPathFactory, speed: float, rate: int
) -> None:
    file = write_audio(tmp_path_factory.mktemp("speed") / "a.wav", 1.0, rate=rate)
    waveform = load_waveform(make_cut("c", 1.0, file, rate=rate), speed)
    # A speed is a rate in whole Hz, and soxr's lengths are rounded.
    assert len(waveform) == pytest.approx(16_000 * rate / round(rate * speed), abs=1)
    peak = torch.fft.rfft(waveform, n=160_000).abs().argmax().item() / 10
    assert peak == pytest.approx(200 * speed, rel=0.01)


def test_unreadable_audio_is_named(tmp_path: Path) -> None:
    whole = write_audio(tmp_path / "half.flac", 2.0).read_bytes()
    (tmp_path / "half.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.wav").write_text("this is no audio")
    soundfile.write(tmp_path / "nan.wav", np.full(32_000, np.nan), 16_000, subtype="FLOAT")
    write_audio(tmp_path / "short.wav", 1.0)
    cases = {
        "half.flac": ("audio that is whole", "flac"),
        "text.wav": ("WAV, FLAC", "Format"),
        "nan.wav": ("finite", "finite"),
        "absent.wav": ("nothing there", "Error"),
        "short.wav": (None, "more audio"),  # of the file as it is there is nothing wrong
    }
    for name, (of_all, of_part) in cases.items():
        cut = make_cut("the cut", 2.0, tmp_path / name)
        if of_all:
            with pytest.raises(AudioError, match=of_all) as error:
                load_waveform(cut)
            assert str(error.value).startswith(f"the cut: {tmp_path / name}: expected ")
        with pytest.raises(AudioError, match=of_part) as error:
            load_waveform(cut.truncate(duration=1.5, preserve_id=True))
        assert str(error.value).startswith(f"the cut ({tmp_path / name}): ")


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "stereo.wav", np.tile([[0.5, -0.25]], (16_000, 1)), 16_000, subtype="FLOAT")
    cut = next(iter(load_manifest(write_lines(tmp_path / "m.jsonl", {"audio": "stereo.wav", "text": "a"}))))
    validate(CutSet.from_cuts([cut]), TOKENIZER, **VALID)
    assert load_waveform(cut).tolist() == [0.125] * 16_000


def test_a_batch_is_padded_with_nothing(corpus: CutSet) -> None:
    batch = SpeechDataset(TOKENIZER)[0, corpus]
    assert batch.waveforms.dtype == torch.float32
    assert batch.lengths.tolist() == [round(cut.duration * 16_000) for cut in corpus]
    assert batch.waveforms.shape == (12, max(batch.lengths))
    assert batch.ids == [cut.id for cut in corpus]
    assert batch.texts == [cut.supervisions[0].text.upper() for cut in corpus]
    assert batch.speakers == [f"speaker of {cut.id}" for cut in corpus]
    for tensor in (batch.lengths, batch.targets, batch.target_lengths):
        assert tensor.dtype == torch.int64
    for i, cut in enumerate(corpus):
        alone = SpeechDataset(TOKENIZER)[0, CutSet.from_cuts([cut])]
        assert torch.equal(batch.waveforms[i, : batch.lengths[i]], alone.waveforms[0])
        assert not batch.waveforms[i, batch.lengths[i] :].any()
        assert TOKENIZER.decode(batch.targets[i, : batch.target_lengths[i]].tolist()) == batch.texts[i]
        assert (batch.targets[i, batch.target_lengths[i] :] == BLANK).all()


def test_targets_of_different_lengths_are_padded_with_the_blank(tmp_path: Path) -> None:
    file = write_audio(tmp_path / "a.wav", 0.5)
    texts = ["A", "BB C", ""]
    batch = SpeechDataset(TOKENIZER)[0, CutSet.from_cuts(make_cut(f"{i}", 0.5, file, t) for i, t in enumerate(texts))]
    assert batch.target_lengths.tolist() == [1, 4, 0]
    assert batch.targets[0].tolist() == [*TOKENIZER.encode("A"), BLANK, BLANK, BLANK]


def test_without_a_tokenizer_any_text_will_do(tmp_path: Path) -> None:
    cuts = CutSet.from_cuts([make_cut("c", 0.5, write_audio(tmp_path / "a.wav", 0.5), text="route 66")])
    batch = SpeechDataset(None)[0, cuts]
    assert batch.texts == ["ROUTE 66"]
    assert batch.targets.shape == (1, 0)
    assert batch.target_lengths.tolist() == [0]


def test_speeds_depend_on_seed_epoch_and_id_alone(corpus: CutSet) -> None:
    speeds = (0.9, 1.0, 1.1)
    dataset = SpeechDataset(TOKENIZER, seed=3, speeds=speeds)
    forward, backward = dataset[1, corpus], dataset[1, CutSet.from_cuts(reversed(list(corpus)))]
    assert forward.lengths.tolist() == backward.lengths.tolist()[::-1]
    assert torch.equal(forward.waveforms, backward.waveforms.flip(0))
    drawn = {(seed, epoch): [SpeechDataset(None, seed=seed, speeds=speeds).speed(epoch, f"{i}") for i in range(3000)]
             for seed in (0, 1) for epoch in (0, 1)}  # fmt: skip
    assert len({tuple(d) for d in drawn.values()}) == 4
    assert all(abs(d.count(speed) - 1000) < 120 for d in drawn.values() for speed in speeds)


def test_augmentation_depends_on_seed_epoch_and_id_alone_and_takes_text_with_speech(corpus: CutSet) -> None:
    augment = AugmentConfig(no_speech=0.5)
    dataset = SpeechDataset(TOKENIZER, seed=3, augment=augment)
    forward, backward = dataset[1, corpus], dataset[1, CutSet.from_cuts(reversed(list(corpus)))]
    assert forward.lengths.tolist() == backward.lengths.tolist()[::-1]
    assert torch.equal(forward.waveforms, backward.waveforms.flip(0))
    assert not torch.equal(forward.waveforms, dataset[2, corpus].waveforms)
    plain = SpeechDataset(TOKENIZER, seed=3)[1, corpus]
    said = [Augmented(augment, f"3 1 {cut_id}").has_speech for cut_id in forward.ids]
    assert len(set(said)) == 2
    for speech, text, n_tokens, plain_text in zip(
        said, forward.texts, forward.target_lengths.tolist(), plain.texts, strict=True
    ):
        assert text == (plain_text if speech else "")
        assert n_tokens == len(TOKENIZER.encode(text))


def test_in_some_batches_utterances_are_joined(corpus: CutSet) -> None:
    augment = replace(AugmentConfig.none(), join=1.0, pause_seconds=0.2)
    dataset = SpeechDataset(TOKENIZER, seed=3, augment=augment)
    plain = SpeechDataset(TOKENIZER)[1, corpus]
    sizes = set()
    for epoch in range(8):
        batch = dataset[epoch, corpus]
        assert [part for joined in batch.ids for part in joined.split("+")] == plain.ids
        assert " ".join(batch.texts).split() == " ".join(plain.texts).split()
        assert batch.lengths.sum() >= plain.lengths.sum()
        for text, target, n_tokens in zip(batch.texts, batch.targets, batch.target_lengths.tolist(), strict=True):
            assert TOKENIZER.decode(target[:n_tokens].tolist()) == text
        sizes.add(len(batch.ids))
        assert torch.equal(batch.waveforms, dataset[epoch, corpus].waveforms)
    assert len(sizes) > 2
    # None of more than 16 s of speech: these are 12 of 0.5 to 1.3 s.
    longest = max(cut.duration for cut in corpus)
    assert min(sizes) >= len(corpus) / max(int(16 / longest), 1)
    never = SpeechDataset(TOKENIZER, seed=3, augment=replace(augment, join=0.0))
    assert never[1, corpus].ids == plain.ids


def test_only_training_is_augmented(corpus: CutSet) -> None:
    augment = AugmentConfig(noise=1.0)
    for training in (True, False):
        kwargs = {"max_seconds": 100.0, "training": training, "seed": 0}
        changed, plain = (
            next(iter(make_loader(corpus, TOKENIZER, augment=a, **kwargs))).waveforms  # type: ignore[arg-type]
            for a in (augment, None)
        )
        assert (changed.shape != plain.shape or not torch.equal(changed, plain)) == training


# Order

durations = st.lists(st.integers(1, 400), min_size=1, max_size=120).map(
    lambda hundredths: CutSet.from_cuts(make_cut(f"c{i}", h / 100) for i, h in enumerate(hundredths))
)


def order(sampler: BatchSampler) -> list[list[str]]:
    return [[cut.id for cut in cuts] for _, cuts in sampler]


def longest(cuts: CutSet) -> float:
    return max(cut.duration for cut in cuts)


@settings(deadline=None, max_examples=50)
@given(durations, st.floats(0.5, 60.0), st.booleans(), st.integers(0, 5), st.integers(1, 4))
def test_an_epoch_has_every_utterance(cuts: CutSet, budget: float, training: bool, epoch: int, world: int) -> None:
    if not training and len(cuts) < world:
        with pytest.raises(ValueError, match=f"an utterance for each of {world} processes, found {len(cuts)}"):
            BatchSampler(cuts, max_seconds=budget, training=False, world_size=world)
        return
    ranks = []
    for rank in range(world):
        sampler = BatchSampler(cuts, max_seconds=budget, training=training, rank=rank, world_size=world)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert all(tag == epoch for tag, _ in batches)
        assert all(len(batch) == 1 or len(batch) * longest(batch) <= budget * (1 + 1e-9) for _, batch in batches)
        assert len(batches) == len(sampler) > 0
        ranks.append([[cut.id for cut in batch] for _, batch in batches])
    seen = [cut_id for batches in ranks for batch in batches for cut_id in batch]
    assert set(seen) == {cut.id for cut in cuts}
    if training:
        assert len({len(batches) for batches in ranks}) == 1
    if not training or len(cuts) >= len(ranks[0]) * world:
        assert len(seen) == len(cuts)  # each of them once
    else:
        assert all(len(batch) == 1 for batches in ranks for batch in batches)
        assert len(seen) < len(cuts) + world


@settings(deadline=None, max_examples=50)
@given(durations, st.randoms(use_true_random=False), st.integers(0, 9))
def test_the_order_depends_on_seed_and_epoch_alone(cuts: CutSet, rng: random.Random, seed: int) -> None:
    shuffled = list(cuts)
    rng.shuffle(shuffled)
    first = BatchSampler(cuts, max_seconds=10, training=True, seed=seed)
    second = BatchSampler(CutSet.from_cuts(shuffled), max_seconds=10, training=True, seed=seed)
    first.set_epoch(4)
    first_of_4 = order(first)
    second.set_epoch(4)
    assert first_of_4 == order(first) == order(second)


def test_epochs_and_seeds_differ() -> None:
    cuts = CutSet.from_cuts(make_cut(f"c{i}", 1 + i % 7 / 10) for i in range(200))
    samplers = [BatchSampler(cuts, max_seconds=10, training=True, seed=seed) for seed in (0, 1)]
    orders = []
    for sampler in samplers:
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            orders.append(order(sampler))
    batches = [{frozenset(batch) for batch in o} for o in orders]
    for i in range(4):
        for j in range(i):
            assert len(batches[i] & batches[j]) < 3  # not only their order is another
    evaluation = BatchSampler(cuts, max_seconds=10, training=False)
    before = order(evaluation)
    evaluation.set_epoch(1)
    assert order(evaluation) == before


@settings(deadline=None, max_examples=50)
@given(durations, st.integers(0, 3), st.integers(0, 30), st.integers(1, 3), st.data())
def test_skipping_resumes_exactly(cuts: CutSet, epoch: int, n: int, world: int, data: st.DataObject) -> None:
    options = {"max_seconds": 8.0, "training": True, "rank": data.draw(st.integers(0, world - 1)), "world_size": world}
    uninterrupted, resumed = BatchSampler(cuts, **options), BatchSampler(cuts, **options)
    uninterrupted.set_epoch(epoch)
    resumed.skip(epoch, n)
    expected = order(uninterrupted)
    if n < len(expected):
        assert order(resumed) == expected[n:]
    resumed.set_epoch(epoch)  # as Lightning does, after its first iterator
    assert order(resumed) == expected[n:]
    assert len(resumed) == len(expected)
    uninterrupted.set_epoch(epoch + 1)
    if n >= len(expected):  # what workers are asked for before Lightning says which epoch it is
        resumed.skip(epoch, n)
        assert order(resumed) == order(uninterrupted)
    resumed.set_epoch(epoch + 1)
    assert order(resumed) == order(uninterrupted)


def test_ranks_step_through_similar_lengths() -> None:
    rng = random.Random(0)
    cuts = CutSet.from_cuts(make_cut(f"c{i}", rng.uniform(1, 15)) for i in range(2000))
    ranks = [list(BatchSampler(cuts, max_seconds=100, training=True, rank=r, world_size=2)) for r in (0, 1)]
    steps = [(longest(first), longest(second)) for (_, first), (_, second) in zip(*ranks, strict=True)]
    assert np.mean([max(step) / min(step) for step in steps]) < 1.05


@pytest.mark.parametrize("n_cuts", [3, 40, 1000])
def test_one_rank_that_accumulates_sees_what_two_see(n_cuts: int) -> None:
    rng = random.Random(0)
    cuts = CutSet.from_cuts(make_cut(f"c{i}", rng.uniform(1, 15)) for i in range(n_cuts))

    def seen(**split: int) -> list[list[str]]:
        return [[cut.id for cut in batch] for _, batch in BatchSampler(cuts, max_seconds=60, training=True, **split)]

    first, second = (seen(rank=rank, world_size=2) for rank in (0, 1))
    one = seen(accumulate=2)
    assert len(one) % 2 == 0
    assert len(one) == len(BatchSampler(cuts, max_seconds=60, training=True, accumulate=2))
    assert one == [batch for step in zip(first, second, strict=True) for batch in step]


def test_little_of_a_batch_is_padding() -> None:
    rng = random.Random(0)
    cuts = CutSet.from_cuts(make_cut(f"c{i}", rng.lognormvariate(1, 0.5)) for i in range(3000))
    batches = [batch for _, batch in BatchSampler(cuts, max_seconds=100, training=True)]
    padded = sum(len(batch) * longest(batch) for batch in batches)
    audio = sum(cut.duration for cut in cuts)
    assert audio / padded > 0.93
    assert padded / (len(batches) * 100) > 0.93


def test_limits_that_make_no_sense_are_refused() -> None:
    cuts = CutSet.from_cuts([make_cut("c", 1.0)])
    for options in ({"max_seconds": 0}, {"rank": 1}, {"rank": -1}, {"world_size": 0}):
        with pytest.raises(ValueError, match="expected max_seconds"):
            BatchSampler(cuts, **({"max_seconds": 10, "training": True} | options))
    for bad in ([], [make_cut("c", 0.0)]):
        with pytest.raises(ValueError, match="expected utterances"):
            BatchSampler(CutSet.from_cuts(bad), max_seconds=10, training=True)
    for speeds in ((), (0.0, 1.0)):
        with pytest.raises(ValueError, match="speeds"):
            make_loader(cuts, TOKENIZER, max_seconds=10, training=True, speeds=speeds)


def same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first, second, strict=True))


def test_workers_change_nothing(corpus: CutSet) -> None:
    loaders = [
        make_loader(
            corpus,
            TOKENIZER,
            max_seconds=4,
            training=True,
            seed=1,
            speeds=(0.9, 1.1),
            augment=AugmentConfig(noise=1.0, reverb=1.0, padding_seconds=0.2),
            workers=workers,
        )
        for workers in (0, 2)
    ]
    for epoch, n_skipped in ((0, 0), (1, 0), (2, 2)):
        here, there = [], []
        for loader, batches in zip(loaders, (here, there), strict=True):
            assert isinstance(loader.sampler, BatchSampler)
            loader.sampler.skip(epoch, n_skipped)
            batches.extend(loader)
        assert len(here) == len(there) == len(loaders[0]) - n_skipped > 2
        assert all(map(same, here, there))
        for batch in here:  # the budget holds at the slowest speed with the most padding
            assert batch.waveforms.numel() <= 4 * 16_000 + len(batch.ids)


def test_an_evaluation_is_at_the_speed_of_the_files(corpus: CutSet) -> None:
    loader = make_loader(corpus, TOKENIZER, max_seconds=4, training=False, speeds=(0.5,))
    lengths = {cut_id: n for batch in loader for cut_id, n in zip(batch.ids, batch.lengths.tolist(), strict=True)}
    assert lengths == {cut.id: round(cut.duration * 16_000) for cut in corpus}


def test_a_worker_names_the_file_it_cannot_read(tmp_path: Path, corpus: CutSet) -> None:
    shutil.copy(tmp_path / "0.wav", tmp_path / "kept.wav")
    (tmp_path / "0.wav").write_text("overwritten after validation")
    with pytest.raises(AudioError, match=r"u0: .*0\.wav: expected WAV, FLAC"):
        list(make_loader(corpus, TOKENIZER, max_seconds=4, training=True, workers=1))


def test_a_lost_worker_is_no_unreadable_utterance(corpus: CutSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch raises it wherever the main process is, and Lhotse takes every error for one of the file."""

    def lost(*_: object, **__: object) -> None:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    cut = next(iter(corpus)).truncate(duration=0.1)
    monkeypatch.setattr(Recording, "load_audio", lost)
    with pytest.raises(RuntimeError, match=r"^DataLoader worker"):
        load_waveform(cut)


def test_what_was_decoded_need_not_be_remembered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk ended it when all was decoded."""
    paths = [str(tmp_path / f"{i}.wav") for i in range(3)]
    for path in paths[1:]:
        soundfile.write(path, np.zeros(1600), 16000)
    with full_disk(50):
        assert list(corpus_module.undecodable(paths, tmp_path / "manifest.decoded")) == paths[:1]
    assert "cannot remember which files were decoded: File too large" in caplog.text
    assert corpus_module.undecodable(paths[1:], tmp_path / "manifest.decoded") == {}
