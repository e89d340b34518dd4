"""Memory of the process."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed for what is allocated next, instead of handing it back to the system.

    A training step allocates the same megabytes again and again. Handed back in between, they come as new pages each
    time, which the system has to find and to zero: 10 to 16 % of a step on a CPU (docs/log.md).

    Returns:
        Whether this is a C library that can be told so (glibc).
    """
    if sys.platform == "win32":  # where the program itself is no library
        return False
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # M_TRIM_THRESHOLD and so on of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # glibc takes no mmap threshold above 32 MiB. Threads' own arenas would unmap what is empty, whatever is said here.
    options = ((trim_threshold, 2**31 - 1), (mmap_threshold, 2**25), (arena_max, 1))
    return mallopt is not None and all(mallopt(*option) for option in options)
