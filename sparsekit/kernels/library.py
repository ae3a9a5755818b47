"""C kernels, loaded as shared libraries."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from sparsekit.kernels.errors import KernelError, warn
from sparsekit.kernels.prebuilt import built, built_file
from sparsekit.kernels.sources import FLAGS, sources
from sparsekit.kernels.store import compiled_file
from sparsekit.kernels.variants import Variant, chosen
from sparsekit.system import cpu_flags


@dataclass(frozen=True, eq=False)
class Kernel:
    """A folder of `csrc/`, compiled into one library, and the Python counterparts of its C.

    structures: the ctypes class of each C structure that has a `NAME_layout`, by its name in C;
        see csrc/layout.h.
    constants: the Python value of each C constant of type long, by its name in C.
    """

    folder: str
    structures: Mapping[str, type[ctypes.Structure]] = field(default_factory=dict)
    constants: Mapping[str, int] = field(default_factory=dict)


def variant() -> Variant:
    """The variant of the kernels that this process loads; see `variants.chosen`."""
    return chosen((cpu_flags() or "").split(), built())


@functools.cache
def library(kernel: Kernel) -> ctypes.CDLL:
    """The loaded library of a kernel: that of the wheel, or one that is compiled and cached.

    Raises KernelError where it cannot be compiled or loaded, or where Python mirrors it wrongly.
    """
    path = _file(kernel.folder)
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:  # for example a cache on a file system mounted noexec
        raise KernelError(f"{path} cannot be loaded: {error}") from error
    check_mirrors(loaded, kernel)
    return loaded


def _file(folder: str) -> Path:
    found = variant()
    if found in built():
        return built_file(found, folder)
    return compiled_file(sources(folder), FLAGS[folder], found.flags)


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
        compiled = constant(loaded, name)
        if compiled != value:
            raise KernelError(
                f"csrc/{kernel.folder}: {name} is {compiled} in C, but {value} in Python; correct "
                "one of them"
            )


def constant(loaded: ctypes.CDLL, name: str) -> int:
    """The value of a C constant of type long."""
    value: int = _symbol(loaded, name, ctypes.c_long).value
    return value


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
