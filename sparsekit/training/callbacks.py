"""The callback that applies a recipe at each step, and checks its masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sparsekit.errors import UserError
from sparsekit.recipe.recipe import Recipe
from sparsekit.training.cpu.sparse_linear import SparseLinears


class RecipeCallback(TrainerCallback):
    """Updates the recipe before each step, and checks after each epoch that no mask was broken."""

    def __init__(self, recipe: Recipe, sparse_linears: SparseLinears) -> None:
        self.recipe = recipe
        self._sparse_linears = sparse_linears
        # Of each parameter group, from the arguments: used where the recipe sets none. None: the
        # optimizer, such as Rprop, has no weight decay.
        self.weight_decays: list[float | None] = []

    def _update(self, state: TrainerState) -> float:
        epoch = state.global_step / state.max_steps * self.recipe.num_epochs
        self.recipe.update(epoch)
        return epoch

    def _follow(self, state: TrainerState) -> None:
        self._sparse_linears.follow(state.max_steps / self.recipe.num_epochs)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # Before the first step, so that setting up masks does not count as part of it.
        self._update(state)
        self._follow(state)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **now: Any
    ) -> None:
        weight_decay = self.recipe.weight_decay(self._update(state))
        self._follow(state)
        for group, own in zip(now["optimizer"].param_groups, self.weight_decays, strict=True):
            if own is not None:
                group["weight_decay"] = own if weight_decay is None else weight_decay

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.recipe.before_step()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.recipe.constrain()

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **now: Any,
    ) -> None:
        weights = dict(now["model"].named_parameters())
        assert_masks(self.recipe, weights, f"after step {state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._update(state)


def assert_masks(recipe: Recipe, weights: Mapping[str, Tensor], when: str) -> None:
    """Raise RuntimeError naming the layers if `weights` break a mask, which is a bug in sparsekit.

    Raises UserError if it is because training diverged: some weights are not finite.
    """
    violations = recipe.violations(weights)
    if violations and not all(torch.isfinite(weight).all() for weight in weights.values()):
        raise UserError(
            f"training diverged: {when} some weights are not finite; lower recipe.init_lr, or "
            "train in fp32 (training.precision=fp32)"
        )
    if violations:
        raise RuntimeError(f"a mask was broken {when}: " + "; ".join(violations))
