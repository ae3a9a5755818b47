"""The answers of a deployment to the rows of a table, in memory that does not grow with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sparsekit.errors import UserError
from sparsekit.runtime.deployment import Deployment
from sparsekit.runtime.encoder import WrongText, is_utf8
from sparsekit.runtime.tables.base import NewValues, Part, Table
from sparsekit.runtime.tables.open import open_output, open_table
from sparsekit.runtime.tasks.base import Row

# Rows that are read at once, and sorted by length.
PART = 1024


def predict_table(
    deployment: Deployment,
    source: Path,
    output: Path | None,
    choose: Callable[[Sequence[str]], list[str]],
    prefix: str,
    progress: Callable[[int, int], None],
) -> None:
    """Write the table `source` with the answers as further columns.

    Args:
        deployment: what answers.
        source: a csv, jsonl or parquet file, compressed or not.
        output: a file of the same format; None: stdout.
        choose: from the names of all columns, those of the texts.
        prefix: begins the names of the new columns.
        progress: called with the rows that are done, and those of them without a text.

    Raises UserError that names the line.
    """
    with open_table(source) as table:
        columns = choose(table.columns)
        example = _example(deployment, len(columns), prefix)
        _check_names(source, table, list(example), prefix)
        done = empty = 0
        with open_output(source, table, output) as file, table.writer(file, example) as writer:
            for part in table.parts(PART):
                answers = _answers(deployment, source, part, columns, prefix)
                writer.write(part, answers)
                done, empty = done + len(part), empty + answers.count(None)
                progress(done, empty)


def _example(deployment: Deployment, texts: int, prefix: str) -> dict[str, Any]:
    """The new values of a row of any text: their names, and what a column of each must hold."""
    row: Row = ("text", "text" if texts == 2 else None)
    [answer] = deployment.answers([row], deployment.encode([row]))
    return {prefix + name: value for name, value in answer.items()}


def _check_names(source: Path, table: Table, names: Sequence[str], prefix: str) -> None:
    if known := [name for name in names if name in table.columns]:
        raise UserError(
            f"{source} has a column {known[0]} already; choose another --prefix than {prefix!r}"
        )


def _answers(
    deployment: Deployment, source: Path, part: Part, columns: Sequence[str], prefix: str
) -> list[NewValues]:
    """The new values of each row; None of rows whose text is empty."""
    texts = [_texts(source, part, name) for name in columns]
    pairs: Sequence[str | None] = texts[1] if len(texts) == 2 else [None] * len(part)
    rows: dict[int, Row] = {
        row: (text, pair)
        for row, (text, pair) in enumerate(zip(texts[0], pairs, strict=True))
        if text.strip() and (pair is None or pair.strip() or deployment.task.second_may_be_empty)
    }
    found: list[NewValues] = [None] * len(part)
    if rows:
        given = list(rows.values())
        try:
            answers = deployment.answers(given, deployment.encode(given))
        except WrongText as error:
            raise UserError(f"{source}, {part.where(list(rows)[error.row])}: {error}") from error
        for row, answer in zip(rows, answers, strict=True):
            found[row] = {prefix + name: value for name, value in answer.items()}
    return found


def _texts(source: Path, part: Part, column: str) -> list[str]:
    """The texts of a column; "" where a cell is empty."""
    return [
        _text(value, f"{source}, {part.where(row)}, column {column}")
        for row, value in enumerate(part.values(column))
    ]


def _text(value: Any, where: str) -> str:
    """A cell as text: words that a list holds are joined by spaces, numbers are written out."""
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = " ".join(value)
    # pandas writes a missing cell as NaN.
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}, holds {str(value)[:60]!r}, which is not text; write a text")
    text = str(value)
    if not is_utf8(text):
        raise UserError(f"{where}, has half of a surrogate pair, {text[:60]!r}; write UTF-8")
    return text
