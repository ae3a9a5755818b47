"""The cache of compiled kernels, one entry for each source, set of flags and CPU.

Loading a shared library runs its code, so a file is loaded only if its checksum matches and no
other user could have written it.
"""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsekit.cache import SUMS, cache_folder, cached, content_hash
from sparsekit.kernels import compiler
from sparsekit.kernels.errors import KernelError
from sparsekit.kernels.variants import NATIVE
from sparsekit.system import cpu_flags, cpu_name

KIND = "kernels"
LIBRARY = "kernel.so"
VERSION = "compiler.txt"


def compiled_file(
    sources: Mapping[str, str],
    flags: Sequence[str],
    instructions: Sequence[str] = NATIVE.flags,
) -> Path:
    """The path of the shared library of C sources, compiled if it is not cached.

    sources: the text of each file by its path; flags and instructions: see `compile_kernel`.

    A damaged library is compiled again. Raises KernelError where it cannot be compiled, or where
    other users own it or can write to it.
    """
    command = compiler.command()
    # Everything that decides what the code does and whether it runs on this machine. The compiler's
    # version is left out: any version's output is correct, and a cached kernel must be found where
    # there is no compiler.
    machine = [platform.machine(), cpu_name(), cpu_flags() or "", *platform.libc_ver()]
    named = [part for item in sorted(sources.items()) for part in item]
    key = content_hash([*named, *command, *compiler.FLAGS, *instructions, *flags, *machine])

    def make(folder: Path) -> None:
        version = compiler.version(command)
        compiler.compile_kernel(command, instructions, flags, sources, folder / LIBRARY)
        (folder / VERSION).write_text(version, encoding="utf-8")

    folder = cache_folder() / KIND / key
    try:
        _make_private(folder.parent)
        _refuse_exposed(folder)
    except PermissionError as error:
        raise KernelError(
            f"the cache {cache_folder()} cannot be read: {error}; set SPARSEKIT_CACHE to a folder "
            "that can"
        ) from error
    cached(KIND, key, make)
    _refuse_exposed(folder)
    return folder / LIBRARY


def _make_private(folder: Path) -> None:
    """Create the folder of all kernels, writable by this user only, whatever the umask."""
    if not folder.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            return  # `cached` raises the error that explains the fix.


def _refuse_exposed(folder: Path) -> None:
    if problem := _exposure(folder):
        raise KernelError(
            f"the compiled kernel in {folder} is not loaded: {problem}; remove {folder.parent}, or "
            "set SPARSEKIT_CACHE to a folder that only you can write"
        )


def _exposure(folder: Path) -> str | None:
    """How another user could change a cached kernel; None where no other user could."""
    private = [folder.parent, folder, folder / LIBRARY, folder / SUMS]
    for path in filter(Path.exists, private):
        status = path.stat()
        if status.st_uid != os.geteuid():
            return f"{path} belongs to another user"
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"{path} can be written by other users"
    cache = folder.parent.parent
    if cache.exists() and cache.stat().st_uid not in (0, os.geteuid()):
        return f"{cache} belongs to another user"
    for path in filter(Path.exists, [cache, *cache.resolve().parents]):
        # In a sticky folder such as /tmp users cannot replace the files of others.
        if path.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
            return f"{path} can be written by other users"
    return None
