"""`teacher=self`: the student as it starts, or as it was before anything was removed of it."""

from __future__ import annotations

from pathlib import Path

from sparsekit.models.loading import LoadedModel
from sparsekit.pipeline.plan import Plan
from sparsekit.pipeline.shrinking import whole_student


def own_teacher(plan: Plan, student: LoadedModel) -> list[Path]:
    """The folder of the model that `student` was before it was shrunk or pruned.

    No folder: the student in memory, of which nothing was removed, or whose head is new: another
    load would draw another one.
    """
    pruned = bool(plan.student.sparsity) and not student.missing
    return whole_student(plan) if pruned or plan.student.shrinking is not None else []
