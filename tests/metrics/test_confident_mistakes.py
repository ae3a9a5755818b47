"""The most confident mistakes: which they are, their order, and what a spreadsheet opens."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from sparsekit.metrics.mistakes import MOST, Mistake, confident_mistakes, write_mistakes

NAMES = ["refund", "delivery"]


def test_only_wrong_rows_the_surest_first() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 9.0]])
    found = confident_mistakes(logits, np.array([1, 0, 1, 1]), NAMES)
    assert [mistake.row for mistake in found] == [2, 0, 1]
    assert found[0].label == "delivery"
    assert found[0].answer == "refund"
    assert found[0].score == pytest.approx(1 / (1 + np.exp(-3)))
    assert confident_mistakes(logits, logits.argmax(axis=1), NAMES) == []


def test_twenty_of_many_and_ties_by_row() -> None:
    logits = np.tile([[1.0, 0.0]], (50, 1))
    found = confident_mistakes(logits, np.ones(50, dtype=int), NAMES)
    assert [mistake.row for mistake in found] == list(range(MOST)) == list(range(20))


def test_the_file_has_texts_of_any_kind_and_no_formulas(tmp_path: Path) -> None:
    texts = ["müde", '=cmd|"x"!A1', "two\nlines, and a comma"]
    mistakes = [Mistake(row, "-0.5", "-delivery", 0.98765) for row in (2, 0, 1)]
    target = tmp_path / "validation_mistakes.csv"
    write_mistakes(target, mistakes, {"text": texts, "text_pair": ["c", "a", "b"]})
    with target.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["row", "label", "answer", "score", "text", "text_pair"]
    assert lines[1] == ["2", "-0.5", "'-delivery", "0.9877", "müde", "c"]
    assert lines[2][4] == """'=cmd|"x"!A1"""
    assert lines[3][4] == "two\nlines, and a comma"
