"""A comparison as one self-contained HTML page: no server, no network."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sparsekit.compare.axes import varied_keys
from sparsekit.compare.conclusion import Conclusion, html_section
from sparsekit.compare.load import Run
from sparsekit.compare.statistics import (
    SPLITS,
    Comparison,
    less_is_better,
    limits_of,
    noise_of,
)
from sparsekit.compare.text import marks

HERE = Path(__file__).parent


def page(comparison: Comparison, folder: Path, conclusion: Conclusion | None = None) -> str:
    """The page, with links to run folders relative to `folder`; `conclusion` is its first part."""
    # "<" cannot end the script element that holds the data when it is written as an escape.
    data = json.dumps(page_data(comparison, folder), separators=(",", ":")).replace("<", "\\u003c")
    text = (HERE / "page.html").read_text(encoding="utf-8")
    for name in ("page.css", "plots.js", "page.js"):
        text = text.replace(f"/*{name}*/", (HERE / name).read_text(encoding="utf-8"))
    text = text.replace("/*data*/", data)
    section = "" if conclusion is None else html_section(conclusion)
    return text.replace("<!--conclusion-->", section)


def page_data(comparison: Comparison, folder: Path) -> dict[str, Any]:
    """What the page's scripts read; of the configs only the keys that differ between runs."""
    runs = [run for group in comparison.groups for run in group.runs]
    number = {id(run): index for index, run in enumerate(runs)}
    varied = varied_keys([run.config for run in runs])
    return {
        "folder": "/".join(folder.resolve().parts[-2:]),
        "axes": comparison.axes,
        "measures": [
            {
                "name": name,
                "less": less_is_better(name),
                "limits": limits_of(name),
                "noise": noise_of(name),
                "shown": _shown(name, comparison),
            }
            for name in comparison.measures
        ],
        "metric": comparison.metric,
        "costs": comparison.costs,
        "keys": varied,
        "groups": [
            {
                "values": [_plain(group.values[axis]) for axis in comparison.axes],
                "runs": [number[id(run)] for run in group.runs],
                "mark": marks(comparison, index),
                "front": group.front,
                "stats": {
                    name: [_plain(s.mean), _plain(s.deviation), s.n]
                    for name, s in group.statistics.items()
                },
            }
            for index, group in enumerate(comparison.groups)
        ],
        "runs": [
            {
                **_named(run, folder),
                "seed": run.seed,
                "config": [_plain(run.config.get(key)) for key in varied],
            }
            for run in runs
        ],
        "others": [
            {**_named(run, folder), "status": run.status, "error": run.error or ""}
            for run in comparison.others
        ],
    }


def _shown(measure: str, comparison: Comparison) -> bool:
    """Whether the table shows the measure before the reader asks for all of them.

    These fit into a window: the metrics of the ranking split, the costs and the sparsity.
    """
    metric = comparison.metric or ""
    split = metric.partition(" ")[0]
    ranked = split in SPLITS and measure.startswith(f"{split} ")
    return ranked or measure in (metric, *comparison.costs, "sparsity")


def _named(run: Run, folder: Path) -> dict[str, Any]:
    relative = os.path.relpath(run.folder, folder)
    return {"name": relative, "href": quote(relative) + "/"}


def _plain(value: Any) -> Any:
    """`value` as JSON; as text where JSON has no such type (nan, dates)."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
