"""What tasks that read one or two columns of text have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from datasets.table import InMemoryTable
from transformers import PreTrainedTokenizerBase

from sparsekit.data.columns import stored, values
from sparsekit.data.filters import empty_rows
from sparsekit.data.labels import is_number
from sparsekit.data.origin import where
from sparsekit.data.schema import Column
from sparsekit.tasks.checks import length_problems

# One token of each of two texts, and the three special tokens around them.
MIN_LENGTH = 5
# The names of texts in a task's own form.
NAMES = ("text", "text_pair")


def setting_problems(text_columns: Sequence[str], max_length: int) -> list[str]:
    """What is wrong with these fields of a task."""
    found = []
    if not 1 <= len(text_columns) <= 2:
        found.append(f"dataset.text_columns {list(text_columns)} must name 1 or 2 columns")
    return found + length_problems(max_length, MIN_LENGTH)


def reads_pairs(text_columns: Sequence[str]) -> bool | None:
    """Whether a row of these columns is a pair of texts; None where they are not known."""
    return len(text_columns) == 2 if text_columns else None


def columns_of(text_columns: Sequence[str]) -> list[Column]:
    """The columns of text; the second may be empty, as in a message without a body."""
    first, *second = text_columns
    return [
        Column(first, "dataset.text_columns"),
        *(Column(name, "dataset.text_columns", role="optional text") for name in second),
    ]


def rows_of(rows: Dataset, text_columns: Sequence[str], labels: pa.Array) -> Dataset:
    """The rows in the own form of a task: `text`, perhaps `text_pair`, and `label`."""
    names = dict(zip(text_columns, NAMES, strict=False))
    texts = {new: _filled(stored(rows, old)) for old, new in names.items()}
    return Dataset(InMemoryTable(pa.table({**texts, "label": labels})))


def texts_in(rows: Dataset) -> Iterator[str]:
    """The texts of rows in the own form, one column after the other."""
    for name in NAMES:
        if name in rows.column_names:
            yield from values(rows, name)


def unlabelled_texts(texts: Sequence[Sequence[str]], label: Any) -> Dataset:
    """Columns of texts in the own form of a task, all rows with the same label."""
    columns = dict(zip(NAMES, texts, strict=False))
    return Dataset.from_dict({**columns, "label": [label] * len(texts[0])})


def tokenize_texts(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Any]:
    """The inputs, `length` and `labels` of rows in the own form."""
    texts = [list(values(rows, name)) for name in NAMES if name in rows.column_names]
    columns = dict(tokenizer(*texts, truncation=True, max_length=max_length))
    columns["length"] = [len(ids) for ids in columns["input_ids"]]
    columns["labels"] = list(rows["label"])
    return columns


def column_problems(splits: Mapping[str, Dataset], columns: Sequence[Column]) -> list[str]:
    """Why columns of text cannot be read as text; see `text_problems`."""
    return [
        problem
        for split, rows in splits.items()
        for column in columns
        if column.is_text
        for problem in text_problems(split, rows, column)
    ]


def _filled(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts, the missing ones empty."""
    typed = texts.cast(pa.string()) if pa.types.is_null(texts.type) else texts
    return pc.fill_null(typed, "")


def text_problems(split: str, rows: Dataset, column: Column) -> list[str]:
    """Why the column cannot be read as text: its type, or the rows without text."""
    kind = getattr(rows.features[column.name], "dtype", "no plain value")
    if kind in ("string", "large_string") and _all_numbers(values(rows, column.name)):
        kind = "numbers"
    if kind not in ("string", "large_string", "null"):
        return [
            f"split {split!r}, column {column.name!r} holds {kind}, not text; set "
            f"{column.key} to a column of text"
        ]
    if column.role == "optional text":
        return []
    empty = np.flatnonzero(empty_rows(rows, [column]))
    if not len(empty):
        return []
    return [
        f"{where(rows, empty.tolist())}: column {column.name!r} has no text in {len(empty)} of "
        f"{len(rows)} rows; fill them, or leave them out: dataset.drop_empty=true"
    ]


def _all_numbers(texts: Iterator[str | None]) -> bool:
    """Whether all texts but missing ones are numbers, as in a column of ids or scores."""
    found = (text for text in texts if text is not None)
    first = next(found, None)
    return first is not None and is_number(first) and all(map(is_number, found))
