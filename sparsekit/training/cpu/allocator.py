"""Reuse of the CPU memory that torch frees, by glibc's malloc."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import threading
from collections.abc import Iterator

# Constants of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# The largest thresholds that glibc sets by itself, once a block of 32 MiB has been freed. It has
# no function that returns the current ones.
_MMAP_THRESHOLD = 32 * 2**20
_TRIM_THRESHOLD = 2 * _MMAP_THRESHOLD

# The number of open contexts, of several threads: the last one to end restores the thresholds.
_open = 0
_lock = threading.Lock()


@contextlib.contextmanager
def reuse_freed_memory() -> Iterator[None]:
    """Reuse freed blocks of any size for later allocations; has no effect without glibc.

    By default, malloc maps new memory for each large tensor, such as the gradient of a token
    embedding at each step, and the operating system clears it page by page: 21 ms instead of 6 for
    30,522 x 384 values. A forward pass of MiniLM takes 5 to 20 % longer. Within the context the
    process keeps its peak memory; afterwards it returns the free part to the system. Thresholds
    that the user has set in the environment are kept.
    """
    global _open
    if platform.libc_ver()[0] != "glibc" or _set_by_user():
        yield
        return
    library = ctypes.CDLL(None)
    with _lock:
        _open += 1
        _set_thresholds(library, mmap=2**30, trim=2**31 - 1)
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if not _open:
                _set_thresholds(library, mmap=_MMAP_THRESHOLD, trim=_TRIM_THRESHOLD)
                library.malloc_trim(0)


def _set_by_user() -> bool:
    names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return any(name in os.environ for name in names) or "glibc.malloc" in tunables


def _set_thresholds(library: ctypes.CDLL, mmap: int, trim: int) -> None:
    library.mallopt(_M_MMAP_THRESHOLD, mmap)
    library.mallopt(_M_TRIM_THRESHOLD, trim)
