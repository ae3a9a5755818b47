"""What tells whether data files have changed, without reading their rows."""

from __future__ import annotations

from collections.abc import Mapping

from sparsekit.cache import content_hash, file_hash
from sparsekit.system import expanded


def files_hash(data_files: Mapping[str, str | None]) -> str:
    """A hash of the bytes of every file, by split; `data_files` names a file or folder for each.

    A path that does not exist counts as empty: reading the rows raises the error that names it.
    """
    parts = []
    for split, name in sorted(data_files.items()):
        if name is None:
            continue
        path = expanded(name)
        inner = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in (file for file in inner if file.is_file()):
            parts += [split, str(file.relative_to(path)), file_hash(file)]
    return content_hash(parts)
