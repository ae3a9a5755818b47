"""What a run's scores show: classes never recognized, a student far below its teacher, advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sparsekit.metrics.report import write_report
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.remarks import remarks

NAMES = ["delivery", "payment", "refund"]


def run_of(tmp_path: Path, config: dict[str, Any], predicted: list[int]) -> RunFolder:
    (tmp_path / "evaluation").mkdir()
    labels = np.arange(len(predicted)) % 3
    write_report(tmp_path / "evaluation", "validation", np.eye(3)[predicted], labels, NAMES)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return RunFolder(tmp_path)


def summary(student: float, teacher: float | None, sparsity: float = 0.8) -> dict[str, Any]:
    known: dict[str, Any] = {
        "metrics": {"validation": {"accuracy": student}},
        "sparsity": {"overall": sparsity},
    }
    return known if teacher is None else {**known, "teacher": {"validation": {"accuracy": teacher}}}


def test_a_student_far_below_its_teacher_is_said_with_what_to_try(tmp_path: Path) -> None:
    config = {"recipe": {"num_epochs": 3}, "student": {"sparsity": 0.8}}
    run = run_of(tmp_path, config, [0, 1, 2])
    gap, advice = remarks(run, summary(0.628, 0.908))
    assert gap == (
        "validation: the student's accuracy is 28.0 points below its teacher's, 62.80% against "
        "90.80%."
    )
    assert advice == (
        "What may help: more epochs (recipe.num_epochs=9), less sparsity (student.sparsity=0.7)."
    )
    assert remarks(run, summary(0.87, 0.908)) == []
    assert remarks(run, summary(0.5, None)) == []


@pytest.mark.parametrize("hardness", [1.0, 0.5])
def test_a_class_that_is_never_recognized_gets_class_weights(
    tmp_path: Path, hardness: float
) -> None:
    config = {
        "recipe": {"num_epochs": 30, "distill_hardness": hardness, "final_sparsity": 0.9},
        "training": {"max_steps": 20, "class_weights": None},
    }
    run = run_of(tmp_path, config, [0, 1, 1, 0, 1, 1])
    missed, advice = remarks(run, summary(0.66, 0.68, sparsity=0.9))
    assert missed == (
        "validation: class 'refund' is never recognized: recall 0 of 2 rows, 2 of them predicted "
        "as 'payment'."
    )
    mixed = " recipe.distill_hardness=0.5" if hardness == 1 else ""
    assert advice == (
        "What may help: more steps (training.max_steps=80), less sparsity "
        f"(recipe.final_sparsity=0.8), class weights (training.class_weights=balanced{mixed})."
    )


def test_advice_without_a_config_or_with_what_is_set_already(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"training": {"class_weights": "balanced"}}, [0, 1, 1])
    assert remarks(run, summary(0.6, None, sparsity=0.0))[-1] == "What may help: more epochs."
    run.config_file.unlink()
    advice = remarks(run, summary(0.6, None))[-1]
    assert advice.startswith("What may help: more epochs, less sparsity, class weights")


def test_nobody_counts_the_classes_of_a_stream(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"dataset": {"streaming": True}}, [0, 1, 1])
    assert remarks(run, summary(0.6, None, sparsity=0.0))[-1] == "What may help: more epochs."


def test_a_metric_that_is_no_share_or_better_when_lower_is_left_out(tmp_path: Path) -> None:
    run = run_of(tmp_path, {}, [0, 1, 2])
    ours = {"metrics": {"validation": {"log_loss": 0.2, "hamming_loss": 0.2}}}
    theirs = {"teacher": {"validation": {"log_loss": 0.9, "hamming_loss": 0.9}}}
    assert remarks(run, {**ours, **theirs}) == []


@pytest.mark.parametrize(
    ("metrics", "named"),
    [
        ({"f1": 0.0, "precision": 0.0}, "f1 is 0.00%"),
        ({"mse": 0.01, "pearson": 0.031}, "pearson is 3.10%"),
        ({"spearman": -0.2}, "spearman is -20.00%"),
        ({"mse": 0.01, "of_a_user": 0.0, "expected_calibration_error": 0.0}, None),
        ({"exact_match": 0.06, "f1": 0.2}, None),
    ],
)
def test_scores_of_nothing_are_said(
    tmp_path: Path, metrics: dict[str, float], named: str | None
) -> None:
    run = RunFolder(tmp_path)
    run.config_file.write_text("recipe: {num_epochs: 2}")
    found = remarks(run, {"metrics": {"validation": metrics}})
    assert found == (
        []
        if named is None
        else [
            f"validation: {named}, so next to nothing was learnt.",
            "What may help: more epochs (recipe.num_epochs=6).",
        ]
    )
