"""The code behind a cached result: the files that define the classes which made it.

A class of a user's own module changes between two runs without a new version of anything, so what
is cached of it is named by its code.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from uuid import uuid4

from sparsekit.cache import content_hash, file_hash


@functools.cache
def own_sources() -> str:
    """A hash of sparsekit's own code."""
    return content_hash(part for path in _python_files(files("sparsekit")) for part in path)


def defining_files(classes: Iterable[type]) -> list[Path] | None:
    """The files that define `classes` and their bases.

    Where one of them is a user's, every loaded file of the user counts, since it may import them.
    None where a class has no file, as those of a notebook: nobody knows whether it was changed.
    """
    names = {base.__module__ for each in classes for base in each.__mro__}
    defining = {name: _file(name) for name in names - {"builtins"}}
    if None in defining.values():
        return None
    paths = {path for path in defining.values() if path is not None}
    if not all(map(_installed, paths)):
        loaded = (_file(name) for name in list(sys.modules))
        paths |= {path for path in loaded if path is not None and not _installed(path)}
    return sorted(paths)


def outside_code(classes: Iterable[type]) -> list[str]:
    """What identifies the code of `classes` that is neither sparsekit's nor Python's.

    Empty where there is none. Of a class without a file it is another one at each call, so that
    nothing which was cached of it is ever used.
    """
    paths = defining_files(classes)
    if paths is None:
        return [uuid4().hex]
    return [file_hash(path) for path in paths if not _shipped(path)]


def _file(module: str) -> Path | None:
    """The file of a loaded module, if there is one."""
    # Not by getattr, on which some modules import others.
    name = getattr(sys.modules.get(module), "__dict__", {}).get("__file__")
    return Path(name) if isinstance(name, str) and Path(name).is_file() else None


def _installed(path: Path) -> bool:
    """Whether a file belongs to Python, to an installed package, or to sparsekit."""
    return _shipped(path) or _within(path, "purelib", "platlib")


def _shipped(path: Path) -> bool:
    """Whether a file belongs to sparsekit or to Python's own library."""
    if path.is_relative_to(str(files("sparsekit"))):
        return True
    # Without a virtual environment, packages lie within Python's library.
    packaged = _within(path, "purelib", "platlib")
    return not packaged and _within(path, "stdlib", "platstdlib")


def _within(path: Path, *kinds: str) -> bool:
    return any(path.is_relative_to(_installations()[kind]) for kind in kinds)


@functools.cache
def _installations() -> dict[str, str]:
    return sysconfig.get_paths()


def _python_files(folder: Traversable) -> Iterable[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            yield from _python_files(entry)
        elif entry.name.endswith(".py"):
            yield entry.name, entry.read_bytes()
