"""The recipe's learning rate as a scheduler of torch."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sparsekit.errors import UserError
from sparsekit.recipe.recipe import Recipe


def recipe_scheduler(recipe: Recipe, optimizer: Optimizer, steps_per_epoch: float) -> LambdaLR:
    """Gives every parameter group the recipe's rate, whatever rate it was made with.

    Before the recipe sets one, a group keeps its own. Raises UserError for a group of rate 0.
    """

    def factor(base: float, step: int) -> float:
        lr = recipe.lr(step / steps_per_epoch, steps_per_epoch)
        return 1.0 if lr is None else lr / base

    bases = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    if 0.0 in bases:
        raise UserError(
            f"optimizers: parameter group {bases.index(0.0)} has the learning rate 0, which cannot "
            "be scaled to the recipe's; give it any other"
        )
    factors: list[Callable[[int], float]] = [functools.partial(factor, base) for base in bases]
    return LambdaLR(optimizer, factors)
