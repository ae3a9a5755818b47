"""A run in a folder that is not empty: what it may replace, and what it must leave alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from sparsekit.errors import UserError, first_line
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.paths import ENTRIES, MARKER, Fate

TEXT = "A sparsekit run made this folder; a later run in it may replace its results.\n"


def check_replaceable(run: RunFolder, key: str = "hydra.run.dir") -> None:
    """Raise UserError where a run would overwrite files that no run wrote.

    A run marks its folder before it writes results. Runs of versions that did not are recognized
    by the status and the config hash in their summary. `key` is what the user sets the folder with.
    """
    if (run.path / MARKER).is_file() or run.ending.hash is not None:
        return
    if foreign := [each.name for each in ENTRIES if os.path.lexists(run.path / each.name)]:
        raise UserError(
            f"{run} holds {', '.join(foreign)}, which no run wrote and this one would replace; set "
            f"another folder: {key}=FOLDER"
        )


def mark(run: RunFolder) -> None:
    """Mark the folder as a run's own, so that a later run may replace its results.

    Raises UserError where it cannot be written.
    """
    try:
        (run.path / MARKER).write_text(TEXT, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{run} cannot be written: {first_line(error)}; set another folder: "
            "hydra.run.dir=FOLDER"
        ) from error


def remove_results(run: RunFolder, resumed_step: int | None) -> None:
    """Remove an earlier run's results, so that none is taken for the next run's.

    resumed_step: the optimizer step after which a run resumes the earlier one, whose events up to
        it stay in `metrics.jsonl`; None removes them all.

    What goes and what stays is the `Fate` of each entry.
    """
    removed = {Fate.REMOVED} if resumed_step is not None else {Fate.REMOVED, Fate.CONTINUED}
    for entry in ENTRIES:
        if entry.fate in removed:
            remove(run.path / entry.name)
    if resumed_step is not None:
        _drop_events(run, resumed_step)


def remove(path: Path) -> None:
    """Remove a file or folder, if there is one; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _drop_events(run: RunFolder, step: int) -> None:
    """Remove the events that a run resumed after `step` logs again, and a last line cut short."""
    if not run.metrics.is_file():
        return
    lines = run.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _is_before(line, step)]
    temporary = run.path / ".metrics.jsonl.tmp"
    temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    temporary.replace(run.metrics)


def _is_before(line: str, step: int) -> bool:
    try:
        event = json.loads(line)
        # The Trainer's last event sums the training up; it is logged again at the same step.
        return event.get("step", 0) <= step and "train_runtime" not in event
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False
