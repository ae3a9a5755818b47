"""The thread pool of the C encoder; see csrc/encoder/thread_pool.h."""

from __future__ import annotations

import ctypes
import os
import weakref
from ctypes import c_long, c_void_p


class Threads:
    """`count` threads, including the caller, for one caller at a time; they end with this object.

    A forked process does not inherit threads, and starts its own.
    """

    def __init__(self, library: ctypes.CDLL, count: int) -> None:
        self._library, self._count = library, count
        self._library.start_pool.restype = c_void_p
        self._start()

    @property
    def pool(self) -> c_void_p:
        """The address of the C structure `pool`."""
        if os.getpid() != self._process:
            self._start()
        return self._pool

    def _start(self) -> None:
        self._process = os.getpid()
        self._pool = c_void_p(self._library.start_pool(c_long(self._count)))
        if not self._pool:
            raise MemoryError("runtime=sparse: out of memory for the threads")
        weakref.finalize(self, _stop, self._library, self._pool, self._process)


def _stop(library: ctypes.CDLL, pool: c_void_p, process: int) -> None:
    if os.getpid() == process:
        library.stop_pool(pool)
