"""The difference in parts of the validation rows: by class, by length, by a column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsekit.errors import UserError
from sparsekit.gate.scoring import Indices, Scoring
from sparsekit.gate.statistics import FEWEST

# Parts of equally many rows by length.
LENGTHS = 3


def by_class(scoring: Scoring) -> dict[str, Indices]:
    """The units of each class; empty for tasks without one class a row."""
    if scoring.correct is None:
        return {}
    labels = np.asarray(scoring.rows.labels)
    return by_value([scoring.rows.label_names[label] for label in labels])


def by_length(scoring: Scoring) -> dict[str, Indices]:
    """The units in up to three parts by the number of tokens that the compressed model reads."""
    encodings = scoring.rows.encodings
    lengths = np.array([sum(len(encodings[row]) for row in unit) for unit in scoring.units])
    edges = np.unique(np.quantile(lengths, np.arange(1, LENGTHS) / LENGTHS, method="lower"))
    parts = np.searchsorted(edges, lengths, side="left")
    found = {}
    for part in np.unique(parts):
        units = np.flatnonzero(parts == part)
        found[f"{lengths[units].min()} to {lengths[units].max()} tokens"] = units
    return found


def by_value(values: Sequence[str]) -> dict[str, Indices]:
    """The units of each value, in alphabetical order."""
    array = np.array(values, dtype=object)
    return {value: np.flatnonzero(array == value) for value in sorted(set(values))}


def describe(
    scoring: Scoring,
    metric: str,
    slices: dict[str, Indices],
    max_drop: float,
    alpha: float,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """A line for each slice: its rows, the difference, and the interval.

    The interval is None where the slice cannot be tested, as with too few units to bootstrap, and
    so is the difference where the metric is undefined on them, such as Pearson's r of equal labels.
    Intervals are not corrected for the number of slices: one may miss its difference by chance.
    """
    lines = []
    for name, units in slices.items():
        line: dict[str, Any] = {"slice": name, "rows": len(units)}
        line |= dict.fromkeys(("difference", "lower", "upper"))
        lines.append(line)
        try:
            line["difference"] = scoring.difference(metric, units)
        except UserError:
            continue
        if scoring.correct is None and len(units) < FEWEST:
            continue
        try:
            found = scoring.compare(metric, units, max_drop, alpha, resamples, seed)
        except UserError:  # such as no change in any resample
            continue
        line |= {"difference": found.difference, "lower": found.lower, "upper": found.upper}
    return lines
