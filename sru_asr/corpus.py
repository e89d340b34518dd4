"""A corpus as rows of utterances, written down as a Lhotse manifest, its audio decoded once before it is relied on."""

import hashlib
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TextIO, TypeVar

from sru_asr.whole import whole

if TYPE_CHECKING:
    import numpy as np
    from lhotse.cut import Cut

    from sru_asr.audio import Header

# Reading a header is waiting for a disk or a network share, so more threads than cores pay. Decoding leaves Python to
# the other threads, too.
N_THREADS = 16
FORGOTTEN = "%s: cannot remember which files were decoded: %s"

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Utterance(NamedTuple):
    """One row of a corpus: an audio file of its own and what is said in it.

    Attributes:
        id: Unique within the corpus.
        audio: A file that soundfile and lhotse can read.
        text: The transcript, as the corpus gives it.
        speaker: Who says it.
        fields: What else is known of it or its speaker, to tell error rates of groups by.
    """

    id: str
    audio: Path
    text: str
    speaker: str
    fields: Mapping[str, str] = MappingProxyType({})


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Reads a text file in UTF-8, line by line with their numbers, from 1.

    Raises:
        ValueError: A line is in another encoding; the message names it.
    """
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            yield number, line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}:{number}: expected text in UTF-8, found the byte 0x{line[error.start]:02x} at "
                f"{line[max(error.start - 20, 0) : error.start + 20]!r}; convert the file, for example with "
                f"iconv -f latin1 -t utf-8"
            ) from error


def write_cuts(utterances: Iterable[Utterance], path: Path) -> int:
    """Writes a Lhotse manifest with one cut per utterance, in the order given.

    Lengths and sampling rates come from the headers of the files. Audio paths are written absolute,
    so that the manifest can be read from any working directory.

    Args:
        utterances: The rows of the corpus.
        path: The manifest, `*.jsonl.gz`; appears only when complete. Its folder is made.

    Returns:
        The number of cuts written.

    Raises:
        ValueError: There are no utterances, an id occurs twice, or an audio file is missing, unreadable, empty or cut
            short.
    """
    from lhotse import CutSet

    utterances = list(utterances)
    if not utterances:
        raise ValueError(f"{path}: there are no utterances to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    seen = set()
    with whole(path) as part, threads() as pool, CutSet.open_writer(part) as writer:
        for cut in _progress(pool.imap(_cut, utterances, chunksize=16), path.name, len(utterances)):
            if cut.id in seen:
                raise ValueError(f"{path}: expected every utterance to have its own id, found {cut.id!r} twice")
            seen.add(cut.id)
            writer.write(cut)
    logger.info("%s: %d utterances", path, len(utterances))
    return len(utterances)


def flac_copies(utterances: Iterable[Utterance], folder: Path) -> list[Utterance]:
    """The utterances, with FLAC copies in place of Opus, which takes ten times as long to decode, in every epoch again.

    Copies have the rate of training, and are scaled down where the decoded peak lies above 1.

    Args:
        utterances: The rows of the corpus.
        folder: Where copies go; those of files that have not changed since are kept.

    Raises:
        AudioError: A file cannot be decoded.
        OSError: A copy cannot be written.
    """
    utterances = list(utterances)
    with threads() as pool:
        copies = pool.imap(lambda utterance: _flac_copy(utterance, folder), utterances)
        return list(_progress(copies, "decoding", len(utterances)))


def _flac_copy(utterance: Utterance, folder: Path) -> Utterance:
    from sru_asr.audio import SAMPLE_RATE, read

    if utterance.audio.suffix != ".opus":
        return utterance
    copy = copy_of(utterance.audio, folder, utterance.id)
    if not copy.is_file():
        waveform = read(utterance.audio)
        write_flac(copy, (waveform / waveform.abs().max().clamp(min=1)).numpy(), SAMPLE_RATE)
    return utterance._replace(audio=copy)


def copy_of(source: Path, folder: Path, name: str) -> Path:
    """Where a FLAC copy of a file belongs: a name of its own for each file, and each state of it.

    So two corpora that share a folder, and names of utterances, do not get each other's audio.

    Raises:
        ValueError: By that name, which is a corpus's own, it would lie outside of the folder.
    """
    status = source.stat()
    state = f"{source.resolve()} {status.st_size} {status.st_mtime_ns}"
    copy = folder / f"{name}-{hashlib.sha256(state.encode()).hexdigest()[:8]}.flac"
    if not copy.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"expected a name for an utterance, found {name!r}, by which a copy would leave {folder}")
    return copy


def write_flac(path: Path, samples: "np.ndarray", sample_rate: int) -> None:
    """Writes 16-bit FLAC, which appears only when it is complete; its folder is made.

    Args:
        path: The file.
        samples: `(samples,)`, int16, or floats in [-1, 1].
        sample_rate: In Hz.

    Raises:
        OSError: It cannot be written, for example as the disk is full.
    """
    import soundfile

    from sru_asr.audio import AudioError, check

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:  # others may prepare the same corpus
        try:
            soundfile.write(part, samples, sample_rate, format="FLAC", subtype="PCM_16")
            check(part)  # soundfile does not say that the disk is full when it writes the last samples
        except (soundfile.LibsndfileError, AudioError) as error:
            raise OSError(f"{path} could not be written ({error}); is the disk full?") from error


@contextmanager
def threads() -> Iterator[ThreadPool]:
    """Threads that read files, all gone when this ends.

    Left alone after Ctrl-C, one that is inside a C++ library while Python ends would abort the process.
    """
    pool = ThreadPool(N_THREADS)
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


def undecodable(paths: Iterable[str], decoded: Path) -> dict[str, str]:
    """Decodes audio files from beginning to end, which alone finds some of what is wrong with them.

    It takes a core about a second for every half hour of FLAC, and is done once: `decoded` remembers each sound file
    with its size and time of change, also of a run that was interrupted.

    Args:
        paths: The files.
        decoded: Where that is remembered, for this and other processes, which wait for one another.

    Returns:
        What is wrong with each of the files that have a fault.
    """
    from filelock import FileLock

    from sru_asr.audio import AudioError, check

    def fault(path: str) -> str | None:
        try:
            check(path)
        except AudioError as error:
            return str(error)
        return None

    with ExitStack() as stack:
        file: TextIO | None = None
        try:
            stack.enter_context(FileLock(f"{decoded}.lock"))
            file = decoded.open("a+", encoding="utf-8", errors="replace", buffering=1)
            stack.callback(_close, file)
        except OSError as error:
            logger.warning(FORGOTTEN, decoded, error.strerror)
        known = _remembered(file) if file else set()
        new = {path: state for path in dict.fromkeys(paths) if (state := _state(path)) not in known}
        if not new:
            return {}
        print(f"audio files to decode once, to find damaged ones: {len(new)}", file=sys.stderr, flush=True)
        faults = {}
        pool = stack.enter_context(threads())
        results = zip(new.items(), pool.imap(fault, new, chunksize=8), strict=True)
        for (path, state), found in _progress(results, "decoding", len(new)):
            if found:
                faults[path] = found
            elif file and state:
                try:
                    file.write(f"{state}\n")
                except OSError as error:
                    logger.warning(FORGOTTEN, decoded, error.strerror)
                    file = None
        return faults


def _close(file: TextIO) -> None:
    """Close it; what is left that could not be written is only a memory."""
    with suppress(OSError):
        file.close()


def _state(path: str) -> str | None:
    """A line that tells a file as it is now from what it was and will be; None if there is no file."""
    with suppress(OSError, ValueError):
        stat = Path(path).stat()
        return json.dumps([str(Path(path).absolute()), stat.st_size, stat.st_mtime_ns])
    return None


def _remembered(file: TextIO) -> set[str]:
    file.seek(0)
    return set(file.read().splitlines())


def _progress(items: Iterable[T], name: str, total: int) -> Iterable[T]:
    """A progress bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, name, total, console=console, disable=not console.is_terminal)


def _cut(utterance: Utterance) -> "Cut":
    from sru_asr.audio import AudioError, header

    audio = str(utterance.audio.absolute())
    try:
        cut = whole_file(utterance.id, audio, header(audio), utterance.text, utterance.speaker, "English")
    except AudioError as error:
        raise ValueError(f"utterance {utterance.id}: {error}") from error
    cut.supervisions[0].custom = dict(utterance.fields) or None
    return cut


def whole_file(
    cut_id: str, path: str, header: "Header", text: str, speaker: str | None, language: str | None = None
) -> "Cut":
    """The cut that is all of a file, with all of its channels.

    Args:
        cut_id: Of cut, recording and supervision.
        path: The file.
        header: Of the file.
        text: What is said in it.
        speaker: Who says it, if that is known.
        language: What it is said in, if that is known.
    """
    from lhotse import AudioSource, MonoCut, MultiCut, Recording, SupervisionSegment

    rate, n_channels, n_samples = header
    seconds, channels = header.seconds, list(range(n_channels))
    recording = Recording(cut_id, [AudioSource("file", channels, path)], rate, n_samples, seconds)
    cut_type, channel = (MonoCut, 0) if n_channels == 1 else (MultiCut, channels)
    supervision = SupervisionSegment(
        cut_id, cut_id, 0.0, seconds, channel=channel, text=text, language=language, speaker=speaker
    )
    return cut_type(cut_id, 0.0, seconds, channel, recording=recording, supervisions=[supervision])
