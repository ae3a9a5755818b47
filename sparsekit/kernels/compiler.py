"""C that is compiled for this very CPU, once, and kept in the cache."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from sparsekit.cache import cached, content_hash
from sparsekit.environment import cpu_name, cpu_units

log = logging.getLogger(__name__)

# The vectors of the CPU, and torch's OpenMP: the loader takes the copy that torch has loaded.
# Nothing here may change how the process rounds, as -ffast-math does when its library is loaded.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")


class KernelError(RuntimeError):
    """Why there is no native code: no compiler, or one that cannot compile it."""


@functools.cache
def library(source: str, flags: tuple[str, ...] = (), headers: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The C file of that name beside this module, as a loaded library.

    `flags` are added to those that every file is compiled with; `headers` are what it includes of
    this folder. The compiler is that of the environment variable CC, else `cc`. Raises KernelError.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    version = _run([*compiler, "--version"])
    code = {name: files(__package__).joinpath(name).read_text() for name in (source, *headers)}
    machine = [platform.machine(), cpu_name(), str(cpu_units())]
    flags = (*FLAGS, *flags)
    key = content_hash([*code.values(), version, *machine, *compiler, *flags])
    folder = cached("kernels", key, lambda into: _compile([*compiler, *flags], code, into))
    try:
        return ctypes.CDLL(str(folder / "kernel.so"))
    except OSError as error:  # such as a cache on a file system that runs no code
        raise KernelError(f"{folder / 'kernel.so'} cannot be loaded: {error}") from error


@functools.cache
def compiles(source: str, flags: tuple[str, ...], what: str) -> bool:
    """Whether there is that library here; says once why `what` has to do without it."""
    try:
        library(source, flags)
    except KernelError as error:
        log.warning("%s takes torch's operations: %s", what, error)
        return False
    return True


def _compile(command: list[str], code: Mapping[str, str], folder: Path) -> None:
    """`code`: text by file name, that of the C file first."""
    for name, text in code.items():
        (folder / name).write_text(text)
    # The library of mathematics last: C files that need it name it nowhere.
    _run([*command, "-o", str(folder / "kernel.so"), str(folder / next(iter(code))), "-lm"])


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise KernelError(f"there is no C compiler {command[0]!r}; install gcc, or set CC") from (
            error
        )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"it ended with code {error.returncode}"]
        raise KernelError(f"{shlex.join(command[:1])} cannot compile here: {lines[0]}") from error
    return done.stdout
