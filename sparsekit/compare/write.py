"""`sparsekit compare`: from folders to the three files and the table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from sparsekit.compare.load import load
from sparsekit.compare.page import page
from sparsekit.compare.statistics import Comparison, compare
from sparsekit.compare.text import cell, csv_text, markdown, marks
from sparsekit.runs import is_run

ROWS = 30


def write_comparison(
    folders: Sequence[Path], out: Path | None = None, metric: str | None = None
) -> tuple[Comparison, list[Path]]:
    """Compare the runs below the folders; write compare.md, compare.csv and compare.html.

    They go to `out`; without it to the one folder that is given, or for several, or a run's own
    folder, to the working directory. Raises UserError for a folder without runs.
    """
    comparison = compare(load(folders), metric)
    if out is None:
        alone = len(folders) == 1 and not is_run(folders[0])
        out = folders[0] if alone else Path()
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "compare.md": markdown(comparison, out),
        "compare.csv": csv_text(comparison),
        "compare.html": page(comparison, out),
    }
    for name, text in texts.items():
        (out / name).write_text(text)
    return comparison, [out / name for name in texts]


def table(comparison: Comparison) -> Table:
    """The best configs with the metric and what it costs."""
    shown = [m for m in (comparison.metric, "sparsity", *comparison.costs) if m is not None]
    shown = [m for m in dict.fromkeys(shown) if m in comparison.measures]
    view = Table(title=f"{len(comparison.groups)} configs by {comparison.metric}")
    for axis in comparison.axes:
        view.add_column(axis.rpartition(".")[2], overflow="fold")
    for heading in ("seeds", *shown):
        view.add_column(heading, justify="right")
    view.add_column("rank")
    for index, group in enumerate(comparison.groups[:ROWS]):
        values = [str(group.values[axis]) for axis in comparison.axes]
        cells = [cell(group.statistics.get(measure)) for measure in shown]
        view.add_row(*map(Text, (*values, str(len(group.runs)), *cells, marks(group, index == 0))))
    return view
