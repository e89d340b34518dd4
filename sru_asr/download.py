"""Fetching corpora: a download that resumes and is verified, and an extraction that happens whole or not at all."""

import errno
import gzip
import hashlib
import http.client
import logging
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import rich.progress
from filelock import FileLock, Timeout
from rich.console import Console

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 30.0
# Attempts in a row that bring nothing; an attempt that brings something starts the count again.
MAX_ATTEMPTS = 4
PAUSE_SECONDS = 1.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

logger = logging.getLogger(__name__)

BY_HAND = "Without network here, fetch the archive elsewhere, extract it, and give its folder with --corpus-dir."


class DownloadError(ValueError):
    """An archive could not be fetched, is not what it should be, or cannot be extracted.

    A ValueError, so that it is reported like any other fault of the data that a user asked for.
    """


def download(
    url: str, path: Path, *, sha256: str | None = None, md5: str | None = None, size: int | None = None
) -> Path:
    """Fetches a file, resuming what an earlier call left in `path.part`, and verifies it.

    A file that is already at `path` is verified and not fetched again. Of several processes one fetches, and the others
    wait for it.

    Args:
        url: What to fetch.
        path: Where to put it; appears only when complete and verified. Its folder is made.
        sha256: Expected SHA-256, in hex.
        md5: Expected MD5, in hex, for archives whose publisher gives nothing better.
        size: Expected size in bytes.

    Returns:
        `path`.

    Raises:
        DownloadError: The file cannot be fetched (what came is kept, the next call goes on from there), or it is not
            the expected one (it is removed).
        OSError: It cannot be written.
    """
    # lhotse.utils.resumable_download would append the whole file to the part where a server ignores Range, takes a
    # connection that was cut for the end of the file, and knows no checksum, time-out or second attempt.
    if not path.is_file():  # whoever only reads may not be allowed to write a lock
        with _alone(path):
            if not path.is_file():
                part = path.with_name(path.name + ".part")
                logger.info("Fetching %s", url)
                _fetch(url, part, size)
                _verify(part, url, sha256, md5, size)
                return part.replace(path)
    _verify(path, url, sha256, md5, size)
    return path


def fetch(copies: Sequence[tuple[str, str | None]], directory: Path) -> Path:
    """Fetches an archive from the first address that has it, and extracts it; does nothing where `directory` exists.

    Args:
        copies: Address and SHA-256 of each copy of the archive; None where that is not known. Then its gzip CRC is all
            that is verified.
        directory: The folder to make. The archives lie beside it.

    Returns:
        `directory`.

    Raises:
        DownloadError: No address has a sound archive; warnings say what is wrong with each.
    """
    if directory.is_dir():
        return directory
    for url, sha256 in copies:
        # A folder for each address, so that none is resumed with the bytes of another.
        folder = f"{directory.name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
        archive = directory.parent / folder / Path(urlsplit(url).path).name
        try:
            extract(download(url, archive, sha256=sha256), directory)
        except DownloadError as error:
            logger.warning("%s", error)
            archive.unlink(missing_ok=True)  # whole but damaged, it would be taken for sound again
        else:
            return directory
    urls = ", ".join(url for url, _ in copies)
    raise DownloadError(f"{directory.name} could be fetched from none of {urls}; the warnings above say why. {BY_HAND}")


def extract(archive: Path, directory: Path) -> None:
    """Extracts an archive into a folder of its own; does nothing where that folder exists.

    The folder gets its name when the extraction is complete: an interrupted one is done again from the start. A member
    that would land outside the folder is refused. A gzip archive is read to its end, so its CRC is always checked.

    Args:
        archive: A `.zip` file, or a tar file compressed with gzip.
        directory: The folder to make.

    Raises:
        DownloadError: The archive is damaged, is no archive, or is unsafe.
    """
    if not directory.is_dir():
        with _alone(directory):
            if not directory.is_dir():
                _extract(archive, directory)


def _extract(archive: Path, directory: Path) -> None:
    logger.info("Extracting %s", archive)
    part = directory.with_name(directory.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with _open(archive, "Extracting") as file:
            if archive.suffix == ".zip":
                with zipfile.ZipFile(file) as members:
                    for name in members.namelist():
                        # ZipFile would take the dots out and extract the member elsewhere without a word.
                        _inside(part, name)
                    members.extractall(part)
            else:
                with gzip.open(file) as stream:
                    with tarfile.open(fileobj=stream, mode="r|") as tar:
                        _extract_members(tar, part)
                    while stream.read(CHUNK_BYTES):  # a tar ends before its gzip does, and the CRC is in the latter
                        pass
        part.rename(directory)
    except (
        *(_Unsafe, tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError),
        RuntimeError,  # a zip that is encrypted, or packed in a way that Python does not know
    ) as error:
        raise DownloadError(
            f"{archive} is no sound archive: {error}. Delete it and run again to fetch it anew. {BY_HAND}"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """While no other process makes this file or folder; its own folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Waiting for another process, which makes %s", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Unsafe(Exception):
    """A member of an archive that is not to be extracted."""


def _extract_members(tar: tarfile.TarFile, directory: Path) -> None:
    # tarfile's own filter against hostile members came with Python 3.10.12 and 3.11.4, later than Debian 12's Python.
    for member in tar:
        path = _inside(directory, member.name)
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
        elif (source := tar.extractfile(member) if member.isreg() else None) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target:
                shutil.copyfileobj(source, target)
        else:
            raise _Unsafe(f"expected files and folders, found that {member.name!r} is a link or a device")


def _inside(directory: Path, name: str) -> Path:
    """Where the member `name` belongs, if that is inside the folder."""
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        raise _Unsafe(f"{name!r} would be extracted outside the folder")
    return path


def _open(path: Path, action: str) -> AbstractContextManager[BinaryIO]:
    """Opens a file for reading with a progress bar for the part of it that has been read."""
    console = Console(stderr=True)
    description = f"{action} {path.name}"
    return rich.progress.open(path, "rb", description=description, console=console, disable=not console.is_terminal)


def _fetch(url: str, part: Path, size: int | None) -> None:
    """Fetches `url` into `part`, in as many attempts as it takes as long as they get further."""
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    failures, furthest = 0, _size(part)
    console = Console(stderr=True)
    with rich.progress.Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"Fetching {part.stem}", total=size)
        while True:
            try:
                return _receive(url, part, size, progress, task)
            except (OSError, http.client.HTTPException) as error:  # URLError and HTTPError are OSErrors
                if isinstance(error, OSError) and _is_local(error):
                    raise OSError(error.errno, error.strerror, str(part)) from error
                reason = getattr(error, "reason", None) or error
                status = error.code if isinstance(error, urllib.error.HTTPError) else None
                if status is not None:
                    reason = f"the server answers {status} {reason}"
            # Getting further is measured against the best so far: a server that ignores Range always starts at 0.
            failures = 0 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            refused = status is not None and status < 500 and status not in (408, 416, 429)
            if refused or failures == MAX_ATTEMPTS:
                kept = f" {_size(part)} bytes are kept in {part}; run again to go on." if _size(part) else ""
                raise DownloadError(f"Could not fetch {url}: {reason}.{kept} {BY_HAND}")
            time.sleep(PAUSE_SECONDS * 2**failures)


def _is_local(error: OSError) -> bool:
    """Whether a fault is of the disk, where no other attempt or address helps."""
    return not isinstance(error, urllib.error.URLError) and (error.filename is not None or error.errno in NO_ROOM)


def _receive(
    url: str, part: Path, size: int | None, progress: rich.progress.Progress, task: rich.progress.TaskID
) -> None:
    """Makes one attempt; returns when `part` is complete, as far as server and `size` tell."""
    have = _size(part)
    if have == size:  # interrupted between the last byte and the verification
        return
    headers = {"User-Agent": "sru-asr"}  # some servers refuse Python's own
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing behind what we have: it is all of the file, or not this file
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink(missing_ok=True)
        raise
    with response:
        resumes = response.status == 206
        if resumes and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise ConnectionError("the server sent another range than the one asked for")
        have = have if resumes else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        if size is not None and total not in (None, size):
            raise DownloadError(f"{url} has {total} bytes, expected {size}: it is another file. {BY_HAND}")
        progress.update(task, total=total, completed=have)
        with part.open("ab" if resumes else "wb") as file:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                progress.advance(task, len(chunk))
    if total is not None and _size(part) < total:
        raise ConnectionError(f"the connection ended after {_size(part)} of {total} bytes")


def _verify(path: Path, url: str, sha256: str | None, md5: str | None, size: int | None) -> None:
    """Compares a file with what is known of it, and removes it where they differ."""
    facts: list[tuple[str, object, object]] = [("size", size, path.stat().st_size)]
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None:
            facts.append((name, expected.lower(), _digest(path, name)))
    for name, wanted, found in facts:
        if wanted not in (None, found):
            path.unlink()
            raise DownloadError(
                f"{path} has {name} {found}, expected {wanted}: what {url} sent is damaged or another file. "
                f"It was removed; run again to fetch it anew. {BY_HAND}"
            )


def _digest(path: Path, name: str) -> str:
    digest = hashlib.new(name, usedforsecurity=False)
    with _open(path, "Checking") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
