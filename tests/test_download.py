"""The downloader against a server of our own on 127.0.0.1, extraction against sound, damaged and hostile archives."""

import gzip
import hashlib
import io
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import full_disk

from sru_asr import download as module
from sru_asr.download import DownloadError, download, extract, fetch

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `CONTENT` under every path, with the faults its server is told to have."""

    server: "Server"

    def do_GET(self) -> None:
        """Answers with the range asked for, all, or part of what was announced."""
        header = self.headers.get("Range")
        self.server.ranges.append(header)
        if self.server.statuses:
            self.send_error(self.server.statuses.pop(0))
            return
        start = int(header.removeprefix("bytes=").removesuffix("-")) if header and self.server.resumes else 0
        if start and self.server.shifts:
            start += self.server.shifts.pop(0)
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        sent = self.server.cuts.pop(0) if self.server.cuts else len(CONTENT)
        time.sleep(self.server.delay_seconds)
        self.wfile.write(CONTENT[start : start + sent])  # the connection closes when this returns

    def log_message(self, format: str, *args: object) -> None:
        """Keeps quiet."""


class Server(ThreadingHTTPServer):
    """A server with faults: `statuses` to answer first, `cuts` (bytes after which it hangs up), `shifts` of ranges."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/corpus.tar.gz"
        self.ranges: list[str | None] = []
        self.statuses: list[int] = []
        self.cuts: list[int] = []
        self.shifts: list[int] = []
        self.resumes = True
        self.delay_seconds = 0.0

    def handle_error(self, request: object, client_address: object) -> None:
        """Keeps quiet when a client hangs up."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server without faults; time-outs and pauses are short."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 5.0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def kept(folder: Path) -> list[Path]:
    """What lies there, but for locks."""
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_fetches_verifies_and_asks_only_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "corpus.tar.gz"
    for _ in range(2):
        assert download(server.url, path, sha256=SHA256, md5=MD5.upper(), size=len(CONTENT)) == path
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None]
    assert kept(path.parent) == [path]


def test_two_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    """They used to append to each other's part, and then to blame the server."""
    server.delay_seconds = 0.3
    with ThreadPoolExecutor(2) as both:
        for path in both.map(lambda _: download(server.url, tmp_path / "file", sha256=SHA256), range(2)):
            assert path.read_bytes() == CONTENT
    assert server.ranges == [None]


def test_a_full_disk_is_not_blamed_on_the_server(server: Server, tmp_path: Path) -> None:
    """It was asked again and again, and then the next address."""
    with full_disk(100_000), pytest.raises(OSError, match=r"File too large: '.*corpus.tar.gz.part'$"):
        fetch([(server.url, None), (server.url + ".copy", None)], tmp_path / "corpus")
    assert server.ranges == [None]


def test_goes_on_after_cut_connections(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 1] + [100_000] * 5  # more cuts than attempts, but each brings something
    path = download(server.url, tmp_path / "file", sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert server.ranges[:4] == [None, "bytes=300000-", "bytes=300001-", "bytes=400001-"]


def test_goes_on_where_an_earlier_run_stopped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert download(server.url, tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_takes_a_part_that_is_already_whole(server: Server, tmp_path: Path, size: int | None) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert download(server.url, tmp_path / "file", sha256=SHA256, size=size).read_bytes() == CONTENT
    assert len(server.ranges) == (size is None)


def test_starts_again_from_a_part_that_is_too_long(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT + b"x")
    assert download(server.url, tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 1}-", None]


def test_a_server_that_ignores_range_corrupts_nothing(server: Server, tmp_path: Path) -> None:
    server.resumes = False
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    server.cuts = [500_000]
    assert download(server.url, tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", "bytes=500000-"]


def test_a_server_that_sends_another_range_corrupts_nothing(server: Server, tmp_path: Path) -> None:
    server.shifts = [5]
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert download(server.url, tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_gives_up_when_a_server_that_ignores_range_gets_no_further(server: Server, tmp_path: Path) -> None:
    server.resumes = False
    server.cuts = [500_000] * 100
    with pytest.raises(DownloadError, match=r"ended after 500000 of 1048576 bytes\. 500000 bytes are kept in"):
        download(server.url, tmp_path / "file")
    assert len(server.ranges) == 1 + module.MAX_ATTEMPTS
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("name", ["sha256", "md5"])
@pytest.mark.parametrize("present", [False, True])
def test_removes_a_file_with_a_wrong_checksum(server: Server, tmp_path: Path, name: str, present: bool) -> None:
    path = tmp_path / "file"
    if present:
        path.write_bytes(CONTENT)
    with pytest.raises(DownloadError, match=rf"{name} .*, expected 00: .*{server.url}.* removed"):
        download(server.url, path, **{name: "00"})  # type: ignore[arg-type]
    assert kept(tmp_path) == []


def test_refuses_a_file_of_another_size_before_fetching_it(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="has 1048576 bytes, expected 7"):
        download(server.url, tmp_path / "file", size=7)
    assert kept(tmp_path) == []


def test_asks_again_when_the_server_is_busy(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert download(server.url, tmp_path / "file").read_bytes() == CONTENT


def test_does_not_ask_again_for_what_is_not_there(server: Server, tmp_path: Path) -> None:
    server.statuses = [404] * 10
    with pytest.raises(DownloadError, match=f"{server.url}: the server answers 404 Not Found.*--corpus-dir"):
        download(server.url, tmp_path / "file")
    assert len(server.ranges) == 1


def test_says_what_to_do_without_network(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/corpus.tar.gz"
    with pytest.raises(DownloadError, match=rf"{url}: .*refused.*fetch the archive elsewhere.*--corpus-dir"):
        download(url, tmp_path / "file")


def test_gives_up_on_a_server_that_says_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/corpus.tar.gz"
        with pytest.raises(DownloadError, match="timed out"):
            download(url, tmp_path / "file")


def tar(path: Path, **members: bytes) -> Path:
    """Writes a tar.gz of files by name."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def archive_of(kind: str, path: Path, **members: bytes) -> Path:
    """Writes a tar.gz or a zip."""
    path.parent.mkdir(exist_ok=True)
    path = path.with_name(f"{path.name}.{kind}")
    if kind == "tar.gz":
        return tar(path, **members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_extracts_once(tmp_path: Path, kind: str) -> None:
    archive = archive_of(kind, tmp_path / "corpus", **{"an4/etc/list": b"one\n", "an4/README": b"two\n"})
    directory = tmp_path / "deep" / "corpus"
    (tmp_path / "deep" / "corpus.part" / "an4").mkdir(parents=True)  # what an interrupted extraction leaves
    (tmp_path / "deep" / "corpus.part" / "an4" / "stale").write_text("half")
    extract(archive, directory)
    files = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert files == {"an4/etc/list": b"one\n", "an4/README": b"two\n"}
    assert kept(directory.parent) == [directory]
    archive.unlink()
    extract(archive, directory)


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_nothing_is_left_of_what_could_not_be_extracted(tmp_path: Path, kind: str) -> None:
    archive = archive_of(kind, tmp_path / "corpus", first=b"x", large=bytes(200_000))
    with full_disk(100_000), pytest.raises(OSError, match="File too large"):
        extract(archive, tmp_path / "folder")
    assert kept(tmp_path) == [archive]


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_refuses_a_member_outside_the_folder(tmp_path: Path, kind: str) -> None:
    archive = archive_of(kind, tmp_path / "corpus", **{"good": b"", "../../evil": b"evil"})
    with pytest.raises(DownloadError, match=r"evil.* outside"):
        extract(archive, tmp_path / "a" / "b" / "c")
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path / "a" / "b" / "c").exists()


def test_needs_no_filter_of_tarfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian 12 has Python 3.11.2, whose `extractall` does not know the argument `filter`."""

    def as_it_was(self: tarfile.TarFile, path: Path, members: None = None, *, numeric_owner: bool = False) -> None:
        raise AssertionError("would extract whatever the archive holds")

    monkeypatch.setattr(tarfile.TarFile, "extractall", as_it_was)
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    test_extracts_once(tmp_path / "good", "tar.gz")
    test_refuses_a_member_outside_the_folder(tmp_path / "evil", "tar.gz")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_refuses_what_is_neither_file_nor_folder(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "corpus.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("odd")
        member.type, member.linkname = kind, "list"
        archive.addfile(member)
    with pytest.raises(DownloadError, match="expected files and folders, found that 'odd' is a link or a device"):
        extract(tmp_path / "corpus.tar.gz", tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_refuses_damaged_archives(tmp_path: Path) -> None:
    sound = tar(tmp_path / "sound.tar.gz", name=bytes(range(256)) * 100).read_bytes()
    unpacked = gzip.decompress(sound)
    with zipfile.ZipFile(tmp_path / "sound.zip", "w") as archive:
        archive.writestr("a", "x")
    locked = bytearray((tmp_path / "sound.zip").read_bytes())
    locked[6] |= 1  # encrypted, says the header of the member, and then that of the archive
    locked[locked.find(b"PK\x01\x02") + 8] |= 1
    damaged = {
        "cut": sound[: len(sound) // 2],
        "without-trailer": sound[:-8],
        "wrong-crc": sound[:-8] + bytes(8),
        "cut-before-compression": gzip.compress(unpacked[:1000]),
        "page": b"<!DOCTYPE html><title>Log in to this network</title>",
        "empty": b"",
        "page.zip": b"<!DOCTYPE html>",
        "locked.zip": bytes(locked),
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DownloadError, match=f"{name} is no sound archive: .+ Delete it"):
            extract(tmp_path / name, tmp_path / "directory")
        assert not (tmp_path / "directory").exists(), name
