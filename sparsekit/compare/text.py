"""A comparison as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from sparsekit.compare.statistics import Comparison, Group, Statistic


def cell(statistic: Statistic | None) -> str:
    """
    >>> cell(Statistic(0.8123, 0.0042, 3)), cell(Statistic(12.0, 0.0, 3)), cell(None)
    ('0.8123 ± 0.0042', '12.00 ± 0', '')
    """
    if statistic is None:
        return ""
    mean, deviation = statistic.mean, statistic.deviation
    digits = 4 if abs(mean) < 10 else 2 if abs(mean) < 1000 else 0
    if deviation is None:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {f'{deviation:.{digits}f}' if deviation else 0}"


def marks(group: Group, first: bool) -> str:
    """What the ranking says of a group: best, tie, and whether it lies on the Pareto front."""
    words = ["best" if first else "tie" if group.tie else "", "Pareto" if group.front else ""]
    return ", ".join(word for word in words if word)


def markdown(comparison: Comparison, folder: Path) -> str:
    """The table of groups, best first, and what is broken; links relative to `folder`."""
    headings = [*comparison.axes, "seeds", *comparison.measures, "", "runs"]
    lines = [
        "# Comparison",
        "",
        f"{len(comparison.groups)} configs, {sum(len(g.runs) for g in comparison.groups)} runs, "
        f"ranked by {comparison.metric}; mean ± standard deviation over seeds.",
        "`tie`: less than two standard errors from the best. `Pareto`: no other is better in one "
        f"of {', '.join([str(comparison.metric), *comparison.costs])} and as good in the rest.",
        "",
        _row(headings),
        _row(["---"] * len(headings)),
    ]
    for index, group in enumerate(comparison.groups):
        links = [f"[{run.folder.name}]({_link(run.folder, folder)})" for run in group.runs]
        cells = [cell(group.statistics.get(measure)) for measure in comparison.measures]
        values = [_text(group.values[axis]) for axis in comparison.axes]
        mark = marks(group, index == 0)
        lines.append(_row([*values, str(len(group.runs)), *cells, mark, " ".join(links)]))
    if comparison.others:
        lines += ["", "## Without a result", "", _row(["run", "status", "why"]), _row(["---"] * 3)]
        for run in comparison.others:
            why = (run.error or "").splitlines()[:1]
            link = f"[{run.folder.name}]({_link(run.folder, folder)})"
            lines.append(_row([link, run.status, *(why or [""])]))
    return "\n".join(lines) + "\n"


def csv_text(comparison: Comparison) -> str:
    """A row a run, broken ones too: folder, status, seed, axes, measures."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["run", "status", "error", "seed", *comparison.axes, *comparison.measures, "tie", "pareto"]
    )
    for group in comparison.groups:
        for run in group.runs:
            values = [group.values[axis] for axis in comparison.axes]
            measured = [run.measures.get(measure, "") for measure in comparison.measures]
            flags = ["" if group.tie is None else int(group.tie), int(group.front)]
            writer.writerow([run.folder, run.status, "", run.seed, *values, *measured, *flags])
    for run in comparison.others:
        values = [run.config.get(axis, "") for axis in comparison.axes]
        writer.writerow([run.folder, run.status, run.error, run.seed, *values])
    return file.getvalue()


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells)} |"


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _link(run: Path, folder: Path) -> str:
    return os.path.relpath(run, folder).replace(" ", "%20")
