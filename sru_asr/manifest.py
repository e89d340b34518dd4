"""Reading a manifest, and finding out whether it can be trained on."""

import gzip
import hashlib
import json
import reprlib
import sys
import zlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

from lhotse import AudioSource, CutSet, MonoCut, MultiCut
from lhotse.cut import Cut, MixedCut
from lhotse.cut.set import deserialize_cut
from lhotse.utils import fastcopy

from sru_asr.audio import AudioError, header
from sru_asr.corpus import threads, undecodable, whole_file
from sru_asr.text import Tokenizer, normalize, spelled_out

MAX_FAULTS_SHOWN = 20
# Damaged files are found by decoding all of a corpus, so that their names are worth more.
MAX_FILES_SHOWN = 1000
# Far more than any cut has; what is read as one line would be held in memory.
MOST_BYTES_OF_A_LINE = 16_000_000
# What segments of a recording may have in common that are trained on and measured on: where they touch.
MOST_SHARED_SECONDS = 0.1
# What a manifest may be wrong about a time: other tools round to hundredths of a second.
TOLERANCE_SECONDS = 0.01
# The custom field of a cut that holds the file and the line of its manifest.
_PLACE = "manifest_line"
# The fields of a supervision that say who speaks, and how.
_NAMED = ("speaker", "gender", "language")


class ManifestError(ValueError):
    """A manifest, or the data it describes, cannot be used; the message names each line or cut and its fault."""


def load_manifest(path: str | Path) -> CutSet:
    """Reads a manifest that has to be right as a whole; see `read_manifest`.

    Every audio file is decoded once, or a training would stop, hours later, at the first that is damaged. Which were
    sound is remembered beside the manifest, in `*.decoded`.

    Raises:
        ManifestError: If the manifest cannot be read, any of its lines has a fault, or a file cannot be decoded.
    """
    cuts, faults = _read(path, open_files=False)
    _raise_for(faults)
    files = {source.source: cut for cut in cuts for _, source in _files(cut)}
    faults = [
        f"{place(files[source])}: {fault}" for source, fault in undecodable(files, Path(f"{path}.decoded")).items()
    ]
    _raise_for(faults, MAX_FILES_SHOWN)
    return cuts


def read_manifest(path: str | Path) -> tuple[CutSet, list[str]]:
    """Reads a manifest, keeping its good entries apart from the faults of the others.

    Args:
        path: A `.jsonl` or `.jsonl.gz` file. A line is either a Lhotse cut with one supervision, or an object with the
            strings `audio` (a file; relative to the manifest's folder) and `text`, and optionally
            `id` (by default what `audio` says) and `speaker`, and the numbers `offset` and `duration`, in seconds, for
            a part of the file. NeMo's `audio_filepath` is `audio`, too. What else it says is kept for `field`.

    Returns:
        Cuts of one transcript each, whose audio can be opened and is long enough, and which know their line (see
        `place`); and for each of the other lines a message that starts with the file and the line.

    Raises:
        ManifestError: If there is nothing to read.
    """
    return _read(path, open_files=True)


def read_texts(path: str | Path) -> tuple[list[str], list[str]]:
    """What the lines of a manifest say, as `read_manifest` takes them; their audio need not be there.

    Returns:
        The texts, and for each line without one a message that starts with the file and the line.

    Raises:
        ManifestError: If there is nothing to read.
    """
    texts: list[str] = []
    faults: list[str] = []
    for number, line in _lines(Path(path)):
        try:
            entry = json.loads(line.decode("utf-8-sig"))
            if isinstance(entry, dict) and not entry.keys() & {"text", "supervisions"}:
                raise ManifestError(_missing("text", entry))
            found = entry["text"] if "text" in entry else " ".join(one["text"] for one in entry["supervisions"])
            found.encode()
            texts.append(found)
        except ManifestError as error:
            faults.append(f"{path}:{number}: {error}")
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            faults.append(f"{path}:{number}: expected a JSON object with a text: {type(error).__name__}: {error}")
    return texts, faults


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
        found = [*_layout_faults(cut), *_file_faults(cut), *_supervision_faults(cut)]
        if cut.duration > 0 and not min_seconds <= cut.duration <= max_seconds:
            found.append(f"lasts {cut.duration:.2f} s, expected {min_seconds:g} to {max_seconds:g} s")
        if fault := _encoding_fault(cut.id):
            found.append(f"has an id that is none: {fault}")
        text = cut.supervisions[0].text if len(cut.supervisions) == 1 else None
        if isinstance(text, str):
            found += _text_faults(text, tokenizer)
        return [f"{describe(cut)}: {fault}" for fault in found]

    with threads() as pool:
        faults = [fault for found in pool.imap(check, cuts, chunksize=64) for fault in found]
    first: dict[str, Cut] = {}
    for cut in cuts:
        if cut.id in first:
            faults.append(f"{describe(cut)}: expected an id of its own, found that of {describe(first[cut.id])}")
        first.setdefault(cut.id, cut)
    _raise_for(faults if first else ["there are no utterances"])


def refuse_shared(train: CutSet, dev: CutSet) -> None:
    """Raise a ManifestError if utterances of the development set are trained on, whatever they are called there."""
    ids, heard = {cut.id: cut for cut in dev}, _Heard(dev)
    for what, find in (("id", lambda cut: ids.get(cut.id)), ("audio", heard.find)):
        shared = [(cut, found) for cut in train if (found := find(cut)) is not None]
        if shared:
            (first, of_dev), *_ = shared
            raise ManifestError(
                f"expected no {what} in both training and development set, found {len(shared)} "
                f"({describe(first)} and {describe(of_dev)}, ...): trained on, it would measure "
                f"nothing; leave those utterances out{', or give others ids of their own' if what == 'id' else ''}"
            )


class _Heard:
    """Which parts of which channels of which files a set of cuts is of."""

    def __init__(self, cuts: CutSet) -> None:
        parts: defaultdict[tuple[str, int], list[tuple[float, float, Cut]]] = defaultdict(list)
        for cut in cuts:
            for channel, start, end in _parts(cut):
                parts[channel].append((start, end, cut))
        # Of each channel the parts in their order, and where the latest of those up to each ends.
        self._parts = {channel: sorted(found, key=lambda one: one[:2]) for channel, found in parts.items()}
        self._ends = {
            channel: list(accumulate((end for _, end, _ in found), max)) for channel, found in self._parts.items()
        }

    def find(self, cut: Cut) -> Cut | None:
        """One of the cuts that has audio in common with this one, more than where two segments touch."""
        for channel, start, end in _parts(cut):
            parts, ends = self._parts.get(channel, []), self._ends.get(channel, [])
            for first, last, other in islice(parts, bisect_right(ends, start), None):
                if first >= end:
                    break
                shared = min(end, last) - max(start, first)
                if shared > min(MOST_SHARED_SECONDS, (end - start) / 2, (last - first) / 2):
                    return other
        return None


def _parts(cut: Cut) -> Iterator[tuple[tuple[str, int], float, float]]:
    """What a cut is of: file and channel, from when to when."""
    for part, source in _files(cut):
        path = str(Path(source.source).resolve())
        for channel in _channels(part).intersection(source.channels):
            yield (path, channel), part.start, part.end


def too_fast(cut: Cut, tokenizer: Tokenizer, n_frames: int) -> bool:
    """Whether a cut has fewer frames than CTC needs for its text: one a token, and one between equal neighbours.

    No training learns anything from such a cut. Real corpora have some, where a transcript says more than the audio.

    Args:
        cut: With one supervision, as `validate` accepts it.
        tokenizer: What will encode the text.
        n_frames: That the encoder makes of it; at a speed of 1.1 there are 1.1 times fewer.
    """
    tokens = tokenizer.encode(normalize(cut.supervisions[0].text or ""))
    needed = len(tokens) + sum(a == b for a, b in pairwise(tokens))
    return needed > n_frames


def place(cut: Cut) -> str:
    """Names a cut for a message, after the line of the manifest that it was read from."""
    line = getattr(cut, _PLACE, None)
    return f"{line}: {cut.id}" if line else cut.id


def field(cut: Cut, name: str) -> str:
    """What the manifest says of an utterance besides its text, such as its speaker's `gender`; "" if nothing.

    Looked for in the supervision, then in the cut: in their custom fields, and in those that Lhotse has a name for.
    """
    for owner in (*cut.supervisions, cut):
        value = (getattr(owner, "custom", None) or {}).get(name)
        if value is None and name in _NAMED:
            value = getattr(owner, name, None)
        if isinstance(value, str | int | float):
            return str(value)
    return ""


def describe(cut: Cut) -> str:
    """As `place`, with the files of the cut."""
    sources = [source for part in _recorded(cut) for source in part.recording.sources]
    return f"{place(cut)} ({', '.join(s.source if s.type == 'file' else s.type for s in sources) or 'no file'})"


def file_of(cut: Cut) -> str | None:
    """The file that a cut is all of, if it is."""
    if not isinstance(cut, MonoCut | MultiCut) or cut.recording is None or cut.recording.transforms:
        return None
    files = [source for source in cut.recording.sources if source.type == "file"]
    channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
    is_all = (
        len(files) == len(cut.recording.sources) == 1
        and sorted(channels) == sorted(files[0].channels)
        and abs(cut.start) <= TOLERANCE_SECONDS
        and abs(cut.end - cut.recording.duration) <= TOLERANCE_SECONDS
    )
    return files[0].source if is_all else None


def _read(path: str | Path, open_files: bool) -> tuple[CutSet, list[str]]:
    path = Path(path)
    numbered = _lines(path)
    cuts: list[Cut] = []
    faults: list[str] = []
    with threads() as pool:
        for entry in pool.imap(partial(_parse, path=path, open_files=open_files), numbered, chunksize=64):
            (faults if isinstance(entry, str) else cuts).append(entry)
    return CutSet.from_cuts(cuts), faults


def _lines(path: Path) -> list[tuple[int, bytes]]:
    """Those that are not empty, with their numbers."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            lines = iter(lambda: file.readline(MOST_BYTES_OF_A_LINE + 1), b"")
            numbered = [(number, _bounded(line)) for number, line in enumerate(lines, start=1) if line.strip()]
    except (OSError, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: cannot be read as a manifest of JSON lines: {error}") from error
    if not numbered:
        raise ManifestError(f"{path}: is empty; expected Lhotse cuts, or JSON lines with `audio` and `text`")
    return numbered


def _bounded(line: bytes) -> bytes:
    if len(line) > MOST_BYTES_OF_A_LINE:
        raise OSError(f"expected lines of at most {MOST_BYTES_OF_A_LINE} bytes, found {line[:20]!r}...")
    return line


def _raise_for(faults: Sequence[str], n_shown: int = MAX_FAULTS_SHOWN) -> None:
    if not faults:
        return
    rest = len(faults) - n_shown
    shown = [*faults[:n_shown], *([f"... and {rest} more"] if rest > 0 else [])]
    raise ManifestError("\n  ".join([f"{len(faults)} fault{'s' * (len(faults) > 1)} in the data:", *shown]))


def _parse(numbered: tuple[int, bytes], path: Path, open_files: bool) -> Cut | str:
    """The cut of a line, or what is wrong with it, returned because a thread pool ends at the first exception."""
    number, line = numbered
    place = f"{path}:{number}"
    try:
        text = line.decode("utf-8-sig")
        entry = json.loads(text)
        if not isinstance(entry, dict):
            return f"{place}: expected a JSON object, found {text.strip()[:40]!r}"
        is_cut = str(entry.get("type")).endswith("Cut")
        return _lhotse_cut(entry, place, open_files) if is_cut else _file_cut(entry, place, path.parent)
    except ManifestError as error:
        return f"{place}: {error}"
    except (ValueError, RecursionError) as error:
        return f"{place}: invalid JSON: {error}"


def _foreign_sources(found: Any) -> Iterator[str]:
    """Where a cut would read other things than files, wherever in it that is: Lhotse runs commands in a shell."""
    if isinstance(found, dict):
        for source in found["sources"] if isinstance(found.get("sources"), list) else ():
            if isinstance(source, dict) and source.get("type") != "file":
                yield f"expected audio in a file, found a source of the type {source.get('type')!r}"
        found = list(found.values())
    for value in found if isinstance(found, list) else ():
        yield from _foreign_sources(value)


def _lhotse_cut(entry: dict[str, Any], place: str, open_files: bool) -> Cut | str:
    for fault in _foreign_sources(entry):
        raise ManifestError(fault)
    try:
        cut = deserialize_cut(entry)
        setattr(cut, _PLACE, place)
        faults = [*_supervision_faults(cut), *_layout_faults(cut), *(_file_faults(cut) if open_files else ())]
        file_of(cut), list(_files(cut))  # which will be asked for later
        name = describe(cut)
    except Exception as error:  # Lhotse trusts what it reads, so that a fault may show as any error
        raise ManifestError(f"not a Lhotse cut: {type(error).__name__}: {error}") from error
    if not isinstance(cut.id, str):
        faults.append(f"has an id that is no string: {cut.id!r}")
    return f"{name}: {'; '.join(faults)}" if faults else cut


def _file_cut(entry: dict[str, Any], place: str, folder: Path) -> Cut:
    if "audio_filepath" in entry and "audio" not in entry:
        entry = {"audio": entry.pop("audio_filepath"), **entry}
    for name, required in {"audio": True, "text": True, "id": False, "speaker": False}.items():
        if required and name not in entry:
            raise ManifestError(_missing(name, entry))
        if not isinstance(value := entry.get(name), str if required else str | None):
            raise ManifestError(f"field `{name}`: expected a string, found {reprlib.repr(value)}")
    if fault := _encoding_fault(entry["text"]):
        raise ManifestError(f"field `text`: {fault}")
    cut_id, path = entry.get("id") or entry["audio"], str(folder / entry["audio"])
    # As of a file whose name is in no encoding; an id is written to files.
    cut_id = cut_id.encode(errors="backslashreplace").decode()
    offset, duration = (_seconds(entry, name) for name in ("offset", "duration"))
    try:
        cut = whole_file(cut_id, path, header(path), entry["text"], entry.get("speaker"))
    except AudioError as error:
        raise ManifestError(str(error)) from error
    if offset or (duration is not None and duration < cut.duration - TOLERANCE_SECONDS):
        cut = _part(cut, offset or 0.0, duration, cut_id if entry.get("id") else _part_id(cut_id, offset, duration))
    elif duration is not None and duration > cut.duration + TOLERANCE_SECONDS:
        raise ManifestError(f"{path}: the file ends at {cut.duration:.2f} s, the manifest says at {duration:.2f} s")
    known = ("audio", "text", "id", "speaker", "offset", "duration")
    cut.supervisions[0].custom = {name: value for name, value in entry.items() if name not in known} or None
    setattr(cut, _PLACE, place)
    return cut


def _missing(name: str, entry: dict[str, Any]) -> str:
    return f"no field `{name}`, only: {', '.join(entry) or 'nothing'}"


def _part_id(name: str, offset: float | None, duration: float | None) -> str:
    """Of a part of a file that has no id of its own: all that says where it is, or two might share one."""
    return f"{name}:{offset or 0!r}" + ("" if duration is None else f"+{duration!r}")


def _seconds(entry: dict[str, Any], name: str) -> float | None:
    value = entry.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise ManifestError(f"field `{name}`: expected a number of seconds, found {reprlib.repr(value)}")
    return float(value)


def _part(cut: Cut, offset: float, duration: float | None, cut_id: str) -> Cut:
    """What a cut of a whole file has behind `offset`; to its end, if `duration` is None."""
    rest = cut.duration - offset
    wanted = rest if duration is None else duration
    seconds = min(wanted, rest)
    if wanted > rest + TOLERANCE_SECONDS or seconds * cut.sampling_rate < 0.5:  # which is no sample
        raise ManifestError(
            f"expected a part of the file, which has {cut.duration:.2f} s, found {wanted:.2f} s from {offset:.2f} s on"
        )
    part = cut.truncate(offset=offset, duration=seconds, preserve_id=True).with_id(cut_id)
    part.supervisions = [fastcopy(cut.supervisions[0], start=0.0, duration=part.duration)]
    return part


def digest(cuts: Iterable[Cut]) -> str:
    """16 hexadecimal digits that change with any id, text or duration and the order, but not with where audio lies."""
    found = hashlib.sha256()
    for cut in cuts:
        found.update(f"{cut.id}\t{cut.supervisions[0].text}\t{cut.duration:.4f}\n".encode())
    return found.hexdigest()[:16]


def _recorded(cut: Cut) -> list[MonoCut | MultiCut]:
    """The cuts of recordings that a cut is made of."""
    parts = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    return [part for part in parts if isinstance(part, MonoCut | MultiCut) and part.recording is not None]


def _channels(part: MonoCut | MultiCut) -> set[int]:
    return set(part.channel if isinstance(part.channel, list) else [part.channel])


def _files(cut: Cut) -> Iterator[tuple[MonoCut | MultiCut, AudioSource]]:
    """The files that a cut reads, each with the part of the cut that does."""
    for part in _recorded(cut):
        channels = _channels(part)
        for source in part.recording.sources:
            if source.type == "file" and channels.intersection(source.channels):
                yield part, source


def _layout_faults(cut: Cut) -> Iterator[str]:
    """What is wrong with the audio that a cut says it is of, without a look at it."""
    if not cut.duration > 0:
        yield f"lasts {cut.duration} s"
    if not _recorded(cut):
        yield "has no audio file"
    for part in _recorded(cut):
        if part.start < 0:
            yield f"starts at {part.start} s, before its recording"
        has = {channel for source in part.recording.sources for channel in source.channels}
        if missing := _channels(part) - has:
            yield f"wants channel {min(missing)}, and its recording has {sorted(has)}"


def _file_faults(cut: Cut) -> Iterator[str]:
    """Where the files of a cut are not what the manifest says."""
    for part, source in _files(cut):
        yield from _faults_of(part, source)


def _faults_of(cut: MonoCut | MultiCut, source: AudioSource) -> Iterator[str]:
    try:
        found = header(source.source)
    except AudioError as error:
        yield str(error).removeprefix(f"{source.source}: ")
        return
    if found.n_channels != len(source.channels):
        yield f"the file has {found.n_channels} channels, the manifest says {len(source.channels)}"
    if cut.recording.transforms:  # they change rate and length, so that those of the file say nothing
        return
    if found.sample_rate != cut.recording.sampling_rate:
        yield f"the file is at {found.sample_rate} Hz, the manifest says {cut.recording.sampling_rate} Hz"
    elif cut.end > found.seconds + TOLERANCE_SECONDS:
        yield f"the file ends at {found.seconds:.2f} s, the cut at {cut.end:.2f} s"
    elif file_of(cut) and found.seconds > cut.end + TOLERANCE_SECONDS:
        yield f"the file ends at {found.seconds:.2f} s, the manifest says at {cut.end:.2f} s: prepare it again"


def _encoding_fault(text: str) -> str:
    """What JSON may say and no file can: halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"expected Unicode, found half a character (a lone surrogate) in {text!r}"
    return ""


def _supervision_faults(cut: Cut) -> Iterator[str]:
    if len(cut.supervisions) != 1:
        yield f"has {len(cut.supervisions)} supervisions, expected 1"
    for supervision in cut.supervisions:  # their times count from the start of the cut
        if not isinstance(supervision.text, str):
            yield f"has no text: expected a string, found {supervision.text!r}"
        elif fault := _encoding_fault(supervision.text):
            yield f"has a text that is none: {fault}"
        if supervision.start < -TOLERANCE_SECONDS or supervision.end > cut.duration + TOLERANCE_SECONDS:
            yield "has the text of more than its audio: the supervision reaches out of the cut"
        if not isinstance(supervision.speaker, str | None):
            yield f"has a speaker that is no string: {supervision.speaker!r}"


def _text_faults(text: str, tokenizer: Tokenizer) -> Iterator[str]:
    normalized = normalize(text)
    if not normalized:
        yield f"has no words in its text {reprlib.repr(text)}"
    elif missing := tokenizer.missing(normalized):
        hint = spelled_out(missing)
        if any(map(str.isalpha, missing)):
            hint += "; with --init-from, --new-tokenizer takes new letters"
        yield f"has characters that the tokenizer lacks: {', '.join(map(repr, sorted(missing)))}{hint}"
