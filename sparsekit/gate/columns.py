"""Another column of a run's data set, by which the rows are sliced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsekit.config.build import check_origin
from sparsekit.data.class_labels import namer, names_of
from sparsekit.data.origin import column_names
from sparsekit.data.schema import Column
from sparsekit.errors import UserError, suggestion
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.evaluation_table import read_texts
from sparsekit.tasks.base import Task
from sparsekit.tasks.config import build_source

# More values than a table shows, and than rows that suffice for each.
MOST_VALUES = 20


def read_column(
    run: RunFolder, task: Task, name: str, data: Path, first: Sequence[int]
) -> list[str]:
    """The values of column `name` in the run's validation rows, as text.

    Args:
        run: the run, whose data set is read again.
        task: the run's task.
        name: the column.
        data: `evaluation/validation.parquet`, the rows that the run used.
        first: of each unit (row, or question of several windows) its first row in `data`.

    Raises:
        UserError: the data set cannot be read, has no such column or more than 20 values in it, or
            its rows are no longer those of the run.
    """
    dataset = run.config.get("dataset") or {}
    _check_origins(dataset, "dataset")
    columns = task.columns()
    # Labels may be empty: `dataset.drop_empty` dropped no row for this column.
    splits = build_source(dataset, task).raw([*columns, Column(name, "--slice", role="labels")])
    rows = splits["validation"]
    if name not in column_names(rows):
        raise UserError(
            f"the validation rows have no column {name!r} to slice by"
            f"{suggestion(name, column_names(rows))}"
        )
    text = next(column.name for column in columns if column.is_text)
    first_column = task.answers.columns[0]
    used = read_texts(data, [first_column], "to slice")[first_column]
    if list(rows[text]) != [used[row] for row in first]:
        raise UserError(
            f"the texts of the data set are not those in {data}: the data changed since the run; "
            "restore it, or leave out --slice"
        )
    text_of = namer(names_of(rows.features[name]))
    values = [str(text_of(value)) for value in rows[name]]
    if len(set(values)) > MOST_VALUES:
        raise UserError(
            f"column {name!r} has {len(set(values))} values, more than {MOST_VALUES}; slice by a "
            "column of few categories"
        )
    return values


def _check_origins(node: Any, key: str) -> None:
    """Raise ConfigError for code that a config from elsewhere may not name."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            check_origin(node["_target_"], f"{key}._target_")
        for name, value in node.items():
            _check_origins(value, f"{key}.{name}")
