"""The recipe of the model that ships: what it measures, and the card that it writes. And the model itself."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import sru_asr
from sru_asr.corpus import Utterance, write_cuts
from sru_asr.data import load_waveform
from sru_asr.manifest import load_manifest
from sru_asr.metrics import word_errors
from sru_asr.model import SHIPPED, ModelConfig, Recognizer
from sru_asr.text import CharTokenizer

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes/alphanum_en"
CORPORA = ROOT.parent / "shared/corpora"


@pytest.fixture(scope="module")
def recipe() -> Iterator[dict[str, ModuleType]]:
    """The recipe's scripts, which import each other as scripts do."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(RECIPE))
    modules = {}
    for name in ("prepare", "evaluate", "ship", "average"):
        spec = importlib.util.spec_from_file_location(name, RECIPE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        modules[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    yield modules
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {"prepare", "evaluate", "ship", "average", "rows", "an4", "fsdd", "alphanum"}:
            del sys.modules[name]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], dict[str, Path]]:
    """Two models that know nothing, and four sets of noise with words to them."""
    folder = tmp_path_factory.mktemp("made")
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = Recognizer(ModelConfig(channels=4, hidden_size=16, num_layers=2), CharTokenizer())
        model.features.mean.fill_(-5.0)
        model.features.scale.fill_(0.5)
        settings = {"seed": seed, "max_epochs": 1, "model": {"num_layers": 2}, "data_sets": {"train": ["an4/train"]}}
        model.training_data = {"settings": settings}
        model.save(folder / f"{seed}/model.safetensors")
        models.append(folder / f"{seed}")
    speakers = {
        "an4": ["fabc", "mabc", "mxyz"],
        "an4_row": ["fabc"],
        "fsdd": ["nicolas", "yweweler"],
        "alphanum": ["af_sky", "am_adam", "bm_lewis"],
    }
    rng = np.random.default_rng(0)
    manifests = {}
    for name, people in speakers.items():
        utterances = []
        for i, speaker in enumerate(people):
            audio = folder / f"{name}{i}.wav"
            soundfile.write(audio, 0.1 * rng.standard_normal(16_000), 16_000)
            utterances.append(Utterance(f"{name}{i}", audio, "ONE B", speaker))
        manifests[name] = folder / f"{name}.jsonl.gz"
        write_cuts(utterances, manifests[name])
    return models, manifests


def test_windows_have_the_latency_they_are_made_for(recipe: dict[str, ModuleType]) -> None:
    model = Recognizer(ModelConfig(channels=4, hidden_size=16, num_layers=1), CharTokenizer())
    windows = recipe["evaluate"].windows_of(model)
    assert [40 * sum(window) for window in windows] == [0, 640, 320, 160]
    splits = recipe["evaluate"].windows_of(model, splits=True)
    assert set(windows) <= set(splits)
    assert {40 * sum(window) for window in splits} == {0, 640, 320, 160}
    assert all(chunk >= 1 for chunk, _ in splits[1:])
    assert {lookahead for chunk, lookahead in splits if chunk + lookahead == 4} == {0, 1, 2, 3}
    assert len(set(splits)) == len(splits)


def test_the_card_counts_the_trainings_before_the_last(recipe: dict[str, ModuleType]) -> None:
    trainings = recipe["ship"].trainings
    sets = {"train": ["an4/train.jsonl.gz", "alphanum"], "dev": []}
    first = {"max_epochs": 24, "init_from": None, "data_sets": sets}
    assert trainings(first) == "24 epochs, no pre-trained weights"
    second = {"max_epochs": 5, "init_from": {"name": "a", "settings": first}, "data_sets": sets}
    third = {"max_epochs": 32, "init_from": {"name": "b", "settings": second}, "data_sets": sets}
    assert trainings(third) == "3 trainings (24, 5, 32 epochs), the first from nothing, each other from the one before"
    assert "(24, 5, 29 of 32 epochs)" in trainings(third | {"stopped_after": 29})
    gave = "gave the mean of its weights and those that it began with (`average.py`)"
    assert trainings(third | {"averaged": True}).endswith(f"before; training 3 {gave}")
    fourth = {"max_epochs": 5, "init_from": {"name": "x", "settings": third | {"averaged": True}}, "data_sets": sets}
    assert trainings(fourth).endswith(f"before; training 3 {gave}")
    other = [{"max_epochs": 4, "data_sets": sets}, {"max_epochs": 3, "data_sets": sets}]
    assert trainings(fourth | {"averaged": [[], other]}).endswith(
        "; training 4 gave the mean of its weights and those that it began with and those of another start from there "
        "(4, 3 epochs) (`average.py`)"
    )
    assert trainings(fourth | {"averaged": [[], [], other]}).endswith(
        "those that it began with (2 times) and those of another start from there (4, 3 epochs) (`average.py`)"
    )
    for unknown in ("runs/a", {"name": "a", "settings": None}, {"name": "a"}, {"name": "a", "settings": "b"}):
        with pytest.raises(ValueError, match="does not say how it was trained"):
            trainings({"max_epochs": 1, "init_from": unknown, "data_sets": sets})
    with pytest.raises(ValueError, match="expected data_sets"):
        trainings({"max_epochs": 1})
    elsewhere = {"max_epochs": 4, "data_sets": {"train": ["speechocean762/train.jsonl.gz"]}}
    with pytest.raises(ValueError, match="trained on speechocean762, too"):
        trainings(fourth | {"averaged": [[elsewhere]]})
    first["data_sets"] = {"train": ["speechocean762/train.jsonl.gz"]}
    with pytest.raises(ValueError, match="trained on speechocean762, too"):
        trainings(third)


def test_models_are_averaged_that_began_with_one_another_or_with_the_same(
    recipe: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {
        name: Recognizer(ModelConfig(channels=4, hidden_size=16, num_layers=1), CharTokenizer()) for name in "abcd"
    }
    runs: dict[str, dict[str, Any]] = {"a": {"max_epochs": 8, "init_from": None}}
    for name, epochs, before in (("b", 5, "a"), ("c", 4, "a"), ("d", 3, "c")):
        runs[name] = {"max_epochs": epochs, "init_from": {"name": before, "settings": runs[before]}}

    def average(*names: str) -> Recognizer:
        for name, model in models.items():
            model.training_data = {"settings": runs[name], "recipe": name, "dev": {"utterances": 3}}
            model.save(tmp_path / f"{name}.safetensors")
        paths = [str(tmp_path / f"{name}.safetensors") for name in names]
        monkeypatch.setattr("sys.argv", ["average.py", *paths, "--output-dir", str(tmp_path)])
        recipe["average"].main()
        return sru_asr.load_model(tmp_path)

    expected = {"ab": [[]], "bd": [[{"max_epochs": 5}]], "dab": [[{"max_epochs": 4}, {"max_epochs": 3}], []]}
    for names, others in expected.items():
        mean = average(*names)
        assert mean.training_data == {"settings": runs[names[-1]] | {"averaged": others}, "recipe": tmp_path.name}
        for found, *parts in zip(mean.parameters(), *(models[name].parameters() for name in names), strict=True):
            torch.testing.assert_close(found, sum(parts) / len(parts))
    runs["mean"] = runs["b"] | {"averaged": [[]]}
    models["mean"] = models["b"]
    with pytest.raises(ValueError, match="is a mean itself"):
        average("a", "mean")
    del models["mean"]
    models["b"].delay = 3
    with pytest.raises(ValueError, match="emits tokens 0 frames late"):
        average("a", "b")
    with pytest.raises(SystemExit):
        average("a")
    for nothing in (None, "a", {"name": "a"}):
        runs["b"] = runs["b"] | {"init_from": nothing}
        with pytest.raises(ValueError, match="did not begin with one another"):
            average("a", "b")


def test_by_telephone_nothing_is_left_above_4_khz(
    recipe: dict[str, ModuleType], made: tuple[list[Path], dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []

    def evaluate(model: Recognizer, cuts: Any) -> SimpleNamespace:
        heard.extend(load_waveform(cut) for cut in cuts)
        return SimpleNamespace(words=word_errors("ONE B", "ONE"))

    monkeypatch.setattr("sru_asr.evaluation.evaluate", evaluate)
    recipe["evaluate"].by_telephone(sru_asr.load_model(made[0][0]), made[1])
    assert len(heard) == 3 + 1 + 3
    for waveform in heard:
        assert len(waveform) == 16_000
        power = torch.fft.rfft(waveform).abs().square()  # a bin is a hertz
        assert power[:3_800].sum() > 0.9 * power.sum()
        assert power[4_200:].sum() < 1e-3 * power.sum()


def test_what_is_measured_ships_with_its_card(
    recipe: dict[str, ModuleType],
    made: tuple[list[Path], dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models, manifests = made
    monkeypatch.setattr(recipe["ship"], "manifests_of", lambda _: manifests)
    monkeypatch.setattr(recipe["evaluate"], "NOISES", 3)
    monkeypatch.setattr(sys, "argv", ["ship.py", *map(str, models), "--output-dir", str(tmp_path / "out")])
    recipe["ship"].main()
    first, second = json.loads((tmp_path / "out/results.json").read_text())
    assert [result["training"]["settings"]["seed"] for result in (first, second)] == [0, 1]
    assert len(first["rows"]) == len(second["rows"]) == 4 * 4
    assert [row["words"]["reference"] for row in first["rows"]] == [6] * 4 + [2] * 4 + [4] * 4 + [6] * 4
    assert [row["gain_db"] for row in first["levels"]] == [-20, -10, 10, 20] * 3
    assert [(row["set"], row["words"]["reference"]) for row in first["telephone"]] == [
        ("an4", 6),
        ("an4_row", 2),
        ("alphanum", 6),
    ]
    assert first["without_speech"]["utterances"] == 3

    card = (tmp_path / "out/README.md").read_text()
    assert "$" not in card
    assert "Seeds measured: 0, 1." in card
    row, other = first["rows"][2], second["rows"][2]
    rates = [100 * r["words"]["rate"] for r in (row, other)]
    errors = ", ".join(str(row["words"][kind]) for kind in ("substitutions", "deletions", "insertions"))
    expected = (
        f"| AN4, dev | 320 ms (1 + 7) | 6 | {errors} | {rates[0]:.2f} % | "
        f"{sum(rates) / 2:.2f} % ({min(rates):.2f} to {max(rates):.2f}) |"
    )
    assert expected in card.splitlines()
    quiet, _, loud, _ = (f"{100 * row['words']['rate']:.2f} %" for row in first["levels"][:4])
    assert any(line.startswith(f"| AN4 | {quiet} | ") and f" | {loud} | " in line for line in card.splitlines())
    rates = [100 * words["rate"] for words in (first["telephone"][0]["words"], first["rows"][0]["words"])]
    assert f"| AN4, dev | {rates[0]:.2f} % | {rates[1]:.2f} % |" in card.splitlines()
    men = [first["rows"][0]["speakers"][name] for name in ("mabc", "mxyz")]
    rate = 100 * sum(counts["errors"] for counts in men) / 4
    assert f"| AN4 | men, 2 | 4 | {rate:.2f} % |" in card.splitlines()

    shipped, original = (sru_asr.load_model(path) for path in (tmp_path / "out", models[0]))
    assert (tmp_path / "out/model.safetensors").stat().st_size < 0.6 * (models[0] / "model.safetensors").stat().st_size
    for (name, weight), (_, full) in zip(shipped.named_parameters(), original.named_parameters(), strict=True):
        assert weight.dtype == torch.float32
        assert torch.equal(weight, full.half().float()), name


def test_a_model_that_is_too_large_does_not_ship(
    recipe: dict[str, ModuleType],
    made: tuple[list[Path], dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recipe["ship"], "MOST_BYTES", 1_000)
    monkeypatch.setattr(recipe["ship"], "manifests_of", lambda _: made[1])
    monkeypatch.setattr(sys, "argv", ["ship.py", str(made[0][0]), "--output-dir", str(tmp_path)])
    with pytest.raises(ValueError, match=r"has \d+ bytes, expected at most 1000: train a smaller model"):
        recipe["ship"].main()
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_no_room_the_package_stays_as_it_was(
    recipe: dict[str, ModuleType],
    made: tuple[list[Path], dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied = []

    def copyfile(source: Path, target: Path) -> None:
        copied.append(target.write_bytes(source.read_bytes()[:10]))
        if len(copied) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(recipe["ship"], "manifests_of", lambda _: made[1])
    monkeypatch.setattr(recipe["evaluate"], "NOISES", 1)
    monkeypatch.setattr(shutil, "copyfile", copyfile)
    monkeypatch.setattr(sys, "argv", ["ship.py", str(made[0][0]), "--output-dir", str(tmp_path)])
    (tmp_path / "README.md").write_text("before")
    with pytest.raises(OSError, match="No space left"):
        recipe["ship"].main()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("README.md", "before")]


def test_models_that_differ_in_more_than_their_seed_do_not_ship_together(
    recipe: dict[str, ModuleType], made: tuple[list[Path], dict[str, Path]], tmp_path: Path
) -> None:
    recipe["ship"].check_settings(made[0])
    model = sru_asr.load_model(made[0][1])
    model.training_data["settings"]["max_epochs"] = 2
    model.save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors was trained with other max_epochs than"):
        recipe["ship"].check_settings([made[0][0], tmp_path / "other.safetensors"])
    for seed in (0, 1):
        mean = sru_asr.load_model(made[0][seed])
        mean.training_data["settings"]["averaged"] = [[mean.training_data["settings"] | {"seed": 10 + seed}]]
        mean.save(tmp_path / f"mean{seed}.safetensors")
    recipe["ship"].check_settings([tmp_path / "mean0.safetensors", tmp_path / "mean1.safetensors"])
    model.training_data = {}
    model.save(tmp_path / "unknown.safetensors")
    with pytest.raises(ValueError, match="does not say how it was trained"):
        recipe["ship"].check_settings([tmp_path / "unknown.safetensors"])


@pytest.mark.skipif(not CORPORA.is_dir(), reason=f"the corpora are not at {CORPORA}")
def test_corpora_are_prepared(recipe: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def alphanum(corpus: Path, folder: Path) -> dict[str, Path]:
        """See test_alphanum.py: all of it takes a minute."""
        assert (corpus / "transcripts.tsv").is_file()
        return {split: folder / f"{split}.jsonl.gz" for split in ("train", "dev", "test")}

    monkeypatch.setattr(recipe["prepare"], "prepare_alphanum", alphanum)
    found = recipe["prepare"].prepare(CORPORA, tmp_path, tmp_path / "downloads")
    assert {name: set(splits) >= {"train", "dev"} for name, splits in found.items()} == {
        "an4": True,
        "an4_row": False,
        "fsdd": True,
        "alphanum": True,
    }
    assert len({path for splits in found.values() for path in splits.values()}) == 9
    assert found["an4"]["words"].is_file()
    rows, cuts = (list(load_manifest(found[name]["dev"])) for name in ("an4_row", "an4"))
    assert sorted(row.id for row in rows) == sorted({cut.supervisions[0].speaker for cut in cuts})
    assert sum(len(row.supervisions[0].text.split()) for row in rows) == 810
    assert sum(row.duration for row in rows) == pytest.approx(sum(cut.duration + 1.5 for cut in cuts), abs=0.1)
    first = next(cut for cut in cuts if cut.supervisions[0].speaker == rows[0].id)
    assert torch.equal(load_waveform(rows[0])[: first.num_samples], load_waveform(first))


def test_the_package_names_one_default() -> None:
    assert SHIPPED.name == "alphanum-en"
    shipped = sru_asr.load_model()
    assert sru_asr.load_model("alphanum-en").training_data == shipped.training_data
    assert SHIPPED.parent.parent == Path(sru_asr.__file__).parent
