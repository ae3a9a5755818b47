"""Per-class scores of a classifier, and its confusion matrix."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsekit.metrics.calibration import BINS, expected_calibration_error, softmax


def write_report(
    folder: Path,
    split: str,
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    class_names: Sequence[str],
) -> None:
    """Write `folder/<split>_report.json`, and where matplotlib is installed the confusion matrix
    as `folder/<split>_confusion.png`.
    """
    report = class_report(logits, labels, class_names)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (folder / f"{split}_report.json").write_text(text + "\n", encoding="utf-8")
    if find_spec("matplotlib"):
        from sparsekit.metrics.confusion_plot import draw

        draw(report, f"{split}, {len(labels):,} rows", folder / f"{split}_confusion.png")


def class_report(
    logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], class_names: Sequence[str]
) -> dict[str, Any]:
    """Precision, recall, F1 and support of each class, the confusion matrix, the calibration error.

    logits: [rows, classes], labels: [rows]. In `confusion` row i counts the rows of class i, column
    j what was predicted. Undefined values are None: the precision of a class that is
    never predicted, the recall of a class without rows.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    indices = np.arange(len(class_names))
    predictions = logits.argmax(axis=1)
    columns = precision_recall_fscore_support(
        labels, predictions, labels=indices, zero_division=np.nan
    )
    names = ("precision", "recall", "f1", "support")
    classes = [
        dict(zip(names, (*map(_defined, values[:3]), int(values[3])), strict=True))
        for values in zip(*columns, strict=True)
    ]
    return {
        "rows": len(labels),
        "classes": dict(zip(class_names, classes, strict=True)),
        "confusion": confusion_matrix(labels, predictions, labels=indices).tolist(),
        "expected_calibration_error": expected_calibration_error(softmax(logits), labels),
        "calibration_bins": BINS,
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def read_report(folder: Path, split: str) -> dict[str, Any] | None:
    """The report that `write_report` left in `folder`; None where there is none, as in old runs."""
    file = folder / f"{split}_report.json"
    if not file.is_file():
        return None
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return report


def worst_class(report: dict[str, Any]) -> tuple[str, float] | None:
    """The class of the lowest F1, and that F1; None where no class has rows."""
    scores = {
        name: float(scores["f1"])
        for name, scores in report["classes"].items()
        if scores["support"] > 0
    }
    return min(scores.items(), key=lambda item: item[1]) if scores else None


def report_scalars(report: dict[str, Any]) -> dict[str, float | str]:
    """The report's single values: calibration error, and the worst class with its F1."""
    values: dict[str, float | str] = {
        "expected_calibration_error": report["expected_calibration_error"]
    }
    if worst := worst_class(report):
        values |= {"worst_class": worst[0], "worst_class_f1": worst[1]}
    return values


def unrecognized(report: dict[str, Any]) -> list[str]:
    """A sentence for each class of whose rows none is recognized (recall 0).

    It also says what most of them were taken for.
    """
    names = list(report["classes"])
    sentences = []
    for row, (name, scores) in enumerate(report["classes"].items()):
        if scores["recall"] == 0:
            counts = report["confusion"][row]
            instead = max(range(len(counts)), key=counts.__getitem__)
            sentences.append(
                f"class {name!r} is never recognized: recall 0 of {scores['support']} rows, "
                f"{counts[instead]} of them predicted as {names[instead]!r}"
            )
    return sentences


def confusions(report: dict[str, Any], most: int) -> list[tuple[str, str, int]]:
    """The most frequent errors: true class, predicted class, rows."""
    names = list(report["classes"])
    errors = [
        (names[true], names[predicted], count)
        for true, counts in enumerate(report["confusion"])
        for predicted, count in enumerate(counts)
        if true != predicted and count
    ]
    return sorted(errors, key=lambda error: -error[2])[:most]
