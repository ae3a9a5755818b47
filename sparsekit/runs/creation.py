"""Making the folder of a run, before anything is written to it. Imports no torch."""

from __future__ import annotations

import functools
import itertools
import tempfile
from pathlib import Path

from sparsekit.errors import UserError


@functools.cache
def new_folder(path: str) -> str:
    """Make the folder `path`, or `path-2`, `path-3`, ... where it exists, and return its name.

    Two runs may start in the same second. Within one process every call with the same `path`
    returns the same folder. Raises UserError where none can be made.
    """
    for name in itertools.chain([path], (f"{path}-{number}" for number in itertools.count(2))):
        try:
            Path(name).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"cannot make the run folder: {error}; set hydra.run.dir=FOLDER"
            ) from error
        return name
    raise AssertionError("itertools.count does not end")


def writable_folder(path: str | Path, key: str) -> Path:
    """Make `path` if it does not exist; raises UserError naming `key` where it is not writable.

    Hydra writes to the folder first, and would end in a traceback.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {key}={folder}: {error}; set another folder") from error
    return folder
