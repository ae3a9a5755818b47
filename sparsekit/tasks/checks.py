"""What every task checks of its settings and of the columns that it reads."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset

from sparsekit.data.datasets import Source, check_splits
from sparsekit.data.origin import column_names, with_origin
from sparsekit.data.schema import Column, keys, lacking, listed
from sparsekit.errors import ConfigError


def metric_problems(task_name: str, metrics: Sequence[str], known: Sequence[str]) -> list[str]:
    """The problem of each metric that the task does not compute."""
    return [
        f"dataset.metrics: {name!r} is not known for {task_name}; known: {', '.join(known)}"
        for name in metrics
        if name not in known
    ]


def no_metrics(metrics: Sequence[str], known: Sequence[str]) -> list[str]:
    """The problem of an empty list of metrics."""
    if metrics:
        return []
    return [f"dataset.metrics is empty; name at least one of {', '.join(known)}"]


def length_problems(max_length: int, least: int) -> list[str]:
    """The problem of rows too short to hold any text; `least` tokens hold some."""
    if max_length >= least:
        return []
    return [f"dataset.max_length {max_length} leaves no room for text; set {least} or more"]


def checked_splits(source: Source, columns: Sequence[Column]) -> dict[str, Dataset]:
    """The splits of a source, each row with its origin.

    Raises ConfigError for splits or columns that are missing.
    """
    raw = source.raw(columns)
    check_splits(raw)
    splits = {split: with_origin(rows, split) for split, rows in raw.items()}
    problems = [p for split, rows in splits.items() for p in missing_columns(split, rows, columns)]
    if problems:
        raise ConfigError(problems)
    return splits


def missing_columns(split: str, rows: Dataset, columns: Sequence[Column]) -> list[str]:
    """The problem of columns that are not there."""
    missing = lacking(columns, rows.column_names)
    if not missing:
        return []
    return [
        f"split {split!r} has no column {listed(missing)}; it has "
        f"{', '.join(column_names(rows))}; set {keys(missing)}"
    ]
