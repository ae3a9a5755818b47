"""The mean of what several teachers say about the same rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsekit.errors import UserError
from sparsekit.runtime.tasks.base import Output


def mean_of_rows(each: Sequence[Output]) -> Output:
    """The mean of outputs of the same shapes; raises UserError that names what differs."""
    counts = sorted({len(output) for output in each})
    if len(counts) > 1:
        raise _no_mean(f"they read {' and '.join(map(str, counts))} rows")
    found = []
    for number, rows in enumerate(zip(*each, strict=True)):
        shapes = sorted({np.shape(row) for row in rows})
        if len(shapes) > 1:
            raise _no_mean(
                f"in row {number} (from 0) they have the shapes {' and '.join(map(str, shapes))}"
            )
        found.append(np.stack(rows).mean(axis=0))
    return found


def mean_of_words(each: Sequence[Output]) -> Output:
    """The mean over those that have a word, of the first words of each row [words, labels].

    Truncation leaves each tokenizer another number of them.
    """
    found = []
    for rows in zip(*each, strict=True):
        total = np.zeros_like(max(rows, key=len))
        count = np.zeros((len(total), 1), total.dtype)
        for row in rows:
            total[: len(row)] += row
            count[: len(row)] += 1
        found.append(total / count)
    return found


def _no_mean(problem: str) -> UserError:
    return UserError(
        f"the teachers' outputs have no mean: {problem}; choose teachers with one tokenizer and "
        "outputs of one size, or name a single teacher"
    )
