"""Matthews correlation, for any number of labels (Gorodkin 2004, as scikit-learn computes it)."""

from typing import Any

import datasets
import evaluate
import numpy as np


class MatthewsCorrelation(evaluate.Metric):  # type: ignore[misc]
    """`num_labels` is accepted, as by every metric here, and changes nothing."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description="The correlation of predictions and labels, from -1 to 1; 0 is chance.",
            citation="",
            inputs_description="predictions, references: label ids [rows]",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any, num_labels: int = 2) -> dict[str, float]:
        labels = np.union1d(predictions, references)
        predicted = np.asarray(predictions)[:, None] == labels  # [rows, labels], one-hot
        true = np.asarray(references)[:, None] == labels

        def covariance(a: Any, b: Any) -> float:
            return float(len(a) * np.sum(a & b) - np.sum(a.sum(axis=0) * b.sum(axis=0)))

        spread = covariance(predicted, predicted) * covariance(true, true)
        value = covariance(predicted, true) / np.sqrt(spread) if spread else 0.0
        return {"matthews_correlation": float(value)}
