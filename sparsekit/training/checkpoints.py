"""Checkpoints: written beside their place, whole once they appear, with a sum of each file."""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from sparsekit.cache import file_hash
from sparsekit.errors import first_line, parse_json

if TYPE_CHECKING:
    from transformers import Trainer

LOG = logging.getLogger(__name__)

# What a checkpoint was trained by, and the sum of each of its files.
RECORD = "sparsekit.json"
VERSION = 1
# Where a checkpoint lies until it is whole.
UNFINISHED = ".unfinished"

STATE = "trainer_state.json"
_FILES = (STATE, "optimizer.pt", "scheduler.pt")
# Of one process, or of the first of several.
_RANDOM_STATES = ("rng_state.pth", "rng_state_0.pth")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder` by their step, the first one first."""
    named = [path for path in folder.glob("checkpoint-*") if path.is_dir() and _is_numbered(path)]
    return sorted(named, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written, from its name."""
    return int(checkpoint.name.rpartition("-")[2])


def _is_numbered(path: Path) -> bool:
    return path.name.rpartition("-")[2].isdecimal()


def newest_whole(folder: Path) -> Path | None:
    """The checkpoint in `folder` of the highest step that is whole; warns of damaged ones."""
    for checkpoint in reversed(checkpoints(folder)):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint
        LOG.warning("%s is not used: %s", checkpoint, problem)
    return None


def damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None.

    Those of a checkpoint without a record, which versions before 0.2 did not write, are checked by
    what their formats tell of a file that was cut.
    """
    lacking = [name for name in _FILES if not (checkpoint / name).is_file()]
    if not any((checkpoint / name).is_file() for name in _RANDOM_STATES):
        lacking.append(_RANDOM_STATES[0])
    if not any(checkpoint.glob(pattern) for pattern in _WEIGHTS):
        lacking.append("model.safetensors")
    if lacking:
        return f"it lacks {', '.join(lacking)}"
    try:
        parse_json((checkpoint / STATE).read_bytes())["global_step"]
        sums = record(checkpoint).get("files")
        if sums is None:
            return _broken_format(checkpoint)
        changed = [
            name
            for name, expected in sums.items()
            # Names of files in the folder itself: a record must not lead out of it.
            if Path(name).name != name or file_hash(checkpoint / name) != expected
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return first_line(error)
    return f"{', '.join(changed)} was changed or cut short" if changed else None


def _broken_format(checkpoint: Path) -> str | None:
    """Which file is cut short, as far as its format tells."""
    for path in sorted(path for path in checkpoint.iterdir() if path.is_file()):
        try:
            if path.suffix in (".pt", ".pth", ".bin"):
                with zipfile.ZipFile(path) as file:
                    if damaged := file.testzip():
                        raise ValueError(f"{damaged} was changed")
            elif path.suffix == ".safetensors":
                with safe_open(path, "numpy"):
                    pass
            elif path.suffix == ".json":
                parse_json(path.read_bytes())
        except (OSError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
            return f"{path.name} is damaged: {first_line(error)}"
    return None


def record(checkpoint: Path) -> dict[str, Any]:
    """The content of the checkpoint's record, empty where it has none.

    Raises ValueError where it cannot be read.
    """
    file = checkpoint / RECORD
    if not file.is_file():
        return {}
    content = parse_json(file.read_bytes())
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"{RECORD} is not of version {VERSION}: another sparsekit wrote it")
    return content


@contextmanager
def written_whole(trainer: Trainer, trained_by: Mapping[str, Any]) -> Iterator[None]:
    """Let `trainer` write a checkpoint beside its place, and move it there once it is whole.

    Old checkpoints are then removed, see `rotate`. What was written is removed if writing fails.

    Args:
        trainer: its `args.output_dir`, the folder of its checkpoints, is another one meanwhile.
        trained_by: see `publish`.
    """
    args, state = trainer.args, trainer.state
    folder = Path(str(args.output_dir))
    unfinished = folder / UNFINISHED
    if args.should_save:
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    trainer.accelerator.wait_for_everyone()
    args.output_dir = str(unfinished)
    try:
        yield
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)  # as on a full disk
        raise
    finally:
        args.output_dir = str(folder)
    trainer.accelerator.wait_for_everyone()
    written = unfinished / f"checkpoint-{state.global_step}"
    if state.best_model_checkpoint == str(written):
        state.best_model_checkpoint = str(folder / written.name)
    if args.should_save:
        state.save_to_json(str(written / STATE))
        checkpoint = publish(written, folder, trained_by)
        rotate(checkpoint, args.save_total_limit, state.best_model_checkpoint)
        unfinished.rmdir()
    trainer.accelerator.wait_for_everyone()


def publish(checkpoint: Path, folder: Path, trained_by: Mapping[str, Any]) -> Path:
    """Move a whole checkpoint into `folder`, on disk to the last byte, and return its new path.

    trained_by: what a run must have in common with the one that wrote it to go on from it.
    """
    files = sorted(path for path in checkpoint.iterdir() if path.is_file())
    content = {
        "version": VERSION,
        "trained_by": dict(trained_by),
        "files": {path.name: file_hash(path) for path in files},
    }
    (checkpoint / RECORD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for path in (*files, checkpoint / RECORD, checkpoint):
        _sync(path)
    target = folder / checkpoint.name
    if target.exists():
        shutil.rmtree(target)  # an earlier run's
    os.replace(checkpoint, target)
    _sync(folder)
    return target


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rotate(newest: Path, limit: int | None, best: str | None) -> None:
    """Remove checkpoints beside `newest` until `limit` are left; None or 0 leaves all.

    The one of the lowest step goes first, whatever a clock says; before it those past `newest`,
    which an earlier run left. `newest` and `best` are never removed.
    """
    step = step_of(newest)
    # They come by step; sorting keeps that order within both groups.
    oldest_first = sorted(checkpoints(newest.parent), key=lambda path: step_of(path) <= step)
    surplus = len(oldest_first) - limit if limit else 0
    for checkpoint in oldest_first:
        if surplus > 0 and checkpoint != newest and str(checkpoint) != best:
            shutil.rmtree(checkpoint)
            surplus -= 1
