"""Results that are computed once and cached: folders named by the hash of their inputs."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock

from sparsekit.errors import UserError

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder of cached teachers, logits and quickstart models: `$SPARSEKIT_CACHE`."""
    return Path(os.environ.get("SPARSEKIT_CACHE", "~/.cache/sparsekit")).expanduser()


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


def cached(
    kind: str,
    key: str,
    make: Callable[[Path], None],
    is_whole: Callable[[Path], bool] = lambda folder: True,
) -> Path:
    """The folder `kind/key` in the cache, made by `make(folder)` if it is not there and whole.

    One process makes it while others wait. It appears under its name only when `make` has
    returned, so a process that dies leaves nothing that another would trust. Raises UserError
    where the cache cannot be written.
    """
    folder = cache_folder() / kind / key
    if folder.exists() and is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(f"{folder}.lock").acquire()
    except OSError as error:
        raise UserError(
            f"the cache {cache_folder()} cannot be written: {error}; set SPARSEKIT_CACHE to a "
            "folder that can"
        ) from error
    with held:
        if folder.exists() and is_whole(folder):
            return folder
        unfinished = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=folder.parent))
        try:
            make(unfinished)
            if folder.exists():
                log.warning("%s was damaged: it was made again", folder)
                shutil.rmtree(folder)
            os.replace(unfinished, folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return folder


def way_out(folder: Path) -> str:
    """The advice for a damaged file in `folder`: a folder of the cache can be removed."""
    cache = cache_folder().resolve()
    if not folder.resolve().is_relative_to(cache):
        return "fetch or save it again"
    kind, key, *_ = folder.resolve().relative_to(cache).parts
    return f"remove {cache / kind / key}, and it is made again"
