"""Both models' scores on any of the rows, and the test of their difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError
from sparsekit.gate.statistics import (
    FEWEST,
    Comparison,
    bootstrap,
    compare_accuracies,
    compare_means,
)
from sparsekit.metrics.table import higher_is_better
from sparsekit.onnx.parity import Rows
from sparsekit.runtime.tasks.base import Output
from sparsekit.tasks.additive import AdditiveTask
from sparsekit.tasks.base import Task

Indices = npt.NDArray[np.int64]


class Scoring:
    """The scores of two models' outputs on the same rows.

    Units are what is drawn and counted: rows, or the rows that the task scores together.

    task, baseline_task: with what each chose on the validation split.
    """

    def __init__(
        self,
        task: Task,
        rows: Rows,
        ours: dict[str, Output],
        theirs: dict[str, Output],
        baseline_task: Task,
    ) -> None:
        self.task, self.rows, self.ours, self.theirs = task, rows, ours, theirs
        self._tasks = (task, baseline_task)
        self.units = _units(task, rows.labels)
        # Of each model what each unit adds to its scores; empty where scores are no sums, as where
        # a class of a user's module has a `score` of its own.
        self._sums = [
            (each, each.unit_sums(outputs, rows.labels, rows.label_names))
            for each, outputs in zip(self._tasks, (ours, theirs), strict=True)
            if isinstance(each, AdditiveTask) and type(each).score is AdditiveTask.score
        ]
        mine, others = task.probabilities(ours), task.probabilities(theirs)
        labels = np.asarray(rows.labels) if mine is not None else None
        # Of each row whether the answer is right; None for tasks without one class a row.
        self.correct = None if mine is None else mine.argmax(axis=1) == labels
        self.baseline_correct = None if others is None else others.argmax(axis=1) == labels

    def scores(self, metric: str, units: Indices) -> tuple[float, float]:
        """The metric of both models, ours first, on units that may repeat."""
        if self._sums:
            ours, theirs = (
                replace(task, metrics=[metric]).scores_of(sums[units].sum(axis=0))[metric]
                for task, sums in self._sums
            )
            return ours, theirs
        drawn = [self.units[unit] for unit in units]
        rows = np.concatenate(drawn)
        labels = [self.rows.labels[row] for row in rows]
        if self.task.unit(labels[0]) is not None:
            numbers = np.repeat(np.arange(len(drawn)), [len(each) for each in drawn])
            labels = [
                self.task.with_unit(label, int(number))
                for label, number in zip(labels, numbers, strict=True)
            ]
        tasks = [replace(tuned, metrics=[metric]) for tuned in self._tasks]
        name = tasks[0].computed_metrics[0]
        ours, theirs = (
            task.score(
                {output: _taken(values, rows) for output, values in outputs.items()},
                labels,
                self.rows.label_names,
            )[name]
            for task, outputs in zip(tasks, (self.ours, self.theirs), strict=True)
        )
        return ours, theirs

    def compare(
        self, metric: str, units: Indices, max_drop: float, alpha: float, resamples: int, seed: int
    ) -> Comparison:
        """Test whether the metric drops by `max_drop` or more on `units`.

        Raises UserError for too few units to bootstrap, and for a metric that cannot be.
        """
        if metric == "accuracy" and self.correct is not None and self.baseline_correct is not None:
            ours, theirs = self.correct[units], self.baseline_correct[units]
            gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
            return compare_accuracies(gained, lost, len(units), max_drop, alpha)
        if len(units) < FEWEST:
            raise UserError(
                f"{len(units)} validation rows are too few to bootstrap {metric}: at least "
                f"{FEWEST} are needed; add rows to the validation split"
            )

        overall = self.difference(metric, units)  # raises where it is undefined on all units

        def difference(drawn: Indices) -> float:
            try:
                return self.difference(metric, units[drawn])
            except UserError:
                return math.nan  # undefined on these, as ROC AUC is on rows of one class

        try:
            if metric not in self.task.means:
                return bootstrap(difference, len(units), max_drop, alpha, resamples, seed)
            each = np.array(
                [difference(units_of_one) for units_of_one in np.arange(len(units))[:, None]]
            )
            if not math.isclose(each.mean(), overall, abs_tol=1e-6):
                raise ValueError(f"it is no mean over rows, as {type(self.task).__name__} says")
            return compare_means(each, max_drop, alpha, resamples, seed, span=1.0)
        except ValueError as error:
            raise UserError(f"{metric} cannot be tested: {error}; test another metric") from error

    def difference(self, metric: str, units: Indices) -> float:
        """The metric of our model less that of the baseline; above 0 ours is the better one."""
        ours, theirs = self.scores(metric, units)
        return ours - theirs if higher_is_better(metric) else theirs - ours


def _taken(output: Output, rows: Indices) -> Output:
    return [output[row] for row in rows] if isinstance(output, list) else output[rows]


def _units(task: Task, labels: Sequence[object]) -> list[Indices]:
    """The rows of each unit, in the order of their first rows."""
    found: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        unit = task.unit(label)
        found.setdefault(row if unit is None else unit, []).append(row)
    return [np.array(rows, dtype=np.int64) for rows in found.values()]
