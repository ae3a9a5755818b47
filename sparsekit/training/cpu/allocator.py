"""What the C library does with memory that torch frees on a CPU."""

from __future__ import annotations

import ctypes
import platform

# Names of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> bool:
    """Let freed blocks of any size serve the next request; False where there is no glibc.

    Otherwise each large tensor, such as the gradient of a token embedding, is mapped anew at each
    step, and the kernel clears it page by page: 21 ms instead of 6 for 30,522 x 384 numbers. A
    forward pass of MiniLM takes 5 to 20 % longer. The process keeps the most memory that it ever
    used, as it does at its peak anyway.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(
        library.mallopt(_M_MMAP_THRESHOLD, 2**30) and library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    )
