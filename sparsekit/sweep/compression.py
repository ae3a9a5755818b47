"""The search of `sparsekit compress`: the smallest model that passes its gate, trial by trial."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sparsekit.config.command_line import assigned
from sparsekit.data.fingerprint import files_hash
from sparsekit.errors import UserError, parse_json
from sparsekit.models.contents import models_hash
from sparsekit.runs.folder import RunFolder
from sparsekit.sweep.candidates import CANDIDATES, Candidate

log = logging.getLogger(__name__)

SETTINGS = "compress.json"
# In it, besides the fields of Search: the hashes of the files and of a local model.
ROWS, MODEL = "content of the files", "content of the model"

# Runs `sparsekit train` with the given overrides, which name the run folder, until it has ended.
Train = Callable[[Sequence[str], RunFolder], None]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is asked for.

    model: the folder of a fine-tuned dense model;
    data, validation: files of rows; validation may be None;
    task: overrides that choose the model's task and its columns;
    labelled: whether the task has a loss of labels;
    max_drop: the allowed drop, in the unit of the gate: points of shares, else the metric's own;
    alpha: the probability of passing a model that drops by `max_drop`, at most, over all trials;
    remove: what the trials remove, one of CANDIDATES;
    max_latency: of one text in milliseconds, the median; None: any;
    epochs: of each trial;
    overrides: further overrides of `sparsekit train`, the same for every trial.
    """

    model: str
    data: str
    validation: str | None
    max_drop: float
    alpha: float = 0.05
    remove: str = "weights"
    max_latency: float | None = None
    epochs: float = 20
    task: list[str] = field(default_factory=list)
    labelled: bool = True
    overrides: list[str] = field(default_factory=list)

    @property
    def candidates(self) -> Sequence[Candidate]:
        """What is tried, from the smallest and fastest model on."""
        return CANDIDATES[self.remove]

    @property
    def trial_alpha(self) -> float:
        """The level of the gate of each trial, after Bonferroni.

        The first model that passes ends the search, so that each further trial is one more chance
        for a bad model. Only of tests that end with the first failure would each have `alpha`.
        """
        return self.alpha / len(self.candidates)

    def words(self, candidate: Candidate, folder: Path) -> list[str]:
        """The overrides of the trial of `candidate`, whose run folder is `folder`."""
        rows = {"train": self.data, "validation": self.validation}
        return [
            "dataset=files",
            *self.task,
            *(assigned(f"dataset.data_files.{s}", file) for s, file in rows.items() if file),
            assigned("student.checkpoint", self.model),
            "teacher=self",
            "recipe=from_dense",
            f"recipe.num_epochs={self.epochs:g}",
            # By default the last two epochs quantize, which a shorter trial does not have.
            *([f"recipe.qat_epochs={self.epochs / 2:g}"] if self.epochs < 4 else []),
            *candidate.words(self.labelled),
            f"export.gate.max_drop={self.max_drop:g}",
            f"export.gate.alpha={self.trial_alpha:g}",
            "tracking=none",
            *self.overrides,
            assigned("hydra.run.dir", str(folder)),
            "training.resume_from_checkpoint=auto",
        ]


@dataclass(frozen=True)
class Trial:
    """A run of the search and how it ended.

    removed: what it removes of the dense model, as a user reads it;
    metric: the one that decided its gate: of several the first that failed, else the first;
    difference, lower, upper: of the metric against the dense model, with its bounds, as the gate
    gives them: 0.01 is a point of a share;
    max_drop, alpha: of the gate, the drop in the same unit;
    latency: in milliseconds, the median; runtime: on which;
    stopped: the run's error where it did not even come to its gate.
    """

    removed: str
    run: RunFolder
    metric: str | None = None
    difference: float | None = None
    lower: float | None = None
    upper: float | None = None
    max_drop: float | None = None
    alpha: float | None = None
    latency: float | None = None
    runtime: str | None = None
    passed: bool = False
    stopped: str | None = None

    @classmethod
    def of(cls, removed: str, run: RunFolder) -> Trial:
        """The trial as its summary tells it."""
        ending = run.ending
        summary = ending.summary or {}
        gate = summary.get("gate") or {}
        metrics = gate.get("metrics") or {}
        if not metrics:
            return cls(removed, run, stopped=ending.error or ending.status)
        # Earlier versions tested one metric, and may not have recorded its own result.
        failed = (name for name, test in metrics.items() if not test.get("passed", True))
        metric = next(failed, next(iter(metrics)))
        tested = metrics[metric]
        timings = summary.get("runtime") or {}
        return cls(
            removed,
            run,
            metric=metric,
            difference=tested["difference"],
            lower=tested["lower"],
            upper=tested["upper"],
            max_drop=tested["max_drop"],
            # Earlier versions did not record it.
            alpha=gate.get("alpha"),
            latency=next((timed["latency_ms_p50"] for timed in timings.values()), None),
            runtime=next(iter(timings), None),
            passed=gate["passed"] and ending.status == "completed",
            stopped=ending.error if gate["passed"] and ending.status != "completed" else None,
        )

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.passed or (self.difference is not None and self.stopped is None)

    def fits(self, max_latency: float | None) -> bool:
        """Whether it passed its gate and is fast enough."""
        fast = max_latency is None or (self.latency is not None and self.latency <= max_latency)
        return self.passed and fast


def search(
    asked: Search, folder: Path, train: Train, budget: float | None = None
) -> Iterator[Trial]:
    """Run the trials one after the other, until one passes or breaks off; yield each as it ends.

    After one that passes and is too slow there is none that fits: the others remove less, which no
    runtime answers faster. A trial that has ended in an earlier call is not repeated, an unfinished
    one is resumed.

    Args:
        asked: what to look for.
        folder: of the search; each trial has a run folder in it.
        train: runs a trial.
        budget: seconds; no trial begins that, taking as long as the longest before it in this
            call, would not end in time. How long the first takes is not known. None: no limit.

    Raises:
        UserError: `folder` is that of a search for something else.
    """
    _claim(asked, folder)
    began, longest = time.monotonic(), 0.0
    for candidate in asked.candidates:
        run = RunFolder(folder / candidate.name)
        trial = Trial.of(candidate.label, run)
        if not trial.ended:
            start = time.monotonic()
            if budget is not None and start - began + longest > budget:
                return
            train(asked.words(candidate, run.path), run)
            longest = max(longest, time.monotonic() - start)
            trial = Trial.of(candidate.label, run)
        yield trial
        if trial.passed or not trial.ended:
            return


def closest(trials: Sequence[Trial], max_latency: float | None) -> Trial | None:
    """The trial that fits, else the one that came closest.

    That is the fastest of those that passed their gate, else the one with the highest lower bound.
    """
    if fitting := [trial for trial in trials if trial.fits(max_latency)]:
        return fitting[0]
    if passed := [trial for trial in trials if trial.passed]:
        return min(passed, key=lambda trial: math.inf if trial.latency is None else trial.latency)
    compared = [trial for trial in trials if trial.lower is not None]
    return max(compared, key=lambda trial: trial.lower or 0.0, default=None)


def _trained(trial: Path) -> bool:
    """Whether the trial began to train: a mistake that is found before is to be corrected."""
    run = RunFolder(trial)
    return run.checkpoints.is_dir() or Trial.of("", run).ended


def _claim(asked: Search, folder: Path) -> None:
    """Write what is looked for in `folder`; raises UserError where it was something else."""
    rows = files_hash({"train": asked.data, "validation": asked.validation})
    contents = {ROWS: rows, MODEL: models_hash({"student": {"checkpoint": asked.model}})}
    file, settings = folder / SETTINGS, {**asdict(asked), **contents}
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a new folder as --output")
    if file.exists():
        try:
            # Earlier searches removed weights alone, and did not say what their files held, nor
            # what the task was.
            unsaid = {**contents, "task": asked.task, "labelled": asked.labelled}
            read = parse_json(file.read_bytes())
            known: Any = {"remove": "weights", "alpha": asked.alpha, **unsaid, **read}
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"cannot read {file}: {error}; choose another --output") from error
        if known != settings and any(map(_trained, folder.glob("*-*"))):
            changed = [name for name in settings if known.get(name) != settings[name]]
            raise UserError(
                f"{folder} holds a search with another {', '.join(changed)}; choose another "
                "--output, or repeat it as it was"
            )
        if known == settings:
            if "alpha" not in read and any(map(_trained, folder.glob("*-*"))):
                log.warning(
                    "the trials in %s that ended in an earlier version have gates of alpha 0.05 "
                    "each, so that together they pass a bad model more often; for alpha %g in "
                    "all, search in another --output",
                    *(folder, asked.alpha),
                )
            return
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no search; choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
