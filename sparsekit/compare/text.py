"""A comparison as Markdown and as CSV."""

from __future__ import annotations

import csv
import html
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sparsekit.compare.statistics import Comparison, Statistic
from sparsekit.errors import printable
from sparsekit.metrics.spreadsheet import no_formula


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


def marks(comparison: Comparison, index: int) -> str:
    """The rank of the group at `index`: best or tie, and whether it is on the Pareto front."""
    group, ranked = comparison.groups[index], comparison.metric is not None
    words = [
        "best" if ranked and index == 0 else "tie" if group.tie else "",
        "Pareto" if group.front else "",
    ]
    return ", ".join(word for word in words if word)


def markdown(comparison: Comparison, folder: Path) -> str:
    """The table of groups, best first, and of runs without a result; links relative to `folder`."""
    headings = [*comparison.axes, "seeds", *comparison.measures, "", "runs"]
    runs = sum(len(group.runs) for group in comparison.groups)
    lines = [
        "# Comparison",
        "",
        f"{len(comparison.groups)} configs, {runs} runs, {_ranking(comparison)}",
        "",
        table_row(map(escaped_cell, headings)),
        table_row(["---"] * len(headings)),
    ]
    for index, group in enumerate(comparison.groups):
        links = [_link(run.folder, folder) for run in group.runs]
        cells = [cell(group.statistics.get(measure)) for measure in comparison.measures]
        values = [escaped_cell(_text(group.values[axis])) for axis in comparison.axes]
        mark = marks(comparison, index)
        lines.append(table_row([*values, str(len(group.runs)), *cells, mark, " ".join(links)]))
    if comparison.others:
        lines += [
            "",
            "## Without a result",
            "",
            table_row(["run", "status", "why"]),
            table_row(["---"] * 3),
        ]
        for run in comparison.others:
            reason = (run.error or "").partition("\n")[0]
            lines.append(table_row([_link(run.folder, folder), run.status, escaped_cell(reason)]))
    return "\n".join(lines) + "\n"


def _ranking(comparison: Comparison) -> str:
    if comparison.metric is None:
        return "not ranked, because none was evaluated; mean ± standard deviation over seeds."
    ranked = [escaped_cell(measure) for measure in (comparison.metric, *comparison.costs)]
    return (
        f"ranked by {ranked[0]}; mean ± standard deviation over seeds.\n"
        "`tie`: less than two standard errors from the best. `Pareto`: no other is as good "
        f"in all of {', '.join(ranked)} and better in one, where timings within 5 % are taken as "
        "equal."
    )


def csv_text(comparison: Comparison) -> str:
    """One row for each run, broken ones too: folder, status, error, seed, axes, measures."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    headings = [*comparison.axes, *comparison.measures, "tie", "pareto"]
    writer.writerow(map(_csv_cell, ["run", "status", "error", "seed", *headings]))
    for group in comparison.groups:
        for run in group.runs:
            values = [group.values[axis] for axis in comparison.axes]
            measured = [run.measures.get(measure, "") for measure in comparison.measures]
            flags = ["" if group.tie is None else int(group.tie), int(group.front)]
            row = [printable(str(run.folder)), run.status, "", run.seed, *values, *measured, *flags]
            writer.writerow(map(_csv_cell, row))
    for run in comparison.others:
        values = [run.config.get(axis, "") for axis in comparison.axes]
        row = [printable(str(run.folder)), run.status, run.error, run.seed, *values]
        writer.writerow(map(_csv_cell, row))
    return file.getvalue()


def table_row(cells: Iterable[str]) -> str:
    """A line of a Markdown table, of cells that are escaped."""
    return f"| {' | '.join(cells)} |"


def escaped_cell(text: str) -> str:
    r"""`text` as it reads in a Markdown table, where it could be HTML, a link or a cell's end.

    >>> escaped_cell("<b>[a](b)|")
    '&lt;b&gt;\\[a\\](b)\\|'
    """
    marked = re.sub(r"([\\`|\[\]])", r"\\\1", html.escape(text, quote=False))
    return " ".join(marked.splitlines())


def _csv_cell(value: Any) -> Any:
    return no_formula(str(value)) if isinstance(value, str | Path) else value


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _link(run: Path, folder: Path) -> str:
    return f"[{escaped_cell(printable(run.name))}]({quote(os.path.relpath(run, folder))})"
