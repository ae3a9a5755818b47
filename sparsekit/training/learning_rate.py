"""The recipe's learning rate as a scheduler of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sparsekit.errors import UserError
from sparsekit.recipe.recipe import Recipe


class RecipeRate(LRScheduler):
    """Gives every parameter group the rate that `rate` has for a step; None: the group's own.

    torch's LambdaLR multiplies a group's own rate, which a checkpoint brings along: a run resumed
    with an optimizer of another rate would train at a multiple of the recipe's.
    """

    def __init__(self, optimizer: Optimizer, rate: Callable[[int], float | None]) -> None:
        self._rate = rate
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """The rate of each group at the current step."""
        lr = self._rate(self.last_epoch)
        return [base if lr is None else lr for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """All but the function, which belongs to the recipe."""
        return {name: value for name, value in super().state_dict().items() if name != "_rate"}


def recipe_scheduler(recipe: Recipe, optimizer: Optimizer, steps_per_epoch: float) -> RecipeRate:
    """Gives every parameter group the recipe's rate, whatever rate it was made with.

    Before the recipe sets one, a group keeps its own. Raises UserError for a group of rate 0, which
    would be trained all at once.
    """
    bases = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    if 0.0 in bases:
        raise UserError(
            f"optimizers: parameter group {bases.index(0.0)} has the learning rate 0, which the "
            "recipe's would replace; freeze its parameters with requires_grad_(False), or give it "
            "any other"
        )
    return RecipeRate(optimizer, lambda step: recipe.lr(step / steps_per_epoch, steps_per_epoch))
