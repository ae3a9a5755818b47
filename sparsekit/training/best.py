"""Which checkpoint may become the model: one of the recipe's last stage.

Before that stage a model is denser than the recipe asks, or its quantizers are off, so a better
score there says nothing about what is exported.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from sparsekit.recipe.recipe import Recipe
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.checkpoints import step_of

LOG = logging.getLogger(__name__)

# Epochs are sums of floats.
_EPSILON = 1e-9


class LastStage(TrainerCallback):
    """The recipe's last stage: target sparsity reached and quantizers on until training ends."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def reached(self, step: int, max_steps: int) -> bool:
        """Whether optimizer step `step`, counted from 1, was made in the last stage."""
        epoch = (step - 1) / max_steps * self._recipe.num_epochs
        return epoch >= self._recipe.final_from - _EPSILON

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Forget a best score that a resumed run cannot use.

        It is of an earlier stage, which version 0.1 recorded, or of a step whose checkpoint is not
        there, while training is to end with a checkpoint.
        """
        step = state.best_global_step
        if step is None:
            return
        lost = args.load_best_model_at_end and best_step(state) != step
        if lost or not self.reached(step, state.max_steps):
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Say which model training ends with."""
        if state.global_step < state.max_steps and control.should_training_stop:
            LOG.info(
                "training stopped early, after step %d of %d: %s did not improve any more",
                state.global_step,
                state.max_steps,
                args.metric_for_best_model,
            )
        if not args.load_best_model_at_end:
            return
        step = best_step(state)
        if step is None:
            LOG.warning(
                "no evaluated checkpoint belongs to the recipe's last stage, which begins at epoch "
                "%g: the model is that of the last step; evaluate and save more often",
                self._recipe.final_from,
            )
            return
        LOG.info(
            "the model is that of step %d, the best checkpoint of the recipe's last stage: %s %.4f",
            step,
            args.metric_for_best_model,
            state.best_metric,
        )


def best_step(state: TrainerState) -> int | None:
    """The step of the best checkpoint; None where there is none."""
    folder = state.best_model_checkpoint
    return None if folder is None else step_of(Path(folder))


def competes(args: TrainingArguments, control: TrainerControl) -> bool:
    """Whether the evaluation of a step counts: training can end only with a saved checkpoint."""
    best_is_saved = args.save_strategy == SaveStrategy.BEST
    return control.should_save or best_is_saved or not args.load_best_model_at_end


def best_problems(
    args: SparseTrainingArguments, recipe: Recipe, metric_names: Sequence[str] | None
) -> list[str]:
    """Why the best checkpoint could not be chosen as `args` ask.

    metric_names: the names of what is computed at each evaluation; None: the caller's own metrics,
        unknown here.
    """
    if args.metric_for_best_model is None:
        return []
    found = []
    if recipe.final_from >= recipe.num_epochs - _EPSILON:
        found.append(
            f"the recipe reaches its last stage at epoch {recipe.final_from:g}, where training "
            f"ends, so training.metric_for_best_model={args.metric_for_best_model} could compare "
            "no checkpoint; end pruning earlier (recipe.pruning_end_epoch), or leave out "
            "training.load_best_model_at_end and training.early_stopping_patience"
        )
    name = args.metric_for_best_model.removeprefix("eval_")
    known = None if metric_names is None else ["loss", *metric_names]
    if known is not None and name not in known:
        found.append(
            f"training.metric_for_best_model={name} is not computed; choose one of "
            f"{', '.join(known)}, or add it: "
            f"dataset.metrics=[{','.join([*(metric_names or ()), name])}]"
        )
    return found
