"""A teacher's outputs, stored on disk and added to the rows of a student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from sparsekit.runtime.tasks.base import Output, Outputs
from sparsekit.tasks.base import Task

# The values of each output for each row of the data set, by the output's name.
Kept = dict[str, Output]


def keep(
    task: Task, rows: Dataset, outputs: Outputs, order: Sequence[int] | None, folder: Path
) -> None:
    """Write the outputs of a teacher on its tokenized `rows`, labels in `order`, to `folder`."""
    kept = kept_in_order(task, rows, outputs, order)
    columns = {name: [values.tolist() for values in each] for name, each in kept.items()}
    Dataset.from_dict(columns).save_to_disk(str(folder))


def kept_in_order(task: Task, rows: Dataset, outputs: Outputs, order: Sequence[int] | None) -> Kept:
    """What is kept of a teacher's outputs on its tokenized `rows`, labels in `order`."""
    found: Kept = {}
    for name, output in outputs.items():
        kept = task.kept_output(rows, output)
        found[name] = kept if order is None else [values[..., order] for values in kept]
    return found


def read_kept(task: Task, stored: Dataset) -> Kept:
    """The outputs that `keep` wrote, as float32."""
    return {name: _arrays(stored[name][:]) for name in task.outputs}


def mean(task: Task, each: Sequence[Kept]) -> Kept:
    """The mean of several teachers' outputs."""
    if len(each) == 1:
        return each[0]
    return {
        name: _stacked(list(task.mean_output([kept[name] for kept in each]))) for name in each[0]
    }


def add_outputs(rows: Dataset, outputs: Outputs) -> Dataset:
    """`rows` with the teacher's outputs as columns, such as `teacher_logits`."""
    for name, output in outputs.items():
        rows = rows.add_column(f"teacher_{name}", [values.tolist() for values in output])
    return rows


def _arrays(rows: Sequence[object]) -> Output:
    arrays = [np.array(row, dtype=np.float32) for row in rows]
    # An empty list, of a row without labelled tokens, does not say how wide its entries would be.
    width = next((array.shape[1:] for array in arrays if array.size), (0,))
    return _stacked([array if array.size else array.reshape(0, *width) for array in arrays])


def _stacked(rows: list[np.ndarray]) -> Output:
    """One array where all rows have one shape."""
    return np.stack(rows) if len({row.shape for row in rows}) == 1 else rows
