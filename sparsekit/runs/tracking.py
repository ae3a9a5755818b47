"""The run folder first, Weights & Biases as its mirror.

Every event is a line of `metrics.jsonl` and the result is `summary.json`, even if W&B fails.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsekit.errors import UserError
from sparsekit.metrics.report import read_report, report_scalars
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.summary import describe, plain_json, scalars, unfinished
from sparsekit.runs.wandb_run import end, start

if TYPE_CHECKING:
    import wandb

LOG = logging.getLogger(__name__)
SPLITS = ("validation", "test")
MODES = ("auto", "online", "offline", "disabled")


@dataclass(kw_only=True)
class TrackingConfig:
    """The W&B project and names of a run, and whether W&B is used.

    `auto` is online if a key is configured, else offline; `$WANDB_MODE` overrides it.
    `name` defaults to the job's overrides, `group` to the sweep's. `artifact` logs `deployment/`.
    `workspace` saves a view of a sweep when it ends.
    """

    project: str = "sparsekit"
    entity: str | None = None
    mode: str = "auto"
    name: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    artifact: bool = False
    workspace: bool = False

    def __post_init__(self) -> None:
        if self.workspace and importlib.util.find_spec("wandb_workspaces") is None:
            raise UserError(
                "tracking.workspace=true needs wandb-workspaces: pip install "
                "'sparsekit[workspaces]', or leave it false"
            )
        if self.mode not in MODES:
            raise UserError(f"tracking.mode={self.mode!r} must be one of {', '.join(MODES)}")


class Tracker:
    """Writes a run's events and summary; made by `track`."""

    def __init__(self, folder: RunFolder, run: wandb.Run | None = None) -> None:
        self._folder = folder
        self._run = run
        self._summary: dict[str, Any] = {}
        self.finished = False

    def log(self, event: Mapping[str, float | int | str], step: int | None = None) -> None:
        """Append one event to `metrics.jsonl`, with the time in seconds since the epoch."""
        values = dict(event) if step is None else {"step": step, **event}
        line = json.dumps(plain_json({"time": time.time(), **values}))
        with self._folder.metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        # The step is a column, not W&B's own counter, which drops events that arrive late.
        self._mirror(lambda run: run.log(values))

    def record(self, part: Mapping[str, Any]) -> None:
        """Add keys to the summary that is written at the end, also when the run fails."""
        self._summary.update(part)

    def recorded(self, name: str) -> Mapping[str, Any]:
        """The part of the summary that was recorded under `name`; empty where none was."""
        part: Mapping[str, Any] = self._summary.get(name, {})
        return part

    def save(self) -> None:
        """Write what is known so far, for `sparsekit export` to complete if the run is killed."""
        self._folder.write_summary({**self._summary, **unfinished(self._folder)})
        self._folder.reserve_space()

    def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Write `summary.json`, these keys and the recorded ones, mirror its scalars, return it."""
        self.record({"status": "completed", "error": None, **summary})
        self._folder.write_summary(self._summary)
        self._mirror(lambda run: run.summary.update(scalars(self._summary)))
        self.finished = True
        return dict(self._summary)

    def log_reports(self) -> None:
        """Mirror the scores by class: worst class, calibration error, confusion matrix."""
        for split in SPLITS:
            if report := read_report(self._folder.evaluations, split):
                found = {f"{split}/{name}": value for name, value in report_scalars(report).items()}
                self._mirror(partial(_update_summary, values=found))
            picture = self._folder.evaluations / f"{split}_confusion.png"
            if picture.is_file():
                self._mirror(partial(_log_picture, name=f"{split}/confusion", picture=picture))

    def log_artifact(self, folder: Path) -> None:
        """Log a folder of the run to W&B as a model."""
        self._mirror(lambda run: run.log_artifact(folder, f"{folder.name}-{run.id}", type="model"))

    def _mirror(self, action: Callable[[wandb.Run], Any]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # a service must not end a run, whatever it raises
            LOG.warning("W&B stopped recording; the run folder goes on: %s", error)
            self._run = None


def _update_summary(run: wandb.Run, values: Mapping[str, float | str]) -> None:
    run.summary.update(dict(values))


def _log_picture(run: wandb.Run, name: str, picture: Path) -> None:
    import wandb

    run.log({name: wandb.Image(str(picture))})


@contextlib.contextmanager
def track(
    config: TrackingConfig,
    folder: RunFolder,
    resolved: dict[str, Any],
    overrides: Sequence[str],
    group: str | None,
    resumed: bool = False,
) -> Iterator[Tracker]:
    """Track one run in `folder`, an existing directory.

    group: the sweep that the run is a job of; None for a run by itself.
    resumed: the W&B run that an earlier run in `folder` began goes on, under its id.

    If the block raises, `summary.json` gets status failed and the error, and the W&B run ends
    with exit code 1; the exception goes on. W&B runs never merge: each ends here.
    """
    run, tracker = None, Tracker(folder)
    try:
        folder.reserve_space()
        run = start(config, folder, resolved, overrides, group, resumed)
        tracker._run = run
        yield tracker
        if not tracker.finished:
            tracker.finish({})
        tracker.log_reports()
        if config.artifact and folder.deployment.is_dir():
            tracker.log_artifact(folder.deployment)
    except BaseException as error:
        try:
            tracker.finish({"status": "failed", "error": describe(error)})
        except OSError as second:
            # The first error says why; a second one must not hide it.
            LOG.error("%s cannot be written: %s", folder.summary_file, second)
        end(run, exit_code=1)
        raise
    end(run, exit_code=0)
