"""F1: of label 1 when there are two labels, else the mean over the labels (macro)."""

from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt


def f1(predictions: npt.NDArray[Any], references: npt.NDArray[Any], label: int) -> float:
    """2 TP / (2 TP + FP + FN) of one label; 0 where it has no true positive."""
    true_positives = np.sum((predictions == label) & (references == label))
    occurrences = np.sum(predictions == label) + np.sum(references == label)
    return float(2 * true_positives / occurrences) if occurrences else 0.0


class F1(evaluate.Metric):  # type: ignore[misc]
    """Macro F1 counts the labels that occur in predictions or references, as scikit-learn does."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description="F1 of label 1 (two labels) or macro F1 (more).",
            citation="",
            inputs_description="predictions, references: label ids [rows]; num_labels",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any, num_labels: int = 2) -> dict[str, float]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        labels = [1] if num_labels == 2 else np.union1d(predictions, references)
        return {"f1": float(np.mean([f1(predictions, references, label) for label in labels]))}
