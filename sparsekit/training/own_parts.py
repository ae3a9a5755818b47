"""The parts that a user of a Trainer makes instead of leaving them to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsekit.recipe.recipe import Recipe
from sparsekit.tasks.base import Task
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.class_weights import KEY, SMOOTHING


@dataclass(frozen=True, kw_only=True)
class OwnParts:
    """Which parts the user gave; they are used as they are, or refused, never replaced.

    optimizer: an optimizer or its class.
    scheduler: a scheduler of the learning rate.
    loss: a function that computes the task's loss.
    """

    optimizer: bool
    scheduler: bool
    loss: bool

    @classmethod
    def among(cls, options: Mapping[str, Any]) -> OwnParts:
        """Those among the options of a Trainer."""
        optimizer, scheduler = options.get("optimizers") or (None, None)
        named = options.get("optimizer_cls_and_kwargs")
        return cls(
            optimizer=optimizer is not None or named is not None,
            scheduler=scheduler is not None,
            loss=options.get("compute_loss_func") is not None,
        )

    def problems(self, args: SparseTrainingArguments, recipe: Recipe, task: Task) -> list[str]:
        """What the user gave that would have no effect, or leave something else without one."""
        return [*self._loss_problems(args, recipe, task), *self._scheduler_problems(recipe)]

    def _scheduler_problems(self, recipe: Recipe) -> list[str]:
        if not self.scheduler or not recipe.sets_lr:
            return []
        return [
            "optimizers: the recipe sets the learning rate, and so does the scheduler; pass "
            "(optimizer, None), or take the learning rate out of the recipe"
        ]

    def _loss_problems(
        self, args: SparseTrainingArguments, recipe: Recipe, task: Task
    ) -> list[str]:
        if not self.loss:
            return []
        given = {KEY: args.class_weights, SMOOTHING: args.label_smoothing_factor or None}
        found = [
            f"{key}={value} and compute_loss_func both decide the task's loss; leave one out"
            for key, value in given.items()
            if value is not None
        ]
        if task.learns_from_teacher:
            found.append(
                f"compute_loss_func has no effect: {task.name} learns from its teacher alone; "
                "leave it out"
            )
        elif name := recipe.replaces_task_loss:
            found.append(
                f"compute_loss_func has no effect: recipe.modifiers.{name} leaves the task's loss "
                "no weight; set its hardness below 1, or leave compute_loss_func out"
            )
        return found
