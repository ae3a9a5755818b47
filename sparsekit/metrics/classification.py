"""A metric module for `evaluate`: classification metrics of scikit-learn, from logits.

Loaded by its path, `evaluate.load("<folder>/classification.py")`, which needs no network; a name
such as `evaluate.load("accuracy")` would fetch code from the Hub.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
from sklearn import metrics as sklearn_metrics

from sparsekit.metrics.calibration import expected_calibration_error, softmax
from sparsekit.metrics.table import METRICS, Metric


class Classification(evaluate.Metric):  # type: ignore[misc]
    """`compute(predictions=logits, references=labels, names=[...])` gives a value for each name."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description="Classification metrics of scikit-learn, and the calibration error.",
            citation="",
            inputs_description="predictions: logits [rows, classes]; references: labels [rows]; "
            f"names: some of {', '.join(METRICS)}",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: Any, references: Any, names: Sequence[str]) -> dict[str, float]:
        logits, labels = np.asarray(predictions), np.asarray(references)
        with warnings.catch_warnings():
            # scikit-learn warns of classes without rows; what is undefined comes back as nan, which
            # the caller refuses.
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            return {name: float(_score(METRICS[name], logits, labels)) for name in names}


def _score(metric: Metric, logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Any:
    probabilities = softmax(logits)
    if metric.function is None:
        return expected_calibration_error(probabilities, labels)
    function = getattr(sklearn_metrics, metric.function)
    classes = logits.shape[1]
    match metric.inputs:
        case "classes":
            return function(labels, logits.argmax(axis=1), **metric.options)
        case "scale":
            predicted = logits.argmax(axis=1)
            return function(labels, predicted, labels=np.arange(classes), **metric.options)
        case "positive":
            average = "binary" if classes == 2 else "macro"
            return function(labels, logits.argmax(axis=1), average=average, **metric.options)
        case "one_vs_rest":
            if len(np.unique(labels)) < 2:
                return np.nan
            return function(*_one_vs_rest(labels, probabilities), **metric.options)
        case "probabilities":
            return function(labels, probabilities, labels=np.arange(classes), **metric.options)


def _one_vs_rest(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Whether each row is of each class, and its probability; both [rows] for two classes.

    A class without rows in `labels` has no curve, and is left out of the mean, as scikit-learn
    leaves it out of macro F1.
    """
    if probabilities.shape[1] == 2:
        return labels == 1, probabilities[:, 1]
    occurring = np.unique(labels)
    return labels[:, None] == occurring, probabilities[:, occurring]
