"""A corpus as rows of utterances, written down as a Lhotse manifest for training and evaluation to read."""

import logging
from collections.abc import Iterable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from lhotse.cut import Cut

# Reading a header is waiting for a disk or a network share, so more threads than cores pay.
N_THREADS = 16

logger = logging.getLogger(__name__)


class Utterance(NamedTuple):
    """One row of a corpus: an audio file of its own and what is said in it.

    Attributes:
        id: Unique within the corpus.
        audio: A file that soundfile and lhotse can read.
        text: The transcript, as the corpus gives it.
        speaker: Who says it.
    """

    id: str
    audio: Path
    text: str
    speaker: str


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

    Lengths and sampling rates come from the headers of the files, nothing is decoded. Audio paths are written absolute,
    so that the manifest can be read from any working directory.

    Args:
        utterances: The rows of the corpus.
        path: The manifest, `*.jsonl.gz`; appears only when complete. Its folder is made.

    Returns:
        The number of cuts written.

    Raises:
        ValueError: There are no utterances, an id occurs twice, or an audio file is missing, unreadable or empty.
    """
    from lhotse import CutSet
    from rich.console import Console
    from rich.progress import track

    utterances = list(utterances)
    if not utterances:
        raise ValueError(f"{path}: there are no utterances to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")  # lhotse tells the format by the ending
    seen = set()
    with ThreadPool(N_THREADS) as pool, CutSet.open_writer(part) as writer:
        cuts = pool.imap(_cut, utterances, chunksize=16)
        console = Console(stderr=True)
        for cut in track(cuts, path.name, len(utterances), console=console, disable=not console.is_terminal):
            if cut.id in seen:
                raise ValueError(f"{path}: expected every utterance to have its own id, found {cut.id!r} twice")
            seen.add(cut.id)
            writer.write(cut)
    part.replace(path)
    logger.info("%s: %d utterances", path, len(utterances))
    return len(utterances)


def _cut(utterance: Utterance) -> "Cut":
    import soundfile

    audio = utterance.audio.absolute()
    if not audio.is_file():
        raise ValueError(f"utterance {utterance.id}: there is no audio file {audio}")
    try:
        header = soundfile.info(str(audio))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"utterance {utterance.id}: cannot read {audio}: {error}") from error
    if header.frames == 0:
        raise ValueError(f"utterance {utterance.id}: {audio} has no samples")
    return whole_file(utterance.id, str(audio), header, utterance.text, utterance.speaker)


def whole_file(cut_id: str, path: str, header: Any, text: str, speaker: str | None) -> "Cut":
    """The cut that is all of a file, with all of its channels.

    Args:
        cut_id: Of cut, recording and supervision.
        path: The file.
        header: What `soundfile.info` says of it.
        text: What is said in it.
        speaker: Who says it, if that is known.
    """
    from lhotse import AudioSource, MonoCut, MultiCut, Recording, SupervisionSegment

    duration = header.frames / header.samplerate
    channels = list(range(header.channels))
    recording = Recording(cut_id, [AudioSource("file", channels, path)], header.samplerate, header.frames, duration)
    one = header.channels == 1
    supervision = SupervisionSegment(
        cut_id, cut_id, 0.0, duration, channel=0 if one else channels, text=text, language="English", speaker=speaker
    )
    cut_type, channel = (MonoCut, 0) if one else (MultiCut, channels)
    return cut_type(cut_id, 0.0, duration, channel, recording=recording, supervisions=[supervision])
