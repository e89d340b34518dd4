"""Files that are there whole, or as they were."""

import os
import threading
from pathlib import Path

import pytest
from conftest import full_disk

from sru_asr.commands.options import CommandError, check_output, write_output
from sru_asr.whole import whole


def test_a_file_appears_with_all_of_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_text("before")
    with whole(path) as part:
        part.write_text("after")
        assert part.name.endswith(".jsonl.gz")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_what_fails(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_text("before")

    def fail() -> None:
        with whole(path) as part:
            part.write_text("aft")
            raise error("that is why")

    with pytest.raises(error, match="that is why"):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_of_the_file(tmp_path: Path) -> None:
    """It used to cost the report that was there."""
    path = tmp_path / "report.json"
    path.write_text("before")
    with (
        full_disk(10_000),
        pytest.raises(CommandError, match=r"--json: .*\.json cannot be written: File too large"),
    ):
        write_output("--json", path, "x" * 20_000)
    with full_disk(10_000), pytest.raises(OSError, match=r"File too large: .*/report\.json'$"), whole(path) as part:
        part.write_text("x" * 20_000)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_wrong_with_another_file_is_said_of_that(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere'$"), whole(tmp_path / "copy") as part:
        part.write_bytes((tmp_path / "nowhere").read_bytes())


def test_a_pipe_stays_one(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with whole(pipe) as part:
        part.write_text("for who reads it")
    reader.join()
    assert read == ["for who reads it"]
    assert pipe.is_fifo()


def test_where_nothing_can_be_written_is_seen_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output("--json", tmp_path / "new")
    check_output("--json", Path("/dev/stdout"))
    monkeypatch.setattr(os, "access", lambda path, mode: path not in (tmp_path, Path("/dev")))  # root may do all
    check_output("--json", Path("/dev/stdout"))
    with pytest.raises(CommandError, match="permission denied"):
        check_output("--json", tmp_path / "new")
