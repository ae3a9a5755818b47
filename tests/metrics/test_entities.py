"""Entities as the CoNLL evaluation finds and scores them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sparsekit.metrics.entities import Counts, Span, counts, report, scores, spans


def score(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    each = map(counts, true, predicted)
    return scores(Counts(*map(sum, zip(*each, strict=True))))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-a I-a O B-a", [(0, 2, "a"), (3, 4, "a")]),
        ("B-a B-a", [(0, 1, "a"), (1, 2, "a")]),
        ("I-a I-a I-b", [(0, 2, "a"), (2, 3, "b")]),
        ("O I-a B-a I-a", [(1, 2, "a"), (2, 4, "a")]),
        ("S-a B-a E-a E-a", [(0, 1, "a"), (1, 3, "a"), (3, 4, "a")]),
        ("U-a B-a I-a L-a I-a", [(0, 1, "a"), (1, 4, "a"), (4, 5, "a")]),
        ("O O", []),
        ("", []),
        ("B-creative-work I-creative-work", [(0, 2, "creative-work")]),
    ],
)
def test_where_entities_begin_and_end(tags: str, expected: list[tuple[int, int, str]]) -> None:
    assert spans(tags.split()) == [Span(*each) for each in expected]


def test_boundaries_and_type_must_be_right() -> None:
    """The example of the CoNLL-2000 evaluation's documentation, by hand."""
    true = [["O", "O", "B-m", "I-m", "I-m", "O"], ["B-p", "I-p", "O"]]
    predicted = [["O", "O", "O", "B-m", "I-m", "O"], ["B-p", "I-p", "O"]]
    assert score(true, predicted) == {
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "accuracy": 7 / 9,
    }
    assert report(true, predicted) == {
        "m": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
        "p": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1},
    }


def test_precision_is_of_predicted_and_recall_of_true_entities() -> None:
    true, predicted = [["B-a", "O", "O"]], [["B-a", "O", "B-a"]]
    expected = {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)}
    assert score(true, predicted) == {**expected, "accuracy": pytest.approx(2 / 3)}
    assert report(true, predicted) == {"a": {**expected, "support": 1}}


def test_what_is_undefined_counts_as_0() -> None:
    assert score([["O"]], [["O"]]) == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 1}
    assert report([["O"]], [["B-a"]])["a"]["precision"] == 0
