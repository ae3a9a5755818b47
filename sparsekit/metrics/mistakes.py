"""The most confident mistakes of a classifier, which are often wrong labels in the data."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparsekit.metrics.calibration import softmax
from sparsekit.metrics.spreadsheet import no_formula

MOST = 20


@dataclass(frozen=True)
class Mistake:
    """A row whose answer is wrong.

    row: its index in the split, from 0, as in `evaluation/<split>.parquet`.
    score: the probability of the answer.
    """

    row: int
    label: str
    answer: str
    score: float


def confident_mistakes(
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    class_names: Sequence[str],
    most: int = MOST,
) -> list[Mistake]:
    """The `most` wrong answers of the highest probability, the surest first.

    logits: [rows, classes], labels: [rows].
    """
    probabilities = softmax(logits)
    answers, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(answers != labels)
    surest = wrong[np.argsort(-scores[wrong], kind="stable")][:most]
    return [
        Mistake(int(row), class_names[labels[row]], class_names[answers[row]], float(scores[row]))
        for row in surest
    ]


def write_mistakes(
    target: Path, mistakes: Sequence[Mistake], texts: Mapping[str, Sequence[str]]
) -> None:
    """Write a csv file with the columns row, label, answer, score, and those of `texts`.

    texts: the texts of the mistakes by column. A cell that a spreadsheet would run as a formula
    begins with an apostrophe.
    """
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "label", "answer", "score", *texts])
        for index, found in enumerate(mistakes):
            cells = [found.label, found.answer, *(column[index] for column in texts.values())]
            label, answer, *read = map(no_formula, cells)
            writer.writerow([found.row, label, answer, f"{found.score:.4f}", *read])
