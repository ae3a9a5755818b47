"""The metrics that can be named: what scikit-learn computes for each, and which way is better.

Imports neither scikit-learn nor torch, so that a name is checked, and runs are compared, at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# What a function of scikit-learn takes besides the labels [rows]:
#   classes       the predicted classes [rows]
#   scale         the same; the distance of two classes counts those between them, with rows or not
#   positive      the same; of two classes it scores class 1, of more the mean over all (macro)
#   one_vs_rest   the probability of each class against all others, class by class
#   probabilities the probabilities [rows, classes]
Inputs = Literal["classes", "scale", "positive", "one_vs_rest", "probabilities"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A function of `sklearn.metrics` and how to call it; `function` None: it is our own."""

    function: str | None
    inputs: Inputs
    options: Mapping[str, Any] = field(default_factory=dict)
    higher_is_better: bool = True


def _averages(name: str) -> dict[str, Metric]:
    """`precision`, `precision_macro`, `precision_micro` and `precision_weighted`."""
    function = f"{name}_score"
    # A class that is never predicted counts as 0, without a warning.
    plain = Metric(function=function, inputs="positive", options={"zero_division": 0.0})
    return {name: plain} | {
        f"{name}_{average}": Metric(
            function=function,
            inputs="classes",
            options={"zero_division": 0.0, "average": average},
        )
        for average in ("macro", "micro", "weighted")
    }


def _one_vs_rest(function: str, average: str) -> Metric:
    return Metric(function=function, inputs="one_vs_rest", options={"average": average})


def _loss(function: str | None, inputs: Inputs) -> Metric:
    return Metric(function=function, inputs=inputs, higher_is_better=False)


METRICS: dict[str, Metric] = {
    "accuracy": Metric(function="accuracy_score", inputs="classes"),
    "balanced_accuracy": Metric(function="balanced_accuracy_score", inputs="classes"),
    **_averages("f1"),
    **_averages("precision"),
    **_averages("recall"),
    **_averages("jaccard"),
    "matthews_correlation": Metric(function="matthews_corrcoef", inputs="classes"),
    "cohen_kappa": Metric(function="cohen_kappa_score", inputs="classes"),
    "cohen_kappa_linear": Metric(
        function="cohen_kappa_score", inputs="scale", options={"weights": "linear"}
    ),
    "cohen_kappa_quadratic": Metric(
        function="cohen_kappa_score", inputs="scale", options={"weights": "quadratic"}
    ),
    "roc_auc": _one_vs_rest("roc_auc_score", "macro"),
    "roc_auc_ovr": _one_vs_rest("roc_auc_score", "macro"),
    "roc_auc_ovr_weighted": _one_vs_rest("roc_auc_score", "weighted"),
    "average_precision": _one_vs_rest("average_precision_score", "macro"),
    "average_precision_weighted": _one_vs_rest("average_precision_score", "weighted"),
    **{
        f"top_{k}_accuracy": Metric(
            function="top_k_accuracy_score", inputs="probabilities", options={"k": k}
        )
        for k in (2, 3, 5, 10)
    },
    "log_loss": _loss("log_loss", "probabilities"),
    "brier_score": _loss("brier_score_loss", "probabilities"),
    "hamming_loss": _loss("hamming_loss", "classes"),
    "zero_one_loss": _loss("zero_one_loss", "classes"),
    "expected_calibration_error": _loss(None, "probabilities"),
}
# Other names of the same metrics: short ones, and those of scikit-learn and of the Hub.
ALIASES = {
    "matthews": "matthews_correlation",
    "matthews_corrcoef": "matthews_correlation",
    "mcc": "matthews_correlation",
    "ece": "expected_calibration_error",
    "brier_score_loss": "brier_score",
    # As classification reports name them.
    **{
        f"{average}_{name}": f"{name}_{average}"
        for name in ("f1", "precision", "recall", "jaccard")
        for average in ("macro", "micro", "weighted")
    },
}


# The values of these are not shares, so a percentage would be wrong.
_NO_SHARES = ("log_loss", "brier_score", "mse", "loss", "perplexity")
# The limits of other tasks' metrics, except those that share a name with one of classification.
_OTHER_LIMITS = {
    "exact_match": (0.0, 1.0),
    "neighbours": (0.0, 1.0),
    "pearson": (-1.0, 1.0),
    "spearman": (-1.0, 1.0),
}
# Errors of tasks other than classification.
_ERRORS = ("mse", "loss", "perplexity")


def is_share(name: str) -> bool:
    """Whether the metric is a share, which a percentage shows."""
    return name not in _NO_SHARES


def limits(name: str) -> tuple[float, float] | None:
    """The least and the greatest possible value of a metric; None where one of them is unknown.

    >>> limits("f1"), limits("mcc"), limits("log_loss"), limits("of_a_user")
    ((0.0, 1.0), (-1.0, 1.0), None, None)
    """
    canonical = ALIASES.get(name, name)
    if canonical not in METRICS or not is_share(canonical):
        return _OTHER_LIMITS.get(canonical)
    correlation = canonical.startswith(("cohen_kappa", "matthews"))
    return (-1.0 if correlation else 0.0), 1.0


def as_text(name: str, value: float) -> str:
    """The value of a metric for a table: a percentage, four decimals where it is not a share.

    >>> as_text("accuracy", 0.5), as_text("log_loss", 0.5)
    ('50.00%', '0.5000')
    """
    return f"{value:.2%}" if is_share(name) else f"{value:.4f}"


def higher_is_better(name: str) -> bool:
    """Whether a larger value of the metric is the better one.

    False for losses and errors alone. True for `combined_score`, the mean of metrics in which
    higher is better, and for names that are not sparsekit's, such as a user's own.

    >>> higher_is_better("f1_macro"), higher_is_better("log_loss"), higher_is_better("ece")
    (True, False, False)
    """
    metric = METRICS.get(ALIASES.get(name, name))
    return name not in _ERRORS if metric is None else metric.higher_is_better
