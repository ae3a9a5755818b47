"""The gate: whether a run's exported model is not inferior to its dense baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import sparsekit
from sparsekit.errors import UserError
from sparsekit.gate.changes import change_counts, changed_rows
from sparsekit.gate.columns import read_column
from sparsekit.gate.models import GRAPH, Answered, answer, answer_as, baseline_folder
from sparsekit.gate.scoring import Scoring
from sparsekit.gate.slices import by_class, by_length, by_value, describe
from sparsekit.metrics.calibration import expected_calibration_error
from sparsekit.metrics.table import ALIASES, is_share
from sparsekit.onnx.sums import check_listed, check_sums, file_sum
from sparsekit.runs.folder import RunFolder
from sparsekit.tasks.base import Task
from sparsekit.tasks.config import configured_task, task_of

SPLIT = "validation"
# Written to a file of its own, which may be long.
CHANGED_ROWS = "changed_rows"


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """What has to be shown.

    max_drop: the allowed drop, in points (hundredths) for metrics that are shares, and in the
    metric's own unit for losses and errors;
    alpha: the probability of passing a model that drops by `max_drop`, at most;
    metrics: what is tested, each of which has to pass; empty: the first of `dataset.metrics`;
    slices: columns of the data set by which the difference is shown too;
    resamples, seed: of the bootstrap, for metrics other than accuracy.
    """

    max_drop: float
    alpha: float = 0.05
    metrics: Sequence[str] = ()
    slices: Sequence[str] = ()
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_drop) and self.max_drop > 0):
            raise UserError(
                f"max_drop is {self.max_drop}, it must be above 0: no number of rows shows that "
                "two models are exactly as good; set 0.5 or 1 point"
            )
        if not 0 < self.alpha < 0.5:
            raise UserError(f"alpha is {self.alpha}, it must lie between 0 and 0.5, such as 0.05")
        if self.resamples < 100:
            raise UserError(f"resamples is {self.resamples}, it must be at least 100")


def compare_with(run: RunFolder, against: Path, config: GateConfig) -> dict[str, Any]:
    """The comparison of a run's deployment with its baseline: `gate.json`, and the changed rows.

    Both models answer the rows of `evaluation/validation.parquet`. Each is scored with what is
    chosen for it on these rows, such as the threshold of a multi-label task.

    Args:
        run: a run with a deployment.
        against: a run, a deployment, or the folder of a model of transformers.
        config: what has to be shown.

    Raises:
        UserError: a file is missing or was changed, the models are of different tasks or labels, a
            metric is unknown, or the rows are too few for its bootstrap.
    """
    if (run.path / GRAPH).is_file():
        raise UserError(
            f"{run} is a deployment, without the rows to compare on: give the run folder that it "
            "is of; a deployment can be --against"
        )
    if not run.graph.is_file():
        raise UserError(f"{run} has no deployment to compare; export it: sparsekit export {run}")
    check_sums(run.path)
    check_listed(run.deployment, filter(Path.is_file, run.deployment.rglob("*")))
    task, data = task_of(run), run.evaluation(SPLIT)
    metrics = checked_metrics(task, config)
    ours = answer(run.deployment, task, data)
    theirs = answer_as(ours, baseline_folder(against), task, data)
    # A threshold tuned for one model puts another one, calibrated otherwise, at a disadvantage.
    baseline_task = configured_task(run).tuned(lambda: (theirs.outputs, theirs.rows.labels))
    scoring = Scoring(task, ours.rows, ours.outputs, theirs.outputs, baseline_task)
    tested = [_test(scoring, metric, config) for metric in metrics]
    return {
        "passed": all(test["passed"] for test in tested),
        "sparsekit": sparsekit.__version__,
        "split": SPLIT,
        "rows": len(scoring.units),
        "alpha": config.alpha,
        "model": _file(ours),
        "against": _file(theirs),
        "data": {"file": data.name, "sha256": file_sum(data)},
        "metrics": tested,
        "agreement": task.answers.agreement(ours.outputs, theirs.outputs),
        "changes": change_counts(scoring),
        CHANGED_ROWS: changed_rows(scoring),
        "calibration": _calibration(scoring),
        "slices": _slices(run, scoring, metrics[0], config, data),
    }


def checked_metrics(task: Task, config: GateConfig) -> list[str]:
    """The names under which the task scores the metrics that are tested.

    Raises UserError for a metric that the task does not have, or that cannot be tested.
    """
    named = [ALIASES.get(name, name) for name in config.metrics or task.metrics[:1]]
    metrics = list(dict.fromkeys(named))
    if problems := replace(task, metrics=metrics).problems():
        # Named by whoever asks for the test, not by the data set.
        raise UserError("; ".join(text.replace("dataset.metrics", "metric") for text in problems))
    for name in metrics:
        if name in task.compares_rows:
            raise UserError(
                f"{name} compares each row with all others, so that rows cannot be drawn for a "
                "bootstrap; test another metric"
            )
        if is_share(name) and config.max_drop >= 100:
            raise UserError(f"max_drop is {config.max_drop} points, {name} has 100; set less")
    return metrics


def _test(scoring: Scoring, metric: str, config: GateConfig) -> dict[str, Any]:
    everything = np.arange(len(scoring.units))
    max_drop = config.max_drop / unit(metric)
    found = scoring.compare(
        metric, everything, max_drop, config.alpha, config.resamples, config.seed
    )
    ours, baseline = scoring.scores(metric, everything)
    return {
        "metric": metric,
        "model": ours,
        "against": baseline,
        "max_drop": max_drop,
        "passed": found.lower > -max_drop,
        **asdict(found),
    }


def unit(metric: str) -> float:
    """How many of the units that users see make 1: points of shares, else the metric's own."""
    return 100.0 if is_share(metric) else 1.0


def _file(answered: Answered) -> dict[str, str]:
    return {
        "file": str(answered.file),
        "sha256": answered.sum,
        "runtime": answered.runtime,
    }


def _calibration(scoring: Scoring) -> dict[str, float] | None:
    """The expected calibration error of both models; None without one class a row."""
    ours, theirs = (scoring.task.probabilities(each) for each in (scoring.ours, scoring.theirs))
    if ours is None or theirs is None:
        return None
    labels = np.asarray(scoring.rows.labels)
    return {
        "model": expected_calibration_error(ours, labels),
        "against": expected_calibration_error(theirs, labels),
    }


def _slices(
    run: RunFolder, scoring: Scoring, metric: str, config: GateConfig, data: Path
) -> dict[str, list[dict[str, Any]]]:
    """The lines of each kind of slice: accuracy where there are classes, else `metric`."""
    shown = metric if scoring.correct is None else "accuracy"
    first = [int(rows[0]) for rows in scoring.units]
    kinds = {"class": by_class(scoring), "length": by_length(scoring)}
    for name in config.slices:
        kinds[f"column {name}"] = by_value(read_column(run, scoring.task, name, data, first))
    settings = (config.max_drop / unit(shown), config.alpha, config.resamples, config.seed)
    return {
        kind: describe(scoring, shown, slices, *settings)
        for kind, slices in kinds.items()
        if slices
    }
