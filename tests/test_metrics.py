"""The metric modules: by hand, against scikit-learn, without network, without torch at import."""

import socket
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from sparsekit import metrics
from sparsekit.errors import UserError

SIX = np.array([[2.0, 1], [0, 1], [3, 4], [1, 0], [0, 2], [5, 1]])  # argmax 0 1 1 0 1 0
TRUE = np.array([0, 1, 0, 0, 1, 1])


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a metric opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def test_by_hand():
    values = metrics.compute(["accuracy", "f1", "matthews_correlation"], SIX, TRUE)
    assert values["accuracy"] == pytest.approx(4 / 6)
    assert values["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert values["matthews_correlation"] == pytest.approx((2 * 2 - 1 * 1) / 9)
    assert values["combined_score"] == pytest.approx((4 / 6 + 2 / 3 + 1 / 3) / 3)


def test_one_metric_has_no_combined_score():
    assert metrics.compute(["accuracy"], SIX, TRUE) == {"accuracy": pytest.approx(4 / 6)}


@pytest.mark.parametrize("num_labels", [2, 3, 5])
def test_against_scikit_learn(num_labels):
    generator = np.random.default_rng(num_labels)
    labels = generator.integers(num_labels, size=200)
    logits = generator.normal(size=(200, num_labels))
    logits[np.arange(200), labels] += 0.7
    values = metrics.compute(metrics.known(), logits, labels)
    predictions = logits.argmax(axis=1)
    average = "binary" if num_labels == 2 else "macro"
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predictions),
        "f1": sklearn_metrics.f1_score(labels, predictions, average=average),
        "matthews_correlation": sklearn_metrics.matthews_corrcoef(labels, predictions),
    }
    expected["combined_score"] = np.mean(list(expected.values()))
    assert values == pytest.approx(expected)


def test_macro_f1_ignores_labels_that_never_occur():
    logits = np.eye(4)[[0, 1, 1, 0]]
    labels = np.array([0, 1, 0, 0])
    expected = sklearn_metrics.f1_score(labels, logits.argmax(1), average="macro")
    assert metrics.compute(["f1"], logits, labels)["f1"] == pytest.approx(expected)


def test_constant_predictions_have_no_correlation():
    logits = np.tile([1.0, 0.0], (6, 1))
    values = metrics.compute(["f1", "matthews"], logits, TRUE)
    assert values["f1"] == 0.0
    assert values["matthews_correlation"] == 0.0


def test_known_are_the_three():
    assert metrics.known() == ["accuracy", "f1", "matthews_correlation"]


def test_unknown_name_lists_the_known():
    with pytest.raises(UserError, match=r"'bleu' is not known; known: accuracy, f1, matthews"):
        metrics.compute(["accuracy", "bleu"], SIX, TRUE)


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
    code = "import sys, sparsekit.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
