"""`sparsekit compare`: from folders to the three files and the table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from sparsekit.compare.conclusion import Conclusion, markdown_section
from sparsekit.compare.load import load
from sparsekit.compare.page import page
from sparsekit.compare.statistics import SPLITS, Comparison, compare
from sparsekit.compare.text import cell, csv_text, markdown, marks
from sparsekit.runs.folder import RunFolder

ROWS = 30


def write_comparison(
    folders: Sequence[Path],
    out: Path | None = None,
    metric: str | None = None,
    conclusion: Conclusion | None = None,
) -> tuple[Comparison, list[Path]]:
    """Compare the runs below the folders; write compare.md, compare.csv and compare.html.

    They go to `out`; without it to the one folder that is given, or for several, or a run's own
    folder, to the working directory. `conclusion` is a part of table and page. Raises
    UserError for a folder without runs.
    """
    comparison = compare(load(folders), metric)
    if out is None:
        alone = len(folders) == 1 and not RunFolder(folders[0]).exists
        out = folders[0] if alone else Path()
    out.mkdir(parents=True, exist_ok=True)
    ending = "" if conclusion is None else f"\n{markdown_section(conclusion)}"
    texts = {
        "compare.md": markdown(comparison, out) + ending,
        "compare.csv": csv_text(comparison),
        "compare.html": page(comparison, out, conclusion),
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    return comparison, [out / name for name in texts]


def table(comparison: Comparison) -> Table:
    """The best configs in 80 columns: the metric with its deviation, then the costs."""
    metric = comparison.metric or ""
    # Units only: the caption names the measures, and the title the metric.
    costs = [cost for cost in comparison.costs if cost != metric]
    headings = {"sparsity": "zeros"} | {cost: cost.split()[-1] for cost in costs}
    # With the runtime's name, since the latency of another may stand beside it.
    named = metric.endswith(" latency ms")
    ranked = metric.replace(" latency ", "\n") if named else metric.rpartition(" ")[2]
    front = ["*: on the Pareto front"] if any(g.front for g in comparison.groups) else []
    # The other metrics of the split by which the configs are ranked.
    split = metric.partition(" ")[0]
    if split in SPLITS:
        others = [name for name in comparison.measures if name.startswith(f"{split} ")]
        folded = {name: name.partition(" ")[2].replace("_", "\n") for name in others}
        headings = {name: text for name, text in folded.items() if name != metric} | headings
    shown = [measure for measure in headings if measure in comparison.measures]
    count = len(comparison.groups)
    configs = f"{count} config{'' if count == 1 else 's'}"
    view = Table(
        title=f"{configs} by {metric}" if metric else f"{configs}, none evaluated",
        caption="; ".join([*(f"{headings[cost]}: {cost}" for cost in costs), *front]),
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for axis in comparison.axes:
        heading = axis.rpartition(".")[2].replace("_", "\n")
        view.add_column(heading, overflow="fold", min_width=max(map(len, heading.split())))
    scores = [ranked] if metric else []
    for heading in ("seeds", *scores, *(headings[m] for m in shown)):
        view.add_column(heading, justify="right", no_wrap=True)
    view.add_column("rank", no_wrap=True)
    for index, group in enumerate(comparison.groups[:ROWS]):
        values = [str(group.values[axis]) for axis in comparison.axes]
        found = [group.statistics.get(measure) for measure in shown]
        means = ["" if each is None else _short(each.mean) for each in found]
        score = [cell(group.statistics.get(metric))] if metric else []
        cells = [str(len(group.runs)), *score, *means]
        rank = marks(comparison, index).replace(", Pareto", " *").replace("Pareto", "*")
        view.add_row(*map(Text, (*values, *cells, rank)))
    return view


def _short(value: float) -> str:
    """
    >>> _short(0.80003), _short(1.0618), _short(128.4)
    ('0.800', '1.06', '128')
    """
    return f"{value:#.3g}".rstrip(".")
