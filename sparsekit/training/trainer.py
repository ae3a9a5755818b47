"""The trainer: transformers' own, with a recipe that acts at each step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer

from sparsekit.data.collator import Collator
from sparsekit.errors import UserError
from sparsekit.models.first_token import only_first_token
from sparsekit.models.pruning import sparsity
from sparsekit.modifiers.loss_mean import LossMean
from sparsekit.oneshot.calibration import draw
from sparsekit.recipe.recipe import Recipe
from sparsekit.training.arguments import SparseTrainingArguments, matmul_precision
from sparsekit.training.callbacks import RecipeCallback
from sparsekit.training.cpu.acceleration import cpu_acceleration
from sparsekit.training.cpu.adamw import RowAdamW, steps_by_row
from sparsekit.training.cpu.sparse_linear import SparseLinears
from sparsekit.training.samplers import lengths_in_memory, order_by_epoch


class SparseTrainer(Trainer):
    """A Trainer whose learning rate, weight decay, loss and masks come from a recipe.

    The recipe must be attached to `model` already. Its epoch is `num_epochs` times the share of
    steps that are done, so a run shortened by `max_steps` passes through every window.
    """

    args: SparseTrainingArguments
    model: nn.Module

    def __init__(
        self, recipe: Recipe, model: nn.Module, args: SparseTrainingArguments, **options: Any
    ) -> None:
        super().__init__(model=model, args=args, **options)
        self.recipe = recipe
        # The loss is a mean over the batch: otherwise gradients accumulated over N batches would
        # be N times too large.
        self.loss_is_scaled_for_ga = False
        self._task_loss = LossMean()
        self._rows_seen = 0
        recipe.use_rows(self._draw)
        skip_zeros = self.args.sparse_products_problem() is None
        self._sparse_linears = SparseLinears(model, recipe, skip_zeros)
        self._steps = RecipeCallback(recipe, self._sparse_linears)
        self.add_callback(self._steps)
        if self.optimizer is None and steps_by_row(self.args, model, recipe):
            _, settings = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer_cls_and_kwargs = RowAdamW, settings

    def _draw(self, count: int, seed: int, multiple: int) -> Iterator[dict[str, Tensor]]:
        """Training rows as batches for the task's loss; see `oneshot.calibration.draw`."""
        collate = cast(Collator, self.data_collator)
        for batch in draw(self.train_dataset, collate, count, self.args.seed + seed, multiple):
            task = {name: batch[name] for name in batch if not name.startswith("teacher_")}
            yield self._prepare_inputs(task)

    def _first_token_suffices(self) -> bool:
        return self.model.training and not self.recipe.reads_all_tokens

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches in an order that a resumed run repeats."""
        loader: DataLoader[Any] = super().get_train_dataloader()
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        budget = self.args.tokens_per_batch
        if len(loader) == 0:
            raise UserError(
                "training.dataloader_drop_last=true leaves no batch: there are "
                f"{self.num_examples(loader)} training rows, fewer than the "
                f"{self.args.train_batch_size} of one batch; set it to false, or a smaller "
                "training.per_device_train_batch_size"
            )
        return order_by_epoch(loader, seed, lambda: int(self.state.epoch or 0), budget)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        loader: DataLoader[Any] = super().get_eval_dataloader(eval_dataset)
        lengths_in_memory(loader)
        return loader

    def create_optimizer(self, *args: Any, **options: Any) -> torch.optim.Optimizer:
        # Parameters that a recipe freezes now may be trained later, so the optimizer needs them.
        frozen = [p for p in self.model.parameters() if not p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **options)
        for parameter in frozen:
            parameter.requires_grad_(False)
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        self._steps.weight_decays = self._steps.weight_decays or decays
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """The recipe's learning rate where it sets one, otherwise the arguments' scheduler."""
        steps_per_epoch = num_training_steps / self.recipe.num_epochs
        if not self.recipe.sets_lr:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            base = self.args.learning_rate

            def factor(step: int) -> float:
                lr = self.recipe.lr(step / steps_per_epoch, steps_per_epoch)
                return 1.0 if lr is None else lr / base

            self.lr_scheduler = LambdaLR(
                optimizer or cast(torch.optim.Optimizer, self.optimizer), factor
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        teacher = {name: inputs[name] for name in inputs if name.startswith("teacher_")}
        inputs = {name: value for name, value in inputs.items() if name not in teacher}
        # Counted before: with label smoothing the Trainer pops the labels from its inputs.
        rows = len(inputs["labels"])
        # Without the number of items: with it the Trainer would take the loss for a part of a sum,
        # and multiply this process's mean by the number of processes.
        loss, outputs = super().compute_loss(model, inputs, True)
        if model.training:
            self._rows_seen += rows
            self._task_loss.add(loss)
            loss = self.recipe.loss(loss, teacher, outputs)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Add the parts of the loss and the modifiers' values to the Trainer's log."""
        if "loss" in logs:
            logs = {**logs, **self._recipe_log()}
        if "train_samples_per_second" in logs:
            # The Trainer multiplies steps by the batch size, which varies with tokens_per_batch.
            # Changed in place: `train` returns the dict that it logs.
            rows = self._rows_seen * self.args.world_size
            logs["train_samples_per_second"] = round(rows / logs["train_runtime"], 3)
        super().log(logs, *args, **options)

    def _recipe_log(self) -> dict[str, float]:
        task_loss = self._task_loss.take()
        task = {} if task_loss is None else {"task_loss": task_loss}
        return {**task, **self.recipe.logs(), "sparsity": sparsity(self.model)["overall"]}

    def train(self, *args: Any, **options: Any) -> Any:
        self._rows_seen = 0
        with contextlib.ExitStack() as stack:
            stack.enter_context(cpu_acceleration(self, self.recipe, self._sparse_linears))
            stack.enter_context(matmul_precision(self.args.matmul_precision))
            if isinstance(self.model, PreTrainedModel):
                hook = only_first_token(self.model, self._first_token_suffices)
                stack.callback(hook.remove if hook else lambda: None)
            return super().train(*args, **options)

    @property
    def sparse_layers(self) -> int:
        """How many layers multiplied no zeros in training."""
        return self._sparse_linears.sparse_layers
