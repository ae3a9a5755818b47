"""Accuracy: the share of rows whose prediction is the label."""

from typing import Any

import datasets
import evaluate
import numpy as np


class Accuracy(evaluate.Metric):  # type: ignore[misc]
    """`num_labels` is accepted, as by every metric here, and changes nothing."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description="The share of rows whose prediction is the label.",
            citation="",
            inputs_description="predictions, references: label ids [rows]",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any, num_labels: int = 2) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}
