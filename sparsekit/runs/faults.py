"""System faults in a run, reported in one sentence: no space, a missing folder, no memory."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsekit.errors import UserError, first_line
from sparsekit.runs.folder import RunFolder

# Libraries wrap the error of the system, some in text alone: torch, safetensors, Arrow.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_SPACE_TEXTS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "file write failed",
    "unexpected pos",
    "iostream error",
)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_MEMORY_TEXTS = ("can't allocate memory", "out of memory", "bad_alloc", "Cannot allocate memory")


@contextmanager
def explained(run: RunFolder) -> Iterator[None]:
    """Raise UserError for a system fault in the block; other errors pass unchanged."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = fault(error, run)
        if message is None:
            raise
        raise UserError(message) from error


def fault(error: BaseException, run: RunFolder) -> str | None:
    """What failed and how to go on, where `error` or one of its causes is a system fault."""
    chain = list(_causes(error))
    files = [str(name) for each in chain if (name := getattr(each, "filename", None))]
    file = next(iter(files), str(run))
    numbers = {each.errno for each in chain if isinstance(each, OSError)}
    text = " ".join(str(each) for each in chain)
    if numbers & set(_NO_SPACE) or any(phrase in text for phrase in _NO_SPACE_TEXTS):
        return (
            f"no space left to write {file}: free some, or set another hydra.run.dir or "
            f"SPARSEKIT_CACHE; checkpoints and results that are whole stay: sparsekit resume {run}"
        )
    gone = any(_is_gone(each, run) for each in _causes(error, raised_from=True))
    if gone or not run.path.is_dir():
        # What removes a folder takes its files first.
        what = file if run.path.is_dir() else f"the run folder {run}"
        return f"{what} was removed while the run was at work; start the run again"
    if numbers & set(_READ_ONLY):
        if files and not Path(file).is_relative_to(run.path):
            return (
                f"{file} cannot be read or written ({first_line(error)}); change its permissions, "
                "or name another file; SPARSEKIT_CACHE and HF_HOME set other folders for caches"
            )
        return f"{file} cannot be written ({first_line(error)}); set another hydra.run.dir"
    if any(isinstance(each, MemoryError) for each in chain) or any(
        phrase in text for phrase in _NO_MEMORY_TEXTS
    ):
        return (
            f"out of memory ({first_line(error)[:200]}); set a smaller "
            "training.per_device_train_batch_size (with training.gradient_accumulation_steps the "
            "result is the same), or a smaller dataset.max_length"
        )
    return None


def _is_gone(error: BaseException, run: RunFolder) -> bool:
    """Whether a file of the run is missing."""
    if not isinstance(error, OSError) or error.errno != errno.ENOENT:
        return False
    return error.filename is not None and Path(error.filename).is_relative_to(run.path)


def _causes(error: BaseException | None, *, raised_from: bool = False) -> Iterator[BaseException]:
    """The error and its causes.

    raised_from: without errors that were merely handled when the next one came up, such as that of
        an optional file that is not there.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if raised_from else error.__context__)
