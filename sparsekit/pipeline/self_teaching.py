"""`teacher=self`: the student as it starts, or as it was before anything was removed of it."""

from __future__ import annotations

import logging
from pathlib import Path

from sparsekit.errors import UserError
from sparsekit.models.loading import LoadedModel, contradiction
from sparsekit.pipeline.plan import Plan
from sparsekit.pipeline.shrinking import whole_student

log = logging.getLogger(__name__)


def own_teacher(plan: Plan, student: LoadedModel) -> list[Path]:
    """The folder of the model that `student` was before it was shrunk or pruned.

    No folder: the student in memory, of which nothing was removed, or whose head is new: another
    load would draw another one. Raises UserError where the outputs of a new head would be all that
    there is to learn, and where the task reads the model otherwise than it was trained.
    """
    if student.missing and plan.recipe.uses_teacher("logits"):
        _check_head(plan, student)
    [folder] = whole_student(plan)
    if problem := contradiction(folder, plan.task, "teacher=self"):
        raise UserError(problem)
    pruned = bool(plan.student.sparsity) and not student.missing
    return [folder] if pruned or plan.student.shrinking is not None else []


def _check_head(plan: Plan, student: LoadedModel) -> None:
    """Raise UserError where the recipe learns from the teacher alone; else log a warning."""
    [source] = whole_student(plan)
    problem = (
        f"teacher=self would teach noise: {source} lacks the weights "
        f"{', '.join(sorted(student.missing)[:4])}, so they are random; fine-tune it first "
        "(teacher=none, and recipe=dense where it is dense), and set student.checkpoint=RUN/model; "
        "or choose another teacher"
    )
    if plan.recipe.replaces_task_loss:
        raise UserError(problem)
    log.warning("%s", problem)
