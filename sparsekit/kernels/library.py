"""C kernels, compiled and loaded as shared libraries."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import count, takewhile
from typing import Any

from sparsekit.kernels.errors import KernelError, warn
from sparsekit.kernels.store import compiled_file


@dataclass(frozen=True, eq=False)
class Kernel:
    """A folder of `csrc/`, compiled into one library, and the Python counterparts of its C.

    flags: added to the flags that every kernel is compiled with.
    structures: the ctypes class of each C structure that has a `NAME_layout`, by its name in C;
        see csrc/layout.h.
    constants: the Python value of each C constant of type long, by its name in C.
    """

    folder: str
    flags: tuple[str, ...] = ()
    structures: Mapping[str, type[ctypes.Structure]] = field(default_factory=dict)
    constants: Mapping[str, int] = field(default_factory=dict)

    def sources(self) -> dict[str, str]:
        """The text of each C file and header, shared ones included, by its path in `csrc`."""
        csrc = files(__package__).joinpath("csrc")
        shared = {
            f.name: f.read_text(encoding="utf-8") for f in csrc.iterdir() if f.name.endswith(".h")
        }
        own = [f for f in csrc.joinpath(self.folder).iterdir() if f.name.endswith((".c", ".h"))]
        return shared | {f"{self.folder}/{f.name}": f.read_text(encoding="utf-8") for f in own}


@functools.cache
def library(kernel: Kernel) -> ctypes.CDLL:
    """The loaded library of a kernel, compiled if it is not cached.

    Raises KernelError where it cannot be compiled or loaded, or where Python mirrors it wrongly.
    """
    path = compiled_file(kernel.sources(), kernel.flags)
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:  # for example a cache on a file system mounted noexec
        raise KernelError(f"{path} cannot be loaded: {error}") from error
    check_mirrors(loaded, kernel)
    return loaded


@functools.cache
def is_available(kernel: Kernel, what: str) -> bool:
    """Whether the kernel can be loaded; warns once that `what` falls back to torch if not."""
    try:
        library(kernel)
    except KernelError as error:
        warn(error, f"{what} uses torch's operations")
        return False
    return True


def check_mirrors(loaded: ctypes.CDLL, kernel: Kernel) -> None:
    """Compare structures and constants with C; raises KernelError where they differ."""
    for name, structure in kernel.structures.items():
        in_c, in_python = _c_layout(loaded, f"{name}_layout"), _layout(structure)
        if in_c != in_python:
            raise KernelError(
                f"csrc/{kernel.folder}: the structure {name} has the size and offsets {in_c} in C, "
                f"but {in_python} in {structure.__qualname__}; correct one of them"
            )
    for name, value in kernel.constants.items():
        compiled = _symbol(loaded, name, ctypes.c_long).value
        if compiled != value:
            raise KernelError(
                f"csrc/{kernel.folder}: {name} is {compiled} in C, but {value} in Python; correct "
                "one of them"
            )


class _LayoutEntry(ctypes.Structure):
    """Mirrors `layout_entry` in csrc/layout.h."""

    _fields_ = (("name", ctypes.c_char_p), ("offset", ctypes.c_long))


def _layout(structure: type[ctypes.Structure]) -> dict[str, int]:
    offsets = {name: getattr(structure, name).offset for name, *_ in structure._fields_}
    return {"": ctypes.sizeof(structure), **offsets}


def _c_layout(loaded: ctypes.CDLL, name: str) -> dict[str, int]:
    first = ctypes.pointer(_symbol(loaded, name, _LayoutEntry))
    entries = takewhile(lambda e: e.name is not None, map(first.__getitem__, count()))
    return {entry.name.decode(): entry.offset for entry in entries}


def _symbol(loaded: ctypes.CDLL, name: str, kind: type[Any]) -> Any:
    try:
        return kind.in_dll(loaded, name)
    except ValueError as error:
        raise KernelError(f"{loaded._name} has no constant {name}") from error
