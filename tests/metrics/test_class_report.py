"""The report by classes: values by hand, undefined ones, sentences, the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sparsekit.metrics import report as reports
from sparsekit.metrics.confusion_plot import draw
from sparsekit.metrics.report import (
    class_report,
    confusions,
    read_report,
    unrecognized,
    worst_class,
    write_report,
)

NAMES = ["refund", "delivery", "other", "spam"]
# Rows of refund (3), delivery (2) and other (2); nothing is spam, and other is never predicted.
LABELS = np.array([0, 0, 0, 1, 1, 2, 2])
PREDICTED = [0, 0, 1, 1, 1, 1, 0]
LOGITS = np.eye(4)[PREDICTED] * 2


@pytest.fixture
def report() -> dict:
    return class_report(LOGITS, LABELS, NAMES)


def test_by_hand(report: dict) -> None:
    assert report["rows"] == 7
    assert report["classes"]["refund"] == {
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "support": 3,
    }
    assert report["classes"]["delivery"]["precision"] == pytest.approx(2 / 4)
    assert report["confusion"] == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    sure = np.exp(2) / (np.exp(2) + 3)
    assert report["expected_calibration_error"] == pytest.approx(abs(4 / 7 - sure))


def test_what_is_undefined_is_null(report: dict) -> None:
    never_predicted = {"precision": None, "recall": 0.0, "f1": 0.0, "support": 2}
    without_rows = {"precision": None, "recall": None, "f1": None, "support": 0}
    assert report["classes"]["other"] == never_predicted
    assert report["classes"]["spam"] == without_rows


def test_the_worst_class_and_the_errors(report: dict) -> None:
    assert worst_class(report) == ("other", 0.0)
    assert confusions(report, 2) == [("refund", "delivery", 1), ("other", "refund", 1)]
    assert worst_class(class_report(LOGITS, PREDICTED, NAMES)) == ("refund", 1.0)


def test_a_class_of_recall_0_is_named(report: dict) -> None:
    (sentence,) = unrecognized(report)
    assert sentence == (
        "class 'other' is never recognized: recall 0 of 2 rows, 1 of them predicted as 'refund'"
    )
    assert unrecognized(class_report(LOGITS, np.array(PREDICTED), NAMES)) == []


def test_it_is_written_and_read(tmp_path: Path) -> None:
    write_report(tmp_path, "test", LOGITS, LABELS, ["müde", *NAMES[1:]])
    assert read_report(tmp_path, "test") == class_report(LOGITS, LABELS, ["müde", *NAMES[1:]])
    assert "müde" in (tmp_path / "test_report.json").read_bytes().decode("utf-8")
    assert (tmp_path / "test_confusion.png").read_bytes().startswith(b"\x89PNG")
    assert read_report(tmp_path, "validation") is None


def test_without_matplotlib_there_is_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "find_spec", lambda name: None)
    write_report(tmp_path, "test", LOGITS, LABELS, NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["test_report.json"]
    assert json.loads((tmp_path / "test_report.json").read_text())["rows"] == 7


@pytest.mark.parametrize("classes", [2, 60])
def test_names_of_any_length_and_kind_are_drawn(tmp_path: Path, classes: int) -> None:
    names = [f"${i}$ a_b^c \\frac <i> {'long ' * 20}" for i in range(classes)]
    labels = np.arange(200) % classes
    logits = np.random.default_rng(0).normal(size=(200, classes))
    draw(class_report(logits, labels, names), "validation", tmp_path / "it.png")
    assert (tmp_path / "it.png").stat().st_size > 5000
