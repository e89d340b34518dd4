"""The corpus that ships: its split, its manifests, how faults in it are named, and the script that makes corpora."""

# ruff: noqa: RUF001 (the phonetic alphabet has letters that resemble others)

import dataclasses
import importlib.util
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import lhotse
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from sru_asr.audio import read

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "data/alphanum"


def load(path: str) -> ModuleType:
    name = f"alphanum_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


recipe = load("recipes/alphanum/prepare.py")
maker = load("data/alphanum/make.py")


@pytest.fixture
def small(tmp_path) -> Path:
    """A corpus of three utterances, one for each split, to break."""
    names = ["af_alloy-0000", "am_eric-0013", "bf_emma-0021"]
    lines = (CORPUS / "transcripts.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "audio").mkdir()
    for name in names:
        shutil.copy(CORPUS / "audio" / f"{name}.opus", tmp_path / "audio")
    kept = [line for line in lines if line.split("\t")[0] in ["name", *names]]
    (tmp_path / "transcripts.tsv").write_text("".join(kept))
    return tmp_path


def test_part_of_the_training_utterances(small, tmp_path):
    lines = (small / "transcripts.tsv").read_text().splitlines(keepends=True)
    second = lines[1].replace("af_alloy-0000", "af_alloy-0001")
    (small / "transcripts.tsv").write_text("".join([*lines, second]))
    shutil.copy(small / "audio" / "af_alloy-0000.opus", small / "audio" / "af_alloy-0001.opus")
    found = recipe.prepare(small, tmp_path / "out", 1)
    assert [cut.id for cut in lhotse.load_manifest(found["train"])] == ["af_alloy-0000"]
    assert [len(lhotse.load_manifest(found[split])) for split in ("dev", "test")] == [1, 1]


def test_ctrl_c_while_audio_is_decoded_ends_it_with_a_line(tmp_path):
    """Threads in the middle of a C++ library used to abort the process."""
    command = [sys.executable, recipe.ROOT / "recipes/alphanum/prepare.py", "--output-dir", tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(list(tmp_path.glob("audio/*.flac"))) < 20:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("stopped; what was prepared is kept, give the same command again\n")


def test_every_utterance_is_in_one_split_and_every_voice_too(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "flac_copies", lambda utterances, folder: utterances)  # copies take a minute
    manifests = recipe.prepare(CORPUS, tmp_path)
    cuts = {split: lhotse.load_manifest(path) for split, path in manifests.items()}
    assert {split: len(part) for split, part in cuts.items()} == {"train": 5310, "dev": 50, "test": 150}

    rows = [line.split("\t") for line in (CORPUS / "transcripts.tsv").read_text().splitlines()[1:]]
    listed = {(name, voice, text) for name, voice, _, text in rows}
    prepared = [
        (cut.id, said.speaker, said.text) for part in cuts.values() for cut in part for said in cut.supervisions
    ]
    assert len(prepared) == len(rows) == 5510
    assert set(prepared) == listed

    split_of = {
        split: {voice for cut in part for said in cut.supervisions for voice in maker.parts(said.speaker)}
        for split, part in cuts.items()
    }
    assert sum("+" in voice for _, voice, _ in listed) == 2290 + 1500 + 1020
    voices = (*maker.VOICES, *maker.FOREIGN_VOICES)
    assert Counter(voice for voices in split_of.values() for voice in voices) == dict.fromkeys(voices, 1)
    assert split_of["test"] == recipe.TEST_VOICES
    assert split_of["dev"] == recipe.DEV_VOICES
    accents = {voice[:2] for voice in split_of["train"].difference(maker.FOREIGN_VOICES)}
    assert {voice[:2] for voice in split_of["test"]} == accents


def test_readme_names_the_voices_of_the_split():
    readme = (CORPUS / "README.md").read_text()
    for voices in (recipe.TEST_VOICES, recipe.DEV_VOICES):
        assert ", ".join(f"`{voice}`" for voice in sorted(voices)) in readme


MIXED = re.findall("^--utterances .*", (CORPUS / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("options", MIXED)
def test_what_is_mixed_is_what_the_readme_says_and_of_training_voices_by_default(options):
    """By default it was of all voices, which `prepare` refuses."""
    given = maker.parse_arguments(["--output", "made", "--voices-dir", "voices", *options.split()])
    planned = maker.plan(given.utterances, given.voices, given.seed, given.kinds, given.name, given.mixing)
    rows = [line.split("\t") for line in (CORPUS / "transcripts.tsv").read_text().splitlines()]
    listed = {name: (voice, text) for name, voice, _, text in rows}
    assert [(u.voice, u.text) for u in planned] == [listed[u.name] for u in planned]
    assert set(maker.HELD_OUT) == recipe.DEV_VOICES | recipe.TEST_VOICES


def test_the_readme_says_how_all_that_is_mixed_was_made():
    assert sum(int(options.split()[1]) for options in MIXED) == 2290 + 1500 + 1020


def test_cut_loads_what_its_file_holds(small, tmp_path):
    for path in recipe.prepare(small, tmp_path / "prepared").values():
        (cut, *_) = lhotse.load_manifest(path)
        audio = Path(cut.recording.sources[0].source)
        assert audio.is_absolute()
        samples, rate = soundfile.read(audio, dtype="float32")
        assert cut.sampling_rate == rate == 16_000
        assert cut.supervisions[0].language == "English"
        np.testing.assert_array_equal(cut.load_audio(), samples[None])
        assert len(samples) == round(cut.duration * rate)
        original = read(CORPUS / "audio" / f"{cut.id}.opus")
        np.testing.assert_allclose(samples, original / original.abs().max().clamp(min=1), atol=2**-15)


def test_script_prepares_again_over_what_is_there(small, tmp_path):
    output = tmp_path / "prepared"
    recipe.main(["--corpus-dir", str(small), "--output-dir", str(output)])
    (output / "dev.jsonl.gz").write_bytes(b"cut short")
    recipe.main(["--corpus-dir", str(small), "--output-dir", str(output)])
    assert sorted(path.name for path in output.glob("*.gz")) == ["dev.jsonl.gz", "test.jsonl.gz", "train.jsonl.gz"]
    assert len(list((output / "audio").iterdir())) == 3
    assert [cut.id for cut in lhotse.load_manifest(output / "dev.jsonl.gz")] == ["am_eric-0013"]


def test_missing_corpus_is_named(tmp_path, capsys):
    with pytest.raises(ValueError, match=rf"no {tmp_path}/nowhere/transcripts.tsv: give the folder"):
        recipe.prepare(tmp_path / "nowhere", tmp_path / "prepared")
    with pytest.raises(SystemExit, match="error: no "):
        recipe.main(["--corpus-dir", str(tmp_path / "nowhere")])


def test_missing_file_is_named(small):
    (small / "audio/am_eric-0013.opus").unlink()
    with pytest.raises(ValueError, match=r"transcripts.tsv:3: there is no audio file .*/am_eric-0013.opus"):
        recipe.prepare(small, small / "prepared")
    assert not (small / "prepared").exists()


@pytest.mark.parametrize(("kept_bytes", "message"), [(0, "cannot read"), (5000, "to last 1.950 s, found")])
def test_broken_file_is_named(small, kept_bytes, message):
    audio = small / "audio/am_eric-0013.opus"
    audio.write_bytes(audio.read_bytes()[:kept_bytes])
    with pytest.raises(ValueError, match=rf"transcripts.tsv:3: .*{message}") as caught:
        recipe.prepare(small, small / "prepared")
    assert str(audio) in str(caught.value)


@pytest.mark.parametrize(
    ("line", "old", "new", "message"),
    [
        (1, "seconds", "length", "expected the header"),
        (2, "\tSIX", " SIX", "expected the fields"),
        (2, "SIX", "six", "expected words of A to Z"),
        (2, "SIX ", "SIX  ", "expected words of A to Z"),
        (3, "1.950", "long", "could not convert string to float: 'long'"),
        (3, "1.950", "2.950", "to last 2.950 s, found 1.950 s"),
        (3, "1.950", "nan", "to last nan s, found 1.950 s"),
    ],
)
def test_malformed_line_is_named(small, line, old, new, message):
    transcripts = small / "transcripts.tsv"
    lines = transcripts.read_text().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    transcripts.write_text("".join(lines))
    with pytest.raises(ValueError, match=rf"transcripts.tsv:{line}: .*{message}"):
        recipe.prepare(small, small / "prepared")


@pytest.mark.parametrize(
    ("line", "message"),
    [("", "expected the fields"), ("af_alloy-0000\taf_alloy\t2.900\tYES", "found af_alloy-0000 twice")],
)
def test_superfluous_line_is_named(small, line, message):
    with (small / "transcripts.tsv").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=rf"transcripts.tsv:5: .*{message}"):
        recipe.prepare(small, small / "prepared")


def test_line_that_is_not_utf_8_is_named(small):
    with (small / "transcripts.tsv").open("ab") as file:
        file.write(b"af_alloy-0009\taf_alloy\t2.900\tOL\xc9\n")
    with pytest.raises(ValueError, match=r"transcripts\.tsv:5: expected text in UTF-8, found the byte 0xc9"):
        recipe.prepare(small, small / "prepared")


def test_corpus_without_a_split_is_refused(small):
    transcripts = small / "transcripts.tsv"
    transcripts.write_text("".join(transcripts.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(ValueError, match="found none for dev and test"):
        recipe.prepare(small, small / "prepared")


def test_texts_are_of_letters_and_single_spaces_only():
    texts = [u.text for seed in range(20) for u in maker.plan(500, maker.VOICES, seed)]
    texts += [u.text for u in maker.plan(500, maker.VOICES, 0, kinds=["variant"])]
    assert all(re.fullmatch(r"[A-Z]+( [A-Z]+)*", text) for text in texts)
    # And of all the words that the shipped corpus has.
    shipped = {word for line in (CORPUS / "transcripts.tsv").read_text().splitlines()[1:] for word in line.split()[3:]}
    assert shipped <= {word for text in texts for word in text.split()}


def test_plan_follows_from_its_seed_and_grows_at_its_end():
    plan = maker.plan(100, maker.VOICES, 3)
    assert plan == maker.plan(100, maker.VOICES, 3)
    assert plan == maker.plan(300, maker.VOICES, 3)[:100]
    assert [u.text for u in plan] != [u.text for u in maker.plan(100, maker.VOICES, 4)]
    assert len({u.name for u in plan}) == 100
    assert {u.voice for u in plan} == set(maker.VOICES)
    assert all(0.8 <= u.speed <= 1.25 for u in plan)


def test_kinds_of_texts_can_be_chosen():
    voices = ["af_bella", "am_echo"]
    alone = maker.plan(3000, voices, 3, mixing="blend", kinds=["alone"], name="alone")
    said = Counter(u.text for u in alone)
    assert said.keys() == {*maker.LETTERS, *maker.UNITS[:10]}
    assert min(said[digit] for digit in maker.UNITS[:10]) > max(said[letter] for letter in maker.LETTERS)  # twice
    assert [alone[0].name, alone[-1].name] == ["alone-0000", "alone-2999"]
    months = {u.text.split()[0] for u in maker.plan(500, voices, 3, kinds=["date", "answer"])}
    assert months == {*maker.MONTHS, *maker.ANSWERS}


@pytest.mark.parametrize(
    ("number", "read"),
    [
        (100, "ONE HUNDRED"),
        (209, "TWO HUNDRED AND NINE"),
        (5000, "FIVE THOUSAND"),
        (6030, "SIX THOUSAND AND THIRTY"),
        (7186, "SEVEN THOUSAND ONE HUNDRED AND EIGHTY SIX"),
    ],
)
def test_numbers_are_read_with_and(number, read):
    assert maker.number_words_with_and(number) == read


def test_variants_are_what_the_other_kinds_never_say():
    texts = [u.text for u in maker.plan(500, ["af_bella"], 3, kinds=["variant"])]
    assert sum(" HUNDRED AND " in text for text in texts) > 200
    dated = [text for text in texts if set(text.split()) & set(maker.MONTHS)]
    assert {len(text.split()) for text in dated} == {4, 5, 6}
    assert not any(text.split()[0] in maker.MONTHS for text in dated)
    usual = [u.text for u in maker.plan(3000, ["af_bella"], 3)]
    assert not any("AND" in text.split() for text in usual)


def test_blends_mix_two_voices_of_one_accent():
    voices = ["af_bella", "am_echo", "af_nova", "bm_fable", "bf_alice"]
    plan = maker.plan(200, voices, 3, mixing="blend")
    assert plan == maker.plan(300, voices, 3, mixing="blend")[:200]
    assert [u.text for u in plan] == [u.text for u in maker.plan(200, voices, 3)]
    assert len({u.name for u in plan}) == 200
    assert len({u.voice for u in plan}) > 100
    for utterance in plan:
        parts = maker.parts(utterance.voice)
        assert len(parts) == 2
        assert set(parts) <= set(voices)
        assert sum(parts.values()) == pytest.approx(1)
        assert all(0.3 <= share <= 0.7 for share in parts.values())
        assert len({name[0] for name in parts}) == 1
    assert maker.parts("af_bella") == {"af_bella": 1.0}

    synthesizer = object.__new__(maker.Synthesizer)
    synthesizer.styles = {name: np.full((510, 256), number, np.float32) for number, name in enumerate(voices)}
    assert synthesizer.style("am_echo:30+af_nova:70", 7) == pytest.approx(np.full(256, 0.3 * 1 + 0.7 * 2))
    assert synthesizer.style("af_nova", 7) == pytest.approx(np.full(256, 2))
    synthesizer.phonemes, synthesizer.ids = lambda utterance: utterance.text, {"a": 1}
    with pytest.raises(ValueError, match="at most 510 phonemes at a time, found 511 in 'aaa"):
        synthesizer(dataclasses.replace(plan[0], text="a" * 511))


def test_learners_have_a_foreign_half_and_an_accent():
    voices = ["af_bella", "bm_fable"]
    plan = maker.plan(300, voices, 3, mixing="learner", kinds=["digit"], name="single")
    assert plan == maker.plan(400, voices, 3, mixing="learner", kinds=["digit"], name="single")[:300]
    assert {u.text for u in plan} == set(maker.UNITS[:10])
    foreign = set()
    for number, utterance in enumerate(plan):
        native, other = maker.parts(utterance.voice)
        assert native == voices[number % 2]
        assert other in maker.FOREIGN_VOICES
        assert utterance.foreign
        foreign.add(other)
    assert foreign == set(maker.FOREIGN_VOICES)
    assert not maker.plan(1, voices, 3)[0].foreign


def test_mixtures_are_as_far_from_the_average_as_voices_are():
    voices = ["af_bella", "bm_fable"]
    plan = maker.plan(200, voices, 3, mixing="mixture")
    assert plan == maker.plan(300, voices, 3, mixing="mixture")[:200]
    assert [u.text for u in plan] == [u.text for u in maker.plan(200, voices, 3)]
    assert not set(maker.CROWD) & set(maker.HELD_OUT)
    heard = set()
    for number, utterance in enumerate(plan):
        shares = maker.parts(utterance.voice)
        first, *others = shares
        assert first == voices[number % 2]
        assert len(others) == 2
        assert sum(share**2 for share in shares.values()) == pytest.approx(1, abs=0.03)  # in whole percent
        assert shares[first] >= 0
        assert not utterance.foreign
        heard.update(others)
    assert heard == set(maker.CROWD)
    assert any(share < -0.5 for u in plan for share in maker.parts(u.voice).values())

    # Voices whose differences from the average are at right angles, and of length 1: so is a mixture's.
    synthesizer = object.__new__(maker.Synthesizer)
    apart = np.eye(256, dtype=np.float32)[: len(maker.CROWD)]
    apart -= apart.mean(0)
    average = np.linspace(-1, 1, 256, dtype=np.float32)
    synthesizer.styles = {name: np.tile(average + row, (510, 1)) for name, row in zip(maker.CROWD, apart, strict=True)}
    for utterance in plan:
        assert np.linalg.norm(synthesizer.style(utterance.voice, 7) - average) == pytest.approx(1, abs=0.06)
    assert np.linalg.norm(synthesizer.style("af_bella:50+am_echo:50", 7) - average) == pytest.approx(0.7, abs=0.02)


@given(st.randoms(use_true_random=False))
def test_a_learner_replaces_a_sound_everywhere_or_nowhere(rng):
    said = maker.as_learnt("θɹˈiː sˈɪks θˈɜːtiːnθ", rng)
    assert said.count("ɪ") in (0, 1)
    assert said.count("θ") in (0, 3)
    assert [word[-1] for word in said.split()][1] == "s"
    assert said.replace("ɪ", "i").split()[1] == "sˈiks"


def test_what_learners_say_can_be_spoken_and_is_no_other_letter():
    vocabulary = set(
        ';:,.!?—…"()“” ̃ʣʥʦʨᵝꭧAIOQSTWYᵊabcdefhijklmnopqrstuvwxyzɑɐɒæβɔɕçɖðʤəɚɛɜɟɡɥɨɪʝɯɰŋɳɲɴøɸθœɹɾɻʁɽʂʃʈʧʊʋʌɣɤχʎʒʔˈˌːʰʲ'
    )
    assert set("".join(said for learnt in maker.LEARNT.values() for said in learnt)) <= vocabulary
    letters = ["eɪ", "biː", "siː", "diː", "iː", "ɛf", "dʒiː", "aɪ", "dʒeɪ", "keɪ", "piː", "ɑːɹ", "tiː", "viː", "ziː"]
    for letter in letters:
        for sound, learnt in maker.LEARNT.items():
            if sound in letter:
                assert not {letter.replace(sound, said) for said in learnt} & set(letters)


def test_blend_needs_two_voices_of_an_accent(tmp_path, capsys):
    command = [
        "--output",
        str(tmp_path),
        "--voices-dir",
        "unused",
        "--blend",
        "--voices",
        "af_sky",
        "am_eric",
        "bf_lily",
    ]
    with pytest.raises(SystemExit):
        maker.main(command)
    assert "--blend needs two voices of an accent, found only bf_lily" in capsys.readouterr().err


def test_blend_is_heard_where_its_voices_are(small):
    table = small / "transcripts.tsv"
    whole = table.read_text()
    table.write_text(whole.replace("\taf_alloy\t", "\taf_alloy:40+am_echo:60\t"))
    manifests = recipe.prepare(small, small / "prepared")
    assert [cut.supervisions[0].speaker for cut in lhotse.load_manifest(manifests["train"])] == [
        "af_alloy:40+am_echo:60"
    ]
    table.write_text(whole.replace("\taf_alloy\t", "\taf_alloy:40+bf_emma:60\t"))
    with pytest.raises(ValueError, match=r"transcripts.tsv:2: .*af_alloy:40\+bf_emma:60, blended of test and train"):
        recipe.prepare(small, small / "prepared")


def test_corpus_to_train_on_alone(small):
    table = small / "transcripts.tsv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(ValueError, match="train, dev, test, found none for dev and test"):
        recipe.prepare(small, small / "prepared")
    manifests = recipe.prepare(small, small / "prepared", train_only=True)
    assert manifests.keys() == {"train"}
    assert [cut.id for cut in lhotse.load_manifest(manifests["train"])] == ["af_alloy-0000"]
    table.write_text(table.read_text().partition("\n")[0] + "\n")
    with pytest.raises(ValueError, match="for train, found none"):
        recipe.prepare(small, small / "prepared", train_only=True)


def test_given_texts_are_said_in_their_order(tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("A CAT\nI DON'T KNOW\nTHE SEA\n")
    options = ["--output", str(tmp_path / "made"), "--voices-dir", "unused", "--texts", str(texts)]
    given = maker.parse_arguments(options)
    assert (given.utterances, list(given.lines)) == (3, ["A CAT", "I DON'T KNOW", "THE SEA"])
    plan = maker.plan(3, given.voices, 0, mixing="learner", texts=given.lines)
    assert [(u.text, u.spelled) for u in plan] == [(text, False) for text in given.lines]
    assert plan[:2] == maker.plan(2, given.voices, 0, mixing="learner", texts=given.lines)
    assert [u.speed for u in plan] == [u.speed for u in maker.plan(3, given.voices, 0, mixing="learner")]
    assert maker.parse_arguments([*options, "--utterances", "2"]).utterances == 2
    with pytest.raises(SystemExit):
        maker.parse_arguments([*options, "--utterances", "4"])
    assert "texts.txt has only 3 lines" in capsys.readouterr().err
    for wrong, message in (("", "found none"), ("A CAT\n2 CATS\n", "texts.txt:2: expected words"), ("a cat\n", ":1:")):
        texts.write_text(wrong)
        assert maker.main(options) == 1
        assert message in capsys.readouterr().err


def test_articles_are_no_letters_and_syllables_have_a_vowel():
    """What espeak marks an N that is a syllable by itself with, Kokoro has not."""

    class Backend:
        def phonemize(self, texts, strip):
            return ["ɐ sˈɜːʔn̩ kˈæt"]

    synthesizer = object.__new__(maker.Synthesizer)
    synthesizer.backends = {"a": Backend()}
    assert synthesizer.phonemes(maker.Utterance("x", "af_bella", 1.0, "A CERTAIN CAT", False)) == "ɐ sˈɜːʔᵊn kˈæt"
    assert synthesizer.phonemes(maker.Utterance("x", "af_bella", 1.0, "A CERTAIN CAT")) == "ˈeɪ sˈɜːʔᵊn kˈæt"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "ZERO"),
        (20, "TWENTY"),
        (99, "NINETY NINE"),
        (304, "THREE HUNDRED FOUR"),
        (1590, "FIFTEEN HUNDRED NINETY"),
        (4000, "FOUR THOUSAND"),
        (8011, "EIGHT THOUSAND ELEVEN"),
    ],
)
def test_number_words(number, words):
    assert maker.number_words(number) == words


def test_ordinal_words():
    assert [maker.ordinal_words(n) for n in (2, 9, 12, 15, 20, 21, 30)] == (
        ["SECOND", "NINTH", "TWELFTH", "FIFTEENTH", "TWENTIETH", "TWENTY FIRST", "THIRTIETH"]
    )


def test_interrupted_making_keeps_and_continues(tmp_path, monkeypatch, capsys):
    """The speech is a tone here; files, tags, table and errors are the real ones."""
    spoken = []

    class Tone:
        stop_after = 2

        def __init__(self, voices_dir, voices):
            pass

        def __call__(self, utterance):
            if len(spoken) == Tone.stop_after:
                raise KeyboardInterrupt
            spoken.append(utterance.name)
            return np.sin(np.arange(12_000, dtype=np.float32) / 10) / 2

    monkeypatch.setattr(maker, "Synthesizer", Tone)
    command = [
        "--output",
        str(tmp_path),
        "--voices-dir",
        "unused",
        "--utterances",
        "4",
        "--voices",
        "af_sky",
        "bm_lewis",
    ]
    assert maker.main(command) == 130
    audio = tmp_path / "audio"
    names = ["af_sky-0000", "bm_lewis-0001", "af_sky-0002", "bm_lewis-0003"]
    assert sorted(path.stem for path in audio.iterdir()) == sorted(names[:2])
    table = (tmp_path / "transcripts.tsv").read_text().splitlines()
    assert [line.split("\t")[:3] for line in table[1:]] == [[name, name[:-5], "0.500"] for name in names[:2]]

    broken = audio / "bm_lewis-0001.opus"
    broken.write_bytes(broken.read_bytes()[:-300])
    Tone.stop_after = 99
    assert maker.main(command) == 0
    assert spoken == [*names[:2], *names[1:]]
    assert len((tmp_path / "transcripts.tsv").read_text().splitlines()) == 5
    assert {soundfile.info(path).frames for path in audio.iterdir()} == {12_000}

    assert maker.main([*command, "--seed", "7"]) == 1
    assert "choose another --output" in capsys.readouterr().err
    assert len(spoken) == 5


def test_missing_package_and_voice_are_named(tmp_path):
    with pytest.raises(ImportError, match=r"no-such-package .*pip install 'sru-asr\[synthesis\]'"):
        maker.require("no_such_package.backend")
    with pytest.raises(ValueError, match=r"af_sky.bin is missing; fetch the voices with: npm pack kokoro-js"):
        maker.Synthesizer(tmp_path, ["af_sky"])
