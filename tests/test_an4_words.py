"""The words cut out of AN4: where each begins and ends, on recordings made here and on the real ones."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet
from recipe_scripts import load_prepare

from sru_asr.corpus import Utterance, write_cuts
from sru_asr.data import load_waveform
from sru_asr.manifest import load_manifest

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared/corpora/an4"

recipe = load_prepare("an4", "words")


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """A manifest of two recordings of two seconds, in which each sample is its number over 32768."""
    utterances = []
    for name, text in (("one-two", "ENTER ONE TWO"), ("three", "THREE")):
        audio = tmp_path / f"{name}.wav"
        soundfile.write(audio, np.arange(32_000, dtype=np.int16), 16_000)
        utterances.append(Utterance(name, audio, text, f"speaker of {name}"))
    write_cuts(utterances, tmp_path / "train.jsonl.gz")
    return tmp_path / "train.jsonl.gz"


def times(folder: Path, *lines: str) -> Path:
    """A file of times."""
    path = folder / "words.tsv"
    path.write_text("\n".join(["utterance\tword\tstart\tend", *("\t".join(line.split()) for line in lines)]) + "\n")
    return path


def test_a_word_is_the_audio_between_its_times_and_a_little_around_it(train: Path, tmp_path: Path) -> None:
    lines = ("one-two ONE 50 90", "one-two TWO 150 201", "three THREE 0 30", "of-dev FOUR 10 50", "three FIVE 60 69")
    path = recipe.prepare_words(train, tmp_path / "words.jsonl.gz", times(tmp_path, *lines))
    cuts = list(load_manifest(path))
    assert [cut.id for cut in cuts] == ["one-two-word1", "one-two-word2", "three-word1"]  # FIVE is too short
    assert [cut.supervisions[0].text for cut in cuts] == ["ONE", "TWO", "THREE"]
    assert cuts[0].supervisions[0].speaker == "speaker of one-two"
    for cut, (first, last) in zip(cuts, [(0.48, 0.92), (1.48, 2.0), (0.0, 0.32)], strict=True):
        samples = (load_waveform(cut) * 32_768).round().int()
        assert samples[0] == round(first * 16_000)
        assert samples[-1] == round(last * 16_000) - 1
        assert len(samples) == round((last - first) * 16_000)
        assert cut.supervisions[0].duration == cut.duration


@pytest.mark.parametrize("line", ["three THREE 10 205", "three THREE 50 40", "three THREE -1 40"])
def test_times_that_do_not_fit_the_recording_are_an_error(train: Path, tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"three: expected a word within its 2\.0 s"):
        recipe.prepare_words(train, tmp_path / "out.jsonl.gz", times(tmp_path, line))
    assert not (tmp_path / "out.jsonl.gz").exists()


@pytest.mark.parametrize("line", ["three THREE 10", "three THREE 10 x", "three THREE 10 20 30"])
def test_a_damaged_line_is_named(train: Path, tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"words\.tsv:3: expected"):
        recipe.prepare_words(train, tmp_path / "out.jsonl.gz", times(tmp_path, "three THREE 10 50", line))


def test_another_corpus_or_another_file_is_refused(train: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected utterances of AN4's training part, found none"):
        recipe.prepare_words(train, tmp_path / "out.jsonl.gz", times(tmp_path, "unknown ONE 10 50"))
    (tmp_path / "words.tsv").write_text("name\ttext\n")
    with pytest.raises(ValueError, match=r"words\.tsv:1: expected the header"):
        recipe.prepare_words(train, tmp_path / "out.jsonl.gz", tmp_path / "words.tsv")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of AN4's training part."""
    if not REAL.is_dir():
        pytest.skip(f"AN4 is not at {REAL}")
    return load_prepare("an4").prepare(REAL, tmp_path_factory.mktemp("an4"), Path())["train"]


def test_all_words_of_the_utterances_named_are_there_in_order(real: Path, tmp_path: Path) -> None:
    words: dict[str, list[str]] = {}
    for word in recipe._read(recipe.TIMES):
        words.setdefault(word.utterance, []).append(word.word)
    texts = {cut.id: cut.supervisions[0].text.split() for cut in CutSet.from_file(real)}
    assert set(words) <= set(texts)  # none of a development speaker
    for utterance, found in words.items():
        assert found == texts[utterance]
    cuts = CutSet.from_file(recipe.prepare_words(real, tmp_path / "words.jsonl.gz"))
    assert len(cuts) > 4200
    assert 0.25 < np.median([cut.duration for cut in cuts]) < 0.5


def test_alignment_finds_what_the_file_says(real: Path, tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="pip install sru-asr[align]")
    CutSet.from_cuts(list(CutSet.from_file(real))[:12]).to_file(tmp_path / "some.jsonl.gz")
    found = list(recipe.align(tmp_path / "some.jsonl.gz"))
    assert found
    assert found == list(recipe._read(recipe.TIMES))[: len(found)]
