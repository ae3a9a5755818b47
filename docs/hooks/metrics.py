"""Writes reference/metrics.md from the table of metrics when MkDocs builds the site."""

from __future__ import annotations

from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from sparsekit.metrics.table import ALIASES, METRICS, Metric

PAGE = "reference/metrics.md"
INTRODUCTION = """\
# Metrics

The names that `dataset.metrics` takes, as in `'dataset.metrics=[accuracy,f1_macro]'`. Each is
computed by the function of `sklearn.metrics` beside it. Without an average in their name, `f1`,
`precision`, `recall` and `jaccard` score class 1 of two classes, and average over the classes
(macro) where there are more.

| name | function | better | other names |
|---|---|---|---|
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page to the site."""
    files.append(File.generated(config, PAGE, content=INTRODUCTION + "\n".join(rows()) + "\n"))
    return files


def rows() -> Iterator[str]:
    """A row of the table for each metric."""
    for name, metric in METRICS.items():
        others = ", ".join(f"`{other}`" for other, known in ALIASES.items() if known == name)
        better = "higher" if metric.higher_is_better else "lower"
        yield f"| `{name}` | {call(metric)} | {better} | {others} |"


def call(metric: Metric) -> str:
    """The function and its options; a metric of our own has none."""
    if metric.function is None:
        return "sparsekit's own"
    options = ", ".join(f"{key}={value!r}" for key, value in metric.options.items())
    return f"`{metric.function}`" + (f" with `{options}`" if options else "")
