"""A text of the user's own data, to try a model with. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sparsekit.errors import printable
from sparsekit.runs.folder import RunFolder

# Rows among which a short one is looked for, and the length of what is shown of it.
ROWS = 50
LONGEST = 80
# Where there is no data to take one from.
TEXTS = ["Write a text of your own here.", "And a second one here."]


def example_texts(run: RunFolder | None, count: int) -> list[str]:
    """`count` texts of one validation row, a short one, or others where there is none."""
    columns = ["text", "text_pair"][:count]
    rows = [] if run is None else _rows(run.evaluation("validation"), columns)
    usable = [row for row in rows if all(map(_usable, row))]
    if not usable:
        return TEXTS[:count]
    shortest = min(usable, key=lambda row: sum(map(len, row)))
    return [_cut(text) for text in shortest]


def reads_pairs(run: RunFolder | None) -> bool:
    """Whether the model reads two texts a row, as its evaluation did; else as its config says.

    A task may read both columns of a data set as single texts, or need a pair whatever they are.
    """
    if run is None:
        return False
    file = run.evaluation("validation")
    if seconds := _rows(file, ["text_pair"]):
        return any(text is not None for (text,) in seconds)
    return not _rows(file, ["text"]) and len(run.text_columns) == 2


def _rows(file: Path, columns: list[str]) -> list[tuple[str, ...]]:
    try:
        opened = pq.ParquetFile(file)
        batch = next(opened.iter_batches(batch_size=ROWS, columns=columns), None)
    except (OSError, pa.ArrowException):
        return []
    if batch is None or batch.schema.names != columns:
        return []
    return list(zip(*(batch[name].to_pylist() for name in columns), strict=True))


def _usable(text: object) -> bool:
    """Whether the text can be typed as an argument: one line that does not look like an option."""
    if not isinstance(text, str) or text != printable(text):
        return False
    return len(text.strip()) >= 3 and not text.startswith("-") and "\n" not in text


def _cut(text: str) -> str:
    """
    >>> len(_cut("word " * 100)), _cut(" short ")
    (79, 'short')
    """
    text = text.strip()
    return (
        text if len(text) <= LONGEST else text[: LONGEST + 1].rpartition(" ")[0] or text[:LONGEST]
    )
