"""Imports that take seconds, in a process that has imported little else."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import without garbage collections, and leave what is imported out of all later ones.

    Importing torch and transformers makes a million objects, of which each collection looks at
    many: a quarter of the time. Does nothing where torch is imported already, as in the later jobs
    of a sweep: what is garbage then would stay for ever.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
