"""Weights of classes in the task's loss, so that rare ones are learned too."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from sparsekit.errors import ConfigError
from sparsekit.recipe.recipe import Recipe
from sparsekit.tasks.base import Task

log = logging.getLogger(__name__)

KEY = "training.class_weights"
SMOOTHING = "training.label_smoothing_factor"
BALANCED = "balanced"
ClassWeights = str | list[float] | dict[str, float]


def weight_problems(choice: ClassWeights | None) -> list[str]:
    """What is wrong with `choice` whatever the classes are."""
    if choice is None or choice == BALANCED:
        return []
    if isinstance(choice, str):
        return [
            f"`class_weights={choice}`: set {BALANCED}, a list of weights, or {{CLASS: WEIGHT}}"
        ]
    values = list(choice.values()) if isinstance(choice, Mapping) else choice
    if any(value < 0 or not math.isfinite(value) for value in values) or not any(values):
        return [f"`class_weights={choice}`: a weight is 0 or more, and one at least is more than 0"]
    return []


def loss_problems(args: Any, task: Task) -> list[str]:
    """Arguments that change the task's loss in a way that it has no meaning for."""
    problems = []
    if args.class_weights is not None and not task.weighs_classes:
        problems.append(f"{KEY} weighs rows by their class, and {task.name} has none; leave it out")
    if args.label_smoothing_factor and not task.smooths_labels:
        problems.append(
            f"{SMOOTHING}={args.label_smoothing_factor} moves probability from the true class to "
            f"the others, and the loss of {task.name} has none to move; leave it out"
        )
    return problems


def without_effect(args: Any, recipe: Recipe) -> list[str]:
    """Arguments of the task's loss that are given although `recipe` leaves it no weight."""
    name = recipe.replaces_task_loss
    given = {
        KEY: args.class_weights,
        SMOOTHING: args.label_smoothing_factor or None,
    }
    return [
        f"{key}={value} has no effect: recipe.modifiers.{name} leaves the task's loss no weight; "
        "set its hardness below 1 (recipe.distill_hardness=0.5 in our own recipes)"
        for key, value in given.items()
        if name is not None and value is not None
    ]


def class_weights(
    choice: ClassWeights, labels: Sequence[int], class_names: Sequence[str]
) -> list[float]:
    """The weight of each class.

    Args:
        choice: `balanced`: rows / (classes * rows of the class), as scikit-learn has it, so that
            all classes with rows weigh the same and the mean over the rows is 1; or a weight for
            each class, in their order or by name. Classes that a mapping does not name weigh 1.
        labels: the class of each training row.
        class_names: the names of the classes in their order.

    Raises:
        ConfigError: the number of weights is not that of the classes, or a class does not exist.
    """
    if isinstance(choice, Mapping):
        by_name = {str(name): float(weight) for name, weight in choice.items()}
        if unknown := [name for name in by_name if name not in class_names]:
            raise ConfigError(
                [
                    f"{KEY} names {', '.join(map(repr, unknown))}; the classes are "
                    f"{', '.join(class_names)}"
                ]
            )
        return [by_name.get(name, 1.0) for name in class_names]
    if isinstance(choice, list):
        if len(choice) != len(class_names):
            raise ConfigError(
                [
                    f"{KEY} has {len(choice)} weights for {len(class_names)} classes: give one "
                    f"for each of {', '.join(class_names)}, in this order"
                ]
            )
        return [float(value) for value in choice]
    counts = np.bincount(np.asarray(labels), minlength=len(class_names))
    classes = np.count_nonzero(counts)
    # A class without rows never uses its weight.
    return [float(len(labels) / (classes * count)) if count else 1.0 for count in counts]


def weighted_task_loss(
    choice: ClassWeights,
    rows: Dataset,
    class_names: Sequence[str],
    label_smoothing: float,
) -> Callable[..., Tensor]:
    """`weighted_loss` with the weights that `choice` means for the training rows; logs them.

    Raises ConfigError as `class_weights` does.
    """
    weights = class_weights(choice, rows["labels"], class_names)
    each = zip(class_names, weights, strict=True)
    log.info("class weights: %s", ", ".join(f"{name} {weight:.3g}" for name, weight in each))
    return weighted_loss(weights, label_smoothing)


def weighted_loss(weights: Sequence[float], label_smoothing: float) -> Callable[..., Tensor]:
    """Cross entropy in which each row counts with the weight of its class.

    It is the mean over the rows of weight * loss: divided by their number, not by the sum of their
    weights, so that the loss of a row does not depend on the others in its batch. The function
    takes a model's outputs with `logits` [rows, classes], and labels [rows].
    """
    values = torch.tensor(weights)

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        logits = outputs["logits"].float()
        each = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
        return (values.to(each.device)[labels] * each).mean()

    return loss
