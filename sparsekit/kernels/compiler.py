"""C that is compiled for this very CPU, once, and kept in the cache."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from sparsekit.cache import cached, content_hash
from sparsekit.system import cpu_name, cpu_units

log = logging.getLogger(__name__)

# The vectors of the CPU, and torch's OpenMP: the loader takes the copy that torch has loaded.
# Nothing here may change how the process rounds, as -ffast-math does when its library is loaded.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")


class KernelError(RuntimeError):
    """Why there is no native code: no compiler, or one that cannot compile it."""


class NoCompilerError(KernelError):
    """There is no compiler, or one that compiles nothing: none of the kernels can be had."""


@functools.cache
def library(source: str, flags: tuple[str, ...] = (), headers: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The C file of that name beside this module, as a loaded library.

    `flags` are added to those that every file is compiled with; `headers` are what it includes of
    this folder. The compiler is that of the environment variable CC, else `cc`. Raises KernelError.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    version = _version(compiler)
    code = {name: files(__package__).joinpath(name).read_text() for name in (source, *headers)}
    machine = [platform.machine(), cpu_name(), str(cpu_units())]
    flags = (*FLAGS, *flags)
    key = content_hash([*code.values(), version, *machine, *compiler, *flags])
    folder = cached("kernels", key, lambda into: _compile(compiler, flags, code, into))
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
        warn(error, f"{what} takes torch's operations")
        return False
    return True


def warn(error: KernelError, loss: str) -> None:
    """Say what is lost for want of a kernel; of a missing compiler once, whatever is lost."""
    if isinstance(error, NoCompilerError):
        warn_of_no_compiler(str(error))
    else:
        log.warning("%s: %s", loss, error)


@functools.cache
def warn_of_no_compiler(reason: str) -> None:
    """Name all at once that training does without, however many kernels are asked for."""
    log.warning(
        "%s; until then training on the CPU is slower: dropout, attention, the optimizer and "
        "quantization take torch's operations, and zeros are multiplied too",
        reason,
    )


def _version(compiler: list[str]) -> str:
    try:
        return _output([*compiler, "--version"])
    except FileNotFoundError:
        why = ""
    except OSError as error:
        why = f" ({error.strerror})"
    except subprocess.CalledProcessError as error:
        why = f" (asked for its version it ended with code {error.returncode})"
    raise NoCompilerError(f"there is no C compiler {compiler[0]!r}{why}; install gcc, or set CC")


def _compile(
    compiler: list[str], flags: tuple[str, ...], code: Mapping[str, str], folder: Path
) -> None:
    """`code`: text by file name, that of the C file first."""
    for name, text in code.items():
        (folder / name).write_text(text)
    try:
        _build(compiler, flags, folder / next(iter(code)), folder / "kernel.so")
    except subprocess.CalledProcessError as error:
        if useless := _useless(tuple(compiler), FLAGS):
            raise NoCompilerError(useless) from error
        raise KernelError(
            f"{shlex.join(compiler[:1])} cannot compile here: {_complaint(error)}"
        ) from error


@functools.cache
def _useless(compiler: tuple[str, ...], flags: tuple[str, ...]) -> str | None:
    """Why that compiler compiles nothing at all; None where it does, and one file was at fault."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        # What every kernel includes: without the system's headers none of them can be had.
        source.write_text("#include <stdint.h>\nint32_t probe(void) { return 0; }\n")
        try:
            _build(compiler, flags, source, source.with_suffix(".so"))
        except subprocess.CalledProcessError as error:
            return (
                f"the C compiler {shlex.join(compiler)!r} compiles nothing here: "
                f"{_complaint(error)}; correct CC, or install gcc"
            )
    return None


def _build(compiler: Sequence[str], flags: Sequence[str], source: Path, target: Path) -> None:
    # The library of mathematics last: C files that need it name it nowhere.
    _output([*compiler, *flags, "-o", str(target), str(source), "-lm"])


def _complaint(error: subprocess.CalledProcessError) -> str:
    """The first line that a compiler says."""
    lines = error.stderr.strip().splitlines() or [f"it ended with code {error.returncode}"]
    return str(lines[0])


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
