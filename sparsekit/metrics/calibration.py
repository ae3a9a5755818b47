"""How far a classifier's confidence is from its accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 15


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The probabilities [rows, classes] of logits [rows, classes], in float64."""
    wide = logits.astype(np.float64)
    exponentials = np.exp(wide - wide.max(axis=1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def expected_calibration_error(
    probabilities: npt.NDArray[Any], labels: npt.NDArray[Any], bins: int = BINS
) -> float:
    """The expected calibration error (ECE), from 0 (calibrated) to 1.

    Rows are put into `bins` bins of equal width by their confidence, the largest probability, each
    bin open below and closed above. The error is the mean over the rows of the difference between
    their bin's accuracy and its mean confidence: sum over bins of (rows in the bin / rows) *
    abs(accuracy - confidence). Naeini et al. 2015; with 15 bins as in Guo et al. 2017, "On
    Calibration of Modern Neural Networks", equation 3.

    probabilities: [rows, classes], labels: [rows].
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    upper_edges = np.linspace(0, 1, bins + 1)[1:-1]
    indices = np.searchsorted(upper_edges, confidence, side="left")
    # Summed over a bin: its rows times (accuracy - confidence).
    differences = np.bincount(indices, weights=correct - confidence, minlength=bins)
    return float(np.abs(differences).sum() / len(labels))
