"""`export.gate`: a deployment that is kept only where it is shown to be as good as its baseline."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsekit.config.build import build
from sparsekit.errors import UserError, reworded
from sparsekit.gate.gate import SPLIT, GateConfig, checked_metrics, compare_with
from sparsekit.gate.models import baseline_folder
from sparsekit.gate.prospects import check_rows, prospects
from sparsekit.gate.text import verdict
from sparsekit.gate.write import write_gate, write_result
from sparsekit.models.hub import fetch
from sparsekit.models.loading import CHECKPOINT, Student
from sparsekit.models.quantizers import is_quantized
from sparsekit.models.teacher import Teacher
from sparsekit.onnx.export import ExportConfig
from sparsekit.onnx.export import export as export_run
from sparsekit.runs.folder import RunFolder
from sparsekit.tasks.base import Data, Task

log = logging.getLogger(__name__)

Record = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class ExportGate:
    """The config node `export.gate`.

    max_drop: the allowed drop, see `GateConfig`; null: no test;
    against: the dense baseline: a run, a deployment or a model; null: the teacher, with
    `teacher=self` the student's checkpoint;
    alpha: the probability of passing a model that drops by `max_drop`, at most;
    metrics: what is tested; empty: the first of `dataset.metrics`.
    """

    max_drop: float | None = None
    against: str | None = None
    alpha: float = 0.05
    metrics: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config()

    @classmethod
    def of(cls, export: ExportConfig | None) -> ExportGate:
        """The gate that an export config describes; raises ConfigError for what is wrong in it."""
        node = (export and export.gate) or {}
        target = f"{cls.__module__}.{cls.__qualname__}"
        gate: ExportGate = build({**node, "_target_": target}, "export.gate", cls)
        return gate

    def config(self) -> GateConfig | None:
        """What has to be shown; None: nothing."""
        if self.max_drop is None:
            return None
        return GateConfig(max_drop=self.max_drop, alpha=self.alpha, metrics=self.metrics)


def gate_problems(
    export: ExportConfig | None, teacher: Teacher | None, task: Task | None = None
) -> list[str]:
    """What is wrong with `export.gate` in a run that `teacher` teaches, before anything starts."""
    gate = ExportGate.of(export)
    if (config := gate.config()) is None:
        return []
    return [*_metric_problems(config, task), *_baseline_problems(gate, teacher)]


def _metric_problems(config: GateConfig, task: Task | None) -> list[str]:
    # What is wrong with the task's own metrics is one of its problems.
    if task is None or task.problems():
        return []
    try:
        checked_metrics(task, config)
    except UserError as error:
        return [f"export.gate: {error}"]
    return []


def _baseline_problems(gate: ExportGate, teacher: Teacher | None) -> list[str]:
    if gate.against is not None:
        try:
            baseline_folder(Path(gate.against))
        except UserError as error:
            return [f"export.gate.against: {error}"]
        return []
    if teacher is not None and not teacher.is_baseline:
        return [
            f"export.gate.max_drop={gate.max_drop:g} needs the dense model to compare with, and "
            "the teacher is not one model of its own; set export.gate.against=RUN_OR_MODEL"
        ]
    return []


def report_prospects(export: ExportConfig | None, data: Data) -> None:
    """Log what the gate can show with the validation rows, as a warning where that is too little.

    Raises UserError where no model can pass.
    """
    config, rows = ExportGate.of(export).config(), data.splits.get(SPLIT)
    if config is None or rows is None:
        return
    check_rows(data.task, config, len(rows))
    if (found := prospects(data.task, config, len(rows))) is None:
        return
    text, suffices = found
    if suffices:
        log.info("gate: %s", text)
    else:
        log.warning(
            "export.gate.max_drop=%g is less than the gate may be able to show, so that a model as "
            "good as the dense one may fail: %s; set a larger drop, or add validation rows",
            *(config.max_drop, text),
        )


def record_baseline(
    export: ExportConfig | None,
    teachers: Callable[[], Sequence[Path]],
    student: Student,
    record: Record,
) -> None:
    """Keep in the summary which baseline a run is compared with, for a later export too.

    It is what the config names, else the teacher: with `teacher=self` the student's checkpoint.
    """
    gate = ExportGate.of(export)
    if gate.max_drop is not None:
        if gate.against is not None:
            against = Path(gate.against)
        else:
            against = next(iter(teachers()), None) or fetch(
                student.checkpoint, student.revision, key=CHECKPOINT
            )
            if is_quantized(against):
                raise UserError(
                    f"export.gate: {against} is quantized, so it is no dense model to compare "
                    "with; set export.gate.against=RUN_OR_MODEL"
                )
            with reworded(lambda text: f"export.gate: {text}, as export.gate.against"):
                baseline_folder(against)  # as the gate does, after training
        record({"gate": {"against": str(against.absolute())}})


def gated_export(run: RunFolder, config: ExportConfig, against: str | None, record: Record) -> None:
    """Export a run and, where `config.gate` asks for it, compare the deployment with its baseline.

    Records `export` and `gate` of the summary. A deployment that does not pass, or cannot be
    compared, is removed.

    Args:
        run: the run, trained and evaluated.
        config: how to export it.
        against: the baseline that the run recorded, used where the config names none.
        record: takes parts of the summary.

    Raises:
        UserError: the deployment did not pass; `gate.json` says by how much.
    """
    gate = ExportGate.of(config)
    exported = export_run(run.path, config)
    if (test := gate.config()) is not None:
        try:
            _pass(run, test, gate.against or against, record)
        except BaseException:
            shutil.rmtree(run.deployment)
            raise
    record({"export": exported})


def _pass(run: RunFolder, config: GateConfig, against: str | None, record: Record) -> None:
    """Compare the deployment with its baseline; raises UserError unless it passes."""
    if against is None:
        raise UserError(
            "the run does not say which dense model it is compared with; set "
            "export.gate.against=RUN_OR_MODEL"
        )
    found = compare_with(run, Path(against), config)
    differences = {test["metric"]: _difference(test) for test in found["metrics"]}
    passed, alpha = found["passed"], config.alpha
    record({"gate": {"against": against, "passed": passed, "alpha": alpha, "metrics": differences}})
    sentences = [verdict(test, found["rows"], config.alpha) for test in found["metrics"]]
    if not found["passed"]:
        write_result(run, found)
        failed = "; ".join(text for text in sentences if text.startswith("FAILED"))
        raise UserError(
            f"the gate stopped the deployment: {failed}; the model is in {run.model}, the "
            f"comparison in {run.gate}"
        )
    write_gate(run, found)
    for sentence in sentences:
        log.info("gate %s", sentence)


def _difference(test: Mapping[str, Any]) -> dict[str, float]:
    return {name: test[name] for name in ("difference", "lower", "upper", "max_drop")}
