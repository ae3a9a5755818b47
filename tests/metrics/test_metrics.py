"""Metrics: by hand, against scikit-learn, without a network, without torch at import."""

import socket
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from sparsekit import metrics
from sparsekit.errors import UserError
from sparsekit.metrics.calibration import expected_calibration_error, softmax
from sparsekit.metrics.table import ALIASES, METRICS, as_text, higher_is_better

SIX = np.array([[2.0, 1], [0, 1], [3, 4], [1, 0], [0, 2], [5, 1]])  # argmax 0 1 1 0 1 0
TRUE = np.array([0, 1, 0, 0, 1, 1])
LOWER = {
    "brier_score",
    "expected_calibration_error",
    "hamming_loss",
    "log_loss",
    "zero_one_loss",
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a metric opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def scores(classes: int, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Random logits that are right more often than not, and their labels."""
    generator = np.random.default_rng(classes)
    labels = generator.integers(classes, size=rows)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 0.7
    return logits, labels


def possible(classes: int) -> list[str]:
    """The metrics that are defined for so many classes."""
    return [
        name
        for name in metrics.known()
        if METRICS[name].function != "top_k_accuracy_score" or METRICS[name].options["k"] < classes
    ]


def test_a_folder_that_cannot_be_written_is_named_before_training(monkeypatch):
    """Not after the first epoch, by the first evaluation."""
    metrics.check_cache()
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", "/dev/null/modules")
    with pytest.raises(UserError, match=r"/dev/null/modules cannot be written.*set HF_HOME"):
        metrics.check_cache()


def test_by_hand():
    values = metrics.compute(["accuracy", "f1", "matthews_correlation"], SIX, TRUE)
    assert values["accuracy"] == pytest.approx(4 / 6)
    assert values["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert values["matthews_correlation"] == pytest.approx((2 * 2 - 1 * 1) / 9)
    assert values["combined_score"] == pytest.approx((4 / 6 + 2 / 3 + 1 / 3) / 3)


def test_one_metric_has_no_combined_score():
    assert metrics.compute(["accuracy"], SIX, TRUE) == {"accuracy": pytest.approx(4 / 6)}


@pytest.mark.parametrize("classes", [2, 3, 5, 12])
def test_against_scikit_learn(classes):
    logits, labels = scores(classes)
    values = metrics.compute(possible(classes), logits, labels)
    predictions, probabilities = logits.argmax(axis=1), softmax(logits)
    average = "binary" if classes == 2 else "macro"
    curves = probabilities[:, 1] if classes == 2 else probabilities
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predictions),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, predictions),
        "matthews_correlation": sklearn_metrics.matthews_corrcoef(labels, predictions),
        "cohen_kappa": sklearn_metrics.cohen_kappa_score(labels, predictions),
        "cohen_kappa_quadratic": sklearn_metrics.cohen_kappa_score(
            labels, predictions, weights="quadratic"
        ),
        "roc_auc": sklearn_metrics.roc_auc_score(labels, curves, multi_class="ovr"),
        "roc_auc_ovr": sklearn_metrics.roc_auc_score(labels, curves, multi_class="ovr"),
        "roc_auc_ovr_weighted": sklearn_metrics.roc_auc_score(
            labels, curves, multi_class="ovr", average="weighted"
        ),
        "average_precision": sklearn_metrics.average_precision_score(labels, curves),
        "log_loss": sklearn_metrics.log_loss(labels, probabilities),
        "zero_one_loss": np.mean(labels != predictions),
    }
    for name in ("f1", "precision", "recall", "jaccard"):
        function = getattr(sklearn_metrics, f"{name}_score")
        expected[name] = function(labels, predictions, average=average)
        for kind in ("macro", "micro", "weighted"):
            expected[f"{name}_{kind}"] = function(labels, predictions, average=kind)
    if classes > 2:
        top = sklearn_metrics.top_k_accuracy_score(labels, probabilities, k=2)
        expected["top_2_accuracy"] = top
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert set(values) == {*possible(classes), "combined_score"}
    higher = [value for name, value in values.items() if name in METRICS and name not in LOWER]
    assert values["combined_score"] == pytest.approx(np.mean(higher))


def test_macro_f1_ignores_labels_that_never_occur():
    logits = np.eye(4)[[0, 1, 1, 0]]
    labels = np.array([0, 1, 0, 0])
    expected = sklearn_metrics.f1_score(labels, logits.argmax(1), average="macro")
    assert metrics.compute(["f1"], logits, labels)["f1"] == pytest.approx(expected)


def test_curves_ignore_classes_without_rows():
    logits, labels = scores(4)
    kept = labels != 2
    logits, labels = logits[kept], labels[kept]
    each = [
        sklearn_metrics.roc_auc_score(labels == label, softmax(logits)[:, label])
        for label in (0, 1, 3)
    ]
    assert metrics.compute(["roc_auc"], logits, labels)["roc_auc"] == pytest.approx(np.mean(each))


@pytest.mark.parametrize(("weights", "power"), [("linear", 1), ("quadratic", 2)])
def test_weighted_kappa_counts_classes_without_rows(weights, power):
    """Two stars taken for four are two apart, also where no row has three."""
    labels, predictions = np.array([0, 1, 1, 3, 4, 0]), np.array([0, 3, 1, 3, 4, 1])
    distances = np.abs(np.arange(5)[:, None] - np.arange(5)) ** power
    observed = np.mean([distances[pair] for pair in zip(labels, predictions, strict=True)])
    expected = np.mean([[distances[label, other] for other in predictions] for label in labels])
    name = f"cohen_kappa_{weights}"
    found = metrics.compute([name], np.eye(5)[predictions], labels)[name]
    assert found == pytest.approx(1 - observed / expected)


def test_constant_predictions_have_no_correlation():
    logits = np.tile([1.0, 0.0], (6, 1))
    values = metrics.compute(["f1", "matthews"], logits, TRUE)
    assert values["f1"] == 0.0
    assert values["matthews_correlation"] == 0.0


@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "cohen_kappa"])
def test_a_metric_of_one_class_is_refused(name):
    logits = np.tile([1.0, 0.0], (3, 1))
    with pytest.raises(UserError, match=f"{name} is undefined for 3 rows with 1 of 2 classes"):
        metrics.compute([name], logits, np.zeros(3, dtype=int))


@pytest.mark.parametrize("name", metrics.known())
def test_every_metric_takes_classes_that_never_occur(name):
    """A validation split may lack a class, and a model may predict one that it lacks."""
    logits = np.eye(12)[[0, 1, 2, 0, 3]] * 3
    values = metrics.compute([name], logits, np.array([0, 1, 1, 2, 2]))
    assert list(values) == [name]
    assert np.isfinite(values[name])


@pytest.mark.parametrize("name", metrics.known())
def test_the_better_direction(name):
    """Right and sure beats wrong and sure, in the direction that the table gives."""
    labels = np.arange(24) % 12
    good, bad = np.eye(12)[labels] * 9, -np.eye(12)[labels] * 9
    best, worst = (metrics.compute([name], logits, labels)[name] for logits in (good, bad))
    assert (best > worst) == higher_is_better(name)
    assert higher_is_better(name) == (name not in LOWER)


def test_losses_do_not_enter_the_combined_score():
    values = metrics.compute(["accuracy", "f1", "log_loss", "ece"], SIX, TRUE)
    assert values["combined_score"] == pytest.approx((4 / 6 + 2 / 3) / 2)
    assert "combined_score" not in metrics.compute(["accuracy", "log_loss"], SIX, TRUE)
    assert higher_is_better("combined_score")


def test_calibration_error_by_hand():
    # Confidences 0.9 (right), 0.9 (wrong) and 0.6 (right): two bins.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    expected = (2 * abs(0.5 - 0.9) + abs(1 - 0.6)) / 3
    labels = np.array([0, 1, 1])
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)
    # One bin: the mean accuracy 2/3 against the mean confidence 0.8.
    assert expected_calibration_error(probabilities, labels, 1) == pytest.approx(0.8 - 2 / 3)


def test_a_calibrated_model_has_no_calibration_error():
    probabilities = np.tile([0.75, 0.25], (8, 1))
    labels = np.array([0, 0, 0, 1] * 2)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0)
    sure = np.eye(3)[[0, 1, 2]]
    assert expected_calibration_error(sure, np.array([0, 1, 2])) == pytest.approx(0)
    assert expected_calibration_error(sure, np.array([1, 2, 0])) == pytest.approx(1)


def test_probabilities_of_large_logits():
    assert softmax(np.array([[1000.0, 0], [-1000, -1000]])) == pytest.approx(
        np.array([[1, 0], [0.5, 0.5]])
    )


def test_values_as_they_are_printed():
    assert as_text("accuracy", 0.91234) == "91.23%"
    assert as_text("log_loss", 1.23456) == "1.2346"
    assert as_text("combined_score", 0.5) == "50.00%"


def test_aliases_name_metrics():
    assert set(ALIASES.values()) <= set(METRICS)
    values = metrics.compute(["mcc", "matthews"], SIX, TRUE)
    assert set(values) == {"matthews_correlation"}


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("F1", r"did you mean f1\? known: accuracy"),
        ("accuracy_score", r"did you mean accuracy\?"),
        ("roc_auc_score", r"did you mean roc_auc\?"),
        ("acc", r"did you mean accuracy\?"),
        ("perplexity", "known: accuracy"),
        ("calibration_error", r"did you mean expected_calibration_error\?"),
        ("bleu", "known: accuracy, average_precision, .*zero_one_loss"),
    ],
)
def test_an_unknown_name_is_refused_with_what_is_close(name, rest):
    with pytest.raises(UserError, match=f"'{name}' is not known; {rest}"):
        metrics.check(["accuracy", name])


def test_top_k_of_as_many_classes():
    with pytest.raises(UserError, match="top_3_accuracy is always 1 for 3 classes"):
        metrics.check_classes(["top_2_accuracy", "top_3_accuracy"], 3)
    metrics.check_classes(["top_2_accuracy", "accuracy"], 3)


def test_no_name():
    with pytest.raises(UserError, match=r"dataset\.metrics is empty"):
        metrics.compute([], SIX, TRUE)


def test_no_rows():
    with pytest.raises(UserError, match="at least one row"):
        metrics.compute(["accuracy"], SIX[:0], TRUE[:0])


def test_diverged_logits_are_no_prediction():
    logits = SIX.copy()
    logits[3, 1] = np.nan
    with pytest.raises(UserError, match="row 3 are not finite"):
        metrics.compute(["accuracy"], logits, TRUE)


def test_rows_must_match():
    with pytest.raises(ValueError, match="do not match"):
        metrics.compute(["accuracy"], SIX, TRUE[:-1])


def test_import_is_torch_free():
    code = """
import sys, sparsekit.metrics, sparsekit.metrics.table
sys.exit(bool({"torch", "sklearn", "evaluate"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
