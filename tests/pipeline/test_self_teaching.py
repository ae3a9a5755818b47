"""`teacher=self`: of a student that is pruned as it is loaded, and of one whose head is new."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import hub_seed
import pytest
from launching import local, planned, run_here

from sparsekit.errors import UserError
from sparsekit.models.loading import LoadedModel
from sparsekit.pipeline.plan import Plan
from sparsekit.pipeline.self_teaching import own_teacher
from sparsekit.pipeline.shrinking import load_student
from sparsekit.pipeline.stages import load_data
from sparsekit.runs.folder import RunFolder

PRUNED = "student.sparsity=0.8"


def loaded(student: str, csv_files: dict[str, str], *words: str) -> tuple[Plan, LoadedModel]:
    """The plan of a run with `teacher=self`, and its student."""
    plan = planned(*local(csv_files, student), "tracking=none", "teacher=self", *words)
    return plan, load_student(plan, load_data(plan)[1])


@pytest.mark.parametrize(
    "kind",
    [
        "masked_lm",
        pytest.param("streamed", marks=pytest.mark.slow),
        pytest.param("hidden states", marks=pytest.mark.slow),
    ],
)
def test_a_pruned_student_learns_what_it_answered_before(
    csv_files: dict[str, str], teacher_folder: str, seed_folder: Path, tmp_path: Path, kind: str
) -> None:
    """As if its dense checkpoint were named as the teacher."""
    dense, words = teacher_folder, [PRUNED, "recipe=pruned90", "export=none"]
    if kind == "masked_lm":
        dense = str(seed_folder / "models" / hub_seed.MASKED_LM_TWIN)
        words.append("task=masked_lm")
    if kind == "streamed":
        words += ["dataset.streaming=true", "dataset.shuffle_buffer=20"]
    if kind == "hidden states":
        words += ["recipe=from_dense", "recipe.hidden_gain=1", "recipe.distill_hardness=0"]
    found: dict[str, Any] = {}
    for teacher in (["teacher=self"], ["teacher=checkpoint", f"teacher.checkpoint={dense}"]):
        folder = tmp_path / str(len(found))
        summary = run_here(folder, *local(csv_files, dense), *words, *teacher)
        found[teacher[0]] = (summary["teacher"], RunFolder(folder).weights.read_bytes())
    assert found["teacher=self"] == found["teacher=checkpoint"]


def test_the_teacher_is_what_was_loaded_where_nothing_is_removed(
    csv_files: dict[str, str], teacher_folder: str
) -> None:
    half = "student.shrink.neurons=0.5"
    for removed in ([], ["student.sparsity=0"], [PRUNED], [half], [PRUNED, half]):
        teachers = own_teacher(*loaded(teacher_folder, csv_files, "recipe=pruned90", *removed))
        whole = removed in ([], ["student.sparsity=0"])
        assert teachers == ([] if whole else [Path(teacher_folder)])


def test_a_new_head_teaches_nothing(
    csv_files: dict[str, str], student_folder: str, tmp_path: Path
) -> None:
    problem = (
        r"teacher=self would teach noise: .* lacks the weights .*classifier\.weight.*fine-tune it "
        r"first \(teacher=none.*student\.checkpoint=RUN/model"
    )
    with pytest.raises(UserError, match=problem):
        run_here(tmp_path, *local(csv_files, student_folder), "teacher=self")
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "model").exists()


@pytest.mark.parametrize("removed", [[], ["student.sparsity=0.95"]])
def test_a_new_head_beside_labels_is_warned_of(
    csv_files: dict[str, str],
    student_folder: str,
    caplog: pytest.LogCaptureFixture,
    removed: list[str],
) -> None:
    """The teacher stays the student in memory: another load would draw another head."""
    for hardness, warned in ((0.5, True), (0, False)):
        words = [*removed, "recipe=pruned90", f"recipe.distill_hardness={hardness}"]
        plan, student = loaded(student_folder, csv_files, *words)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert own_teacher(plan, student) == []
        assert ("teacher=self would teach noise" in caplog.text) == warned
