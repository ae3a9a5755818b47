"""A run in a folder that is not empty: what it may replace, and what it must leave alone."""

from __future__ import annotations

import json
import os
import shutil

from sparsekit.errors import UserError, first_line
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.paths import MARKER

TEXT = "A sparsekit run made this folder; a later run in it may replace its results.\n"
# Every name that a run writes at the top of its folder.
NAMES = (
    "config.yaml",
    "recipe.yaml",
    "recipe.sparseml.yaml",
    "sparseml.log",
    "schedule.json",
    "data.json",
    "metrics.jsonl",
    "summary.json",
    "benchmark.json",
    "benchmark.png",
    "latency.json",
    "shape.png",
    "gate.json",
    "gate.html",
    "SHA256SUMS",
    "model",
    "checkpoints",
    "evaluation",
    "deployment",
    "wandb",
)


def check_replaceable(run: RunFolder, key: str = "hydra.run.dir") -> None:
    """Raise UserError where a run would overwrite files that no run wrote.

    A run marks its folder before it writes results. Runs of versions that did not are recognized
    by the status and the config hash in their summary. `key` is what the user sets the folder with.
    """
    if (run.path / MARKER).is_file() or run.ending.hash is not None:
        return
    if foreign := [name for name in NAMES if os.path.lexists(run.path / name)]:
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
            f"{run} cannot be written: {first_line(error)}; set another folder: output_dir=FOLDER"
        ) from error


def remove_results(run: RunFolder, resumed_step: int | None) -> None:
    """Remove an earlier run's results, so that none is taken for the next run's.

    resumed_step: the optimizer step after which a run resumes the earlier one, whose events up to
        it stay in `metrics.jsonl`; None removes them all.

    `model/` stays until training overwrites it: it may be the next run's student.
    """
    results = (
        run.summary_file,
        run.benchmark,
        run.shape_picture,
        run.gate,
        run.gate_page,
        run.sparseml_recipe,
        run.sparseml_log,
    )
    for file in results:
        file.unlink(missing_ok=True)
    if resumed_step is None:
        run.metrics.unlink(missing_ok=True)
        run.latency.unlink(missing_ok=True)
    else:
        _drop_events(run, resumed_step)
    if run.deployment.is_symlink():
        run.deployment.unlink()
    elif run.deployment.is_dir():
        shutil.rmtree(run.deployment)


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
