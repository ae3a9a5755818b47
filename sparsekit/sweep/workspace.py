"""A sweep as a saved view in W&B: parallel coordinates over its axes, accuracy against latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsekit.errors import UserError, parse_json
from sparsekit.runs.find import find_runs
from sparsekit.runs.summary import scalars
from sparsekit.runs.tracking import TrackingConfig
from sparsekit.runs.wandb_run import wandb_mode
from sparsekit.sweep.jobs import RECORD

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

LATER = "W&B is offline here; upload the runs with `wandb sync`, then: sparsekit workspace {folder}"


def save_workspace(folder: Path, config: TrackingConfig) -> str:
    """Save the view of the sweep in `folder`; returns its address.

    Raises UserError for a folder without a finished sweep, and where W&B is offline.
    """
    if wandb_mode(config.mode) != "online":
        raise UserError(LATER.format(folder=folder))
    summary = _example(folder)
    import wandb

    entity = config.entity or wandb.Api().default_entity
    if entity is None:
        raise UserError("W&B knows no default entity for this key; set tracking.entity=NAME")
    view = workspace(entity, config, "/".join(folder.parts[-2:]), _axes(folder), summary)
    try:
        return str(view.save().url)
    except Exception as error:  # a service: whatever it raises, the sweep itself is done
        raise UserError(f"W&B did not save the workspace: {error}") from error


def workspace(
    entity: str,
    config: TrackingConfig,
    sweep: str,
    axes: Sequence[str],
    summary: Mapping[str, Any],
) -> Workspace:
    """The view of the runs in group `sweep`, with the columns of a finished run's `summary`."""
    import wandb_workspaces.reports.v2.interface as panels
    import wandb_workspaces.workspaces as workspaces
    from wandb_workspaces.expr import And

    columns = scalars(summary)
    accuracies = [name for name in columns if name.startswith("validation/")]
    latencies = [name for name in columns if name.endswith("/latency_ms_p50")]
    shown = [*accuracies, "sparsity", *latencies, "export/bytes"]
    parallel = panels.ParallelCoordinatesPlot(
        title="axes and results",
        columns=[
            *(panels.ParallelCoordinatesPlotColumn(panels.Config(_column(axis))) for axis in axes),
            *(
                panels.ParallelCoordinatesPlotColumn(panels.SummaryMetric(name))
                for name in shown
                if name in columns
            ),
        ],
        layout=panels.Layout(w=24, h=9),
    )
    scatters = [
        panels.ScatterPlot(
            title=f"{accuracy} against {latency}",
            x=panels.SummaryMetric(latency),
            y=panels.SummaryMetric(accuracy),
            layout=panels.Layout(w=12, h=9),
        )
        for accuracy in accuracies
        for latency in latencies
    ]
    group = config.group or sweep
    return workspaces.Workspace(
        entity=entity,
        project=config.project,
        name=f"sweep {group}",
        sections=[workspaces.Section(name="sweep", panels=[parallel, *scatters], is_open=True)],
        runset_settings=workspaces.RunsetSettings(filters=And(workspaces.Metric("Group") == group)),
    )


def _column(axis: str) -> str:
    # A value's path in the nested config; a group choice (`student`) is a column of its own.
    return f"sparsekit.{axis}" if "." in axis else axis


def _axes(folder: Path) -> list[str]:
    try:
        axes: list[str] = parse_json((folder / RECORD).read_text(encoding="utf-8"))["axes"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is not a sweep's folder: it has no readable {RECORD}") from error
    return axes


def _example(folder: Path) -> Mapping[str, Any]:
    for run in find_runs(folder):
        end = run.ending
        if end.status == "completed":
            return end.summary or {}
    raise UserError(f"no job in {folder} is completed; a workspace shows finished runs")
