"""The recipe of Asterisk's prompts: what is written as it is said, in a corpus made here, and the real one."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recipe_scripts import load_prepare

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared/corpora/asterisk_en"


recipe = load_prepare("asterisk_en")

SAID = {
    "agent-pass: Please enter your agent number, followed by the pound key.": (
        "PLEASE ENTER YOUR AGENT NUMBER FOLLOWED BY THE POUND KEY"
    ),
    "press-9: Press 9, or 0 for Call-Forward.": "PRESS NINE OR ZERO FOR CALL FORWARD",
    "pin: Your PIN; I'm sorry...": "YOUR PIN I'M SORRY",
    "digits/h-40: fourtieth": "FORTIETH",
    "letters/a: a": "A",
}
NOT_SAID = [
    "demo: Dial 500 now.",
    "beep: [a tone]",
    "join: <beep>",
    "space: (space)",
    "star: press *",
    "am: A.M.",
    "pm: p.m.",
    "v: 3.5",
    "the PBX",
]


@pytest.mark.parametrize("suffix", [".opus", ".wav"])
@pytest.mark.parametrize("folder", ["", "wav"])
def test_prompts_that_are_written_as_they_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, folder: str
) -> None:
    monkeypatch.setattr(recipe, "LEAST", 5)
    lines = [*SAID, *(line if ":" in line else f"x: {line}" for line in NOT_SAID)]
    for line in lines:
        audio = tmp_path / folder / (line.partition(":")[0] + suffix)
        audio.parent.mkdir(parents=True, exist_ok=True)
        options = {"format": "OGG", "subtype": "OPUS"} if suffix == ".opus" else {}
        soundfile.write(audio, np.full(8000, 0.1), 8000, **options)
    text = "\ufeff; Core Sounds\n\n" + "\n".join([*lines, "absent: No audio."])
    (tmp_path / recipe.TRANSCRIPTS).write_text(text, encoding="utf-8")
    (manifest,) = recipe.prepare(tmp_path, tmp_path / "out").values()
    with gzip.open(manifest, "rt") as rows:
        cuts = {cut["id"]: cut["supervisions"][0]["text"] for cut in map(json.loads, rows)}
    assert cuts == {line.partition(":")[0].replace("/", "-"): said for line, said in SAID.items()}


def test_what_is_no_such_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="asterisk-core-sounds-en"):
        recipe.prepare(tmp_path, tmp_path)
    (tmp_path / recipe.TRANSCRIPTS).write_text("; only this\nhello: Hello.\n")
    with pytest.raises(ValueError, match="expected at least 400 prompts with audio, found 0"):
        recipe.prepare(tmp_path, tmp_path)
    (tmp_path / recipe.TRANSCRIPTS).write_text("hello\n")
    with pytest.raises(ValueError, match=r"core-sounds-en.txt:1: expected 'NAME: TEXT', found 'hello'"):
        recipe.prepare(tmp_path, tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the corpus asterisk_en beside the project")
def test_the_real_prompts(tmp_path: Path) -> None:
    (manifest,) = recipe.prepare(REAL, tmp_path).values()
    with gzip.open(manifest, "rt") as rows:
        cuts = [json.loads(row) for row in rows]
    assert len(cuts) == 523
    texts = [cut["supervisions"][0]["text"] for cut in cuts]
    assert {chr(letter) for letter in range(ord("A"), ord("Z") + 1)} <= set(texts)
    assert all(cut["duration"] > 0.04 * len(text) for cut, text in zip(cuts, texts, strict=True))
