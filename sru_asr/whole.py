"""Files that are there whole, or as they were."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a file's name has before it until it is whole; its ending stays, as some tell the format by it.
BEGINNING = ".part-"


def is_in_place(path: Path) -> bool:
    """Whether it is written to as it is: pipes and devices, which have no content to lose, and whatever /dev names."""
    return path.parent == Path("/dev") or (path.exists() and not path.is_file())


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file beside its place; it gets there when all is written, and nothing is left of it if something fails.

    What `is_in_place` is written to itself.

    Args:
        path: where the file is to be; its folder exists.

    Yields:
        Where to write it.

    Raises:
        OSError: it cannot be written, for example as the disk is full; names `path`.
    """
    path = Path(path)
    if is_in_place(path):
        yield path
        return
    part = path.with_name(f"{BEGINNING}{os.getpid()}-{path.name}")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(part)):  # it has a text, or a file, of its own
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)
