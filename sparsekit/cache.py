"""Results that are computed once and cached: folders named by the hash of their inputs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from sparsekit.errors import UserError, first_line, parse_json

log = logging.getLogger(__name__)

# In every entry: the sum of each of its files.
SUMS = ".sums.json"
# Seconds after which a half-made entry whose lock is free is removed.
ABANDONED = 3600


class CacheError(UserError):
    """The cache cannot be written."""


def cache_folder() -> Path:
    """The folder of cached teachers, logits and quickstart models: `$SPARSEKIT_CACHE`."""
    return Path(os.path.expanduser(os.environ.get("SPARSEKIT_CACHE", "~/.cache/sparsekit")))


def content_hash(parts: Iterable[str | bytes]) -> str:
    """A hash of the parts in order; each is preceded by its length, so that borders count."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def cached(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder `kind/key` in the cache, made by `make(folder)` if it is not there and whole.

    One process makes it while others wait. It appears under its name only when `make` has
    returned, with a sum of each file, so a process that dies leaves nothing that another would
    trust. The sums are checked at every use, and a damaged folder is made again. Its permissions
    are those of the cache, so that a group can share one. Raises CacheError where the cache cannot
    be written.
    """
    folder = cache_folder() / kind / key
    try:
        # It raises where a folder above, such as another user's home, cannot be entered.
        if folder.exists() and damage(folder) is None:
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(folder.parent.stat().st_mode)
        held = FileLock(f"{folder}.lock", mode=mode & 0o666).acquire()
    except OSError as error:
        raise CacheError(
            f"the cache {cache_folder()} cannot be written: {error}; set SPARSEKIT_CACHE to a "
            "folder that can"
        ) from error
    with held:
        problem = damage(folder) if folder.exists() else None
        if folder.exists() and problem is None:
            return folder
        _remove_unfinished(folder.parent, key)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=folder.parent))
        try:
            make(unfinished)
            _write_sums(unfinished)
            _share(unfinished, mode)
            if problem is not None:
                log.warning("%s was not used (%s): it was made again", folder, problem)
                # Moved away first: other processes may still read its files.
                damaged = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=folder.parent))
                os.replace(folder, damaged)
                shutil.rmtree(damaged, ignore_errors=True)
            os.replace(unfinished, folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return folder


def damage(folder: Path) -> str | None:
    """What is wrong with the files of a cache entry, or None; files without a sum do not count."""
    if not (folder / SUMS).exists():
        return "it has no checksums, as those of sparsekit 0.1"
    try:
        sums = parse_json((folder / SUMS).read_bytes())
        changed = [name for name, expected in sums.items() if _sum(folder, name) != expected]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return first_line(error)
    return f"{', '.join(changed[:4])} was changed or cut short" if changed else None


def _sum(folder: Path, name: str) -> str | None:
    path = folder / name
    # A name must not lead out of the folder.
    return file_hash(path) if path.resolve().is_relative_to(folder.resolve()) else None


def _write_sums(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
    (folder / SUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def _share(folder: Path, mode: int) -> None:
    """Give an entry, which is made for this user alone, the permissions `mode` of its folder."""
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o666)
    folder.chmod(mode)


def _remove_unfinished(kind: Path, own: str) -> None:
    """Remove what processes that were killed left half-made; the lock of `own` is held."""
    for path in kind.glob("*.*"):
        key = path.name.partition(".")[0]
        if path.name.endswith(".lock") or not path.is_dir():
            continue
        if key == own:
            shutil.rmtree(path, ignore_errors=True)
        elif time.time() - path.stat().st_mtime > ABANDONED:
            try:
                with FileLock(kind / f"{key}.lock", timeout=0):
                    shutil.rmtree(path, ignore_errors=True)
            except (Timeout, OSError):
                continue  # Another process makes it at this moment, or another user owns it.


def way_out(folder: Path) -> str:
    """The advice for a damaged file in `folder`: a folder of the cache can be removed."""
    cache = cache_folder().resolve()
    if not folder.resolve().is_relative_to(cache):
        return "fetch or save it again"
    kind, key, *_ = folder.resolve().relative_to(cache).parts
    return f"remove {cache / kind / key}, and it is made again"
