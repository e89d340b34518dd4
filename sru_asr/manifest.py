"""Reading a manifest, and finding out from headers alone whether it can be trained on."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import soundfile
from lhotse import AudioSource, CutSet, MonoCut, MultiCut
from lhotse.cut import Cut, MixedCut
from lhotse.cut.set import deserialize_cut

from sru_asr.audio import AudioError, duration_seconds
from sru_asr.corpus import N_THREADS, whole_file
from sru_asr.text import Tokenizer, normalize

MAX_FAULTS_SHOWN = 20
# What a manifest may be wrong about a time: other tools round to hundredths of a second.
TOLERANCE_SECONDS = 0.01


class ManifestError(ValueError):
    """A manifest, or the data it describes, cannot be used; the message names each line or cut and its fault."""


def load_manifest(path: str | Path) -> CutSet:
    """Reads a manifest that has to be right as a whole; see `read_manifest`.

    The audio files of Lhotse cuts are left for `validate` to open, which halves the start of a large training.

    Raises:
        ManifestError: If the manifest cannot be read, or any of its lines has a fault.
    """
    cuts, faults = _read(path, open_files=False)
    _raise_for(faults)
    return cuts


def read_manifest(path: str | Path) -> tuple[CutSet, list[str]]:
    """Reads a manifest, keeping its good entries apart from the faults of the others.

    Args:
        path: A `.jsonl` or `.jsonl.gz` file. A line is either a Lhotse cut with one supervision, or an object with the
            strings `audio` (a file; relative to the manifest's folder) and `text`, and optionally
            `id` (by default what `audio` says) and `speaker`.

    Returns:
        Cuts of one transcript each, whose audio can be opened and is long enough; and for each of the
        other lines a message that starts with the file and the line.

    Raises:
        ManifestError: If there is nothing to read.
    """
    return _read(path, open_files=True)


def validate(
    cuts: CutSet,
    tokenizer: Tokenizer,
    *,
    max_seconds: float,
    min_seconds: float,
) -> None:
    """Finds, from headers alone, everything that would make a training on these cuts fail later, or lie.

    Args:
        cuts: The utterances.
        tokenizer: What will encode their transcripts.
        max_seconds: Utterances longer than this are faults.
        min_seconds: And so are shorter ones.

    Raises:
        ManifestError: With the faults of all cuts.
    """

    def check(cut: Cut) -> list[str]:
        found = [*_audio_faults(cut), *_supervision_faults(cut)]
        if cut.duration > 0 and not min_seconds <= cut.duration <= max_seconds:
            found.append(f"lasts {cut.duration:.2f} s, expected {min_seconds:g} to {max_seconds:g} s")
        text = cut.supervisions[0].text if len(cut.supervisions) == 1 else None
        if isinstance(text, str):
            found += _text_faults(text, tokenizer)
        return [f"{describe(cut)}: {fault}" for fault in found]

    with ThreadPool(N_THREADS) as pool:
        faults = [fault for found in pool.imap(check, cuts, chunksize=64) for fault in found]
    occurrences = Counter(cut.id for cut in cuts)
    faults += [f"{cut_id}: {n} cuts have this id" for cut_id, n in occurrences.items() if n > 1]
    _raise_for(faults if occurrences else ["there are no utterances"])


def too_fast(cut: Cut, tokenizer: Tokenizer, frames_per_second: float) -> bool:
    """Whether a cut has fewer frames than CTC needs for its text: one a token, and one between equal neighbours.

    No training learns anything from such a cut. Real corpora have some, where a transcript says more than the audio.

    Args:
        cut: With one supervision, as `validate` accepts it.
        tokenizer: What will encode the text.
        frames_per_second: The encoder's output rate; at a speed of 1.1 there are 1.1 times fewer.
    """
    tokens = tokenizer.encode(normalize(cut.supervisions[0].text or ""))
    needed = len(tokens) + sum(a == b for a, b in pairwise(tokens))
    return needed > int(cut.duration * frames_per_second)


def describe(cut: Cut) -> str:
    """Names a cut and its files, for a message."""
    sources = [source for part in _recorded(cut) for source in part.recording.sources]
    return f"{cut.id} ({', '.join(s.source if s.type == 'file' else s.type for s in sources) or 'no file'})"


def _read(path: str | Path, open_files: bool) -> tuple[CutSet, list[str]]:
    path = Path(path)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            lines = file.readlines()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ManifestError(f"{path}: cannot be read as a manifest of JSON lines: {error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise ManifestError(f"{path}: is empty; expected Lhotse cuts, or JSON lines with `audio` and `text`")

    cuts: list[Cut] = []
    faults: list[str] = []
    with ThreadPool(N_THREADS) as pool:
        parse = partial(_parse, folder=path.parent, open_files=open_files)
        parsed = pool.imap(parse, (line for _, line in numbered), chunksize=64)
        for (number, _), entry in zip(numbered, parsed, strict=True):
            if isinstance(entry, ManifestError):
                faults.append(f"{path}:{number}: {entry}")
            else:
                cuts.append(entry)
    return CutSet.from_cuts(cuts), faults


def _raise_for(faults: Sequence[str]) -> None:
    if not faults:
        return
    rest = len(faults) - MAX_FAULTS_SHOWN
    shown = [*faults[:MAX_FAULTS_SHOWN], *([f"... and {rest} more"] if rest > 0 else [])]
    raise ManifestError("\n  ".join([f"{len(faults)} fault{'s' * (len(faults) > 1)} in the data:", *shown]))


def _parse(line: str, folder: Path, open_files: bool) -> Cut | ManifestError:
    """The cut of a line, or what is wrong with it, returned because a thread pool ends at the first exception."""
    try:
        entry = json.loads(line)
        if not isinstance(entry, dict):
            return ManifestError(f"expected a JSON object, found {line.strip()[:40]!r}")
        is_cut = str(entry.get("type")).endswith("Cut")
        return _lhotse_cut(entry, open_files) if is_cut else _file_cut(entry, folder)
    except ManifestError as error:
        return error
    except (ValueError, RecursionError) as error:
        return ManifestError(f"invalid JSON: {error}")


def _lhotse_cut(entry: dict[str, Any], open_files: bool) -> Cut:
    try:
        cut = deserialize_cut(entry)
        faults = [*_supervision_faults(cut), *(_audio_faults(cut) if open_files else ())]
        name = describe(cut)
    except Exception as error:  # Lhotse trusts what it reads, so that a fault may show as any error
        raise ManifestError(f"not a Lhotse cut: {type(error).__name__}: {error}") from error
    if not isinstance(cut.id, str):
        faults.append(f"has an id that is no string: {cut.id!r}")
    if faults:
        raise ManifestError(f"{name}: {'; '.join(faults)}")
    return cut


def _file_cut(entry: dict[str, Any], folder: Path) -> Cut:
    for name, required in {"audio": True, "text": True, "id": False, "speaker": False}.items():
        if required and name not in entry:
            raise ManifestError(f"no field `{name}`, only: {', '.join(entry) or 'nothing'}")
        if not isinstance(entry.get(name), str if required else str | None):
            raise ManifestError(f"field `{name}`: expected a string, found {entry[name]!r}")
    cut_id, path = entry.get("id") or entry["audio"], str(folder / entry["audio"])
    try:
        header = _header(path)
        duration_seconds(path)  # finds a WAV that was cut short, whose header libsndfile corrects in silence
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error
    except AudioError as error:
        raise ManifestError(str(error)) from error
    return whole_file(cut_id, path, header, entry["text"], entry.get("speaker"))


def _header(path: str) -> Any:
    """What `soundfile.info` says of a file, once it is certain that it is audio of a known length."""
    try:
        if not Path(path).is_file():
            raise ManifestError("there is no such file")
        header = soundfile.info(path)
    except OSError as error:
        raise ManifestError(f"cannot be opened: {error.strerror}") from error
    except soundfile.LibsndfileError as error:
        raise ManifestError(f"cannot be read as audio: {error.error_string}") from error
    except TypeError as error:  # soundfile tells by its ending that a file has no header
        raise ManifestError("cannot be read as audio: it has no header") from error
    if not 0 < header.frames < 2**62:  # a stream whose length was never written down is 2**63 - 1 long
        raise ManifestError("holds no samples, or does not say how many: write the file again")
    return header


def _recorded(cut: Cut) -> list[MonoCut | MultiCut]:
    """The cuts of recordings that a cut is made of."""
    parts = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    return [part for part in parts if isinstance(part, MonoCut | MultiCut) and part.recording is not None]


def _audio_faults(cut: Cut) -> Iterator[str]:
    if not cut.duration > 0:
        yield f"lasts {cut.duration} s"
    parts = _recorded(cut)
    if not parts:
        yield "has no audio file"
    for part in parts:
        channels = set(part.channel if isinstance(part.channel, list) else [part.channel])
        for source in part.recording.sources:
            if source.type == "file" and channels.intersection(source.channels):
                yield from _file_faults(part, source)


def _file_faults(cut: MonoCut | MultiCut, source: AudioSource) -> Iterator[str]:
    """Where a file is not what the manifest says."""
    try:
        header = _header(source.source)
    except ManifestError as error:
        yield str(error)
        return
    if header.channels != len(source.channels):
        yield f"the file has {header.channels} channels, the manifest says {len(source.channels)}"
    if cut.recording.transforms:  # they change rate and length, so that those of the file say nothing
        return
    seconds = header.frames / header.samplerate
    if header.samplerate != cut.recording.sampling_rate:
        yield f"the file is at {header.samplerate} Hz, the manifest says {cut.recording.sampling_rate} Hz"
    elif cut.end > seconds + TOLERANCE_SECONDS:
        yield f"the file ends at {seconds:.2f} s, the cut at {cut.end:.2f} s"


def _supervision_faults(cut: Cut) -> Iterator[str]:
    if len(cut.supervisions) != 1:
        yield f"has {len(cut.supervisions)} supervisions, expected 1"
    for supervision in cut.supervisions:  # their times count from the start of the cut
        if not isinstance(supervision.text, str):
            yield f"has no text: expected a string, found {supervision.text!r}"
        if supervision.start < -TOLERANCE_SECONDS or supervision.end > cut.duration + TOLERANCE_SECONDS:
            yield "has the text of more than its audio: the supervision reaches out of the cut"


def _text_faults(text: str, tokenizer: Tokenizer) -> Iterator[str]:
    normalized = normalize(text)
    if not normalized:
        yield f"has no words in its text {text!r}"
    elif missing := tokenizer.missing(normalized):
        yield f"has characters that the tokenizer lacks: {', '.join(map(repr, sorted(missing)))}"
