"""The trainer of the launcher: that of a task, with a recipe that acts at each step."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
)
from transformers.trainer_utils import TrainOutput

from sparsekit.data.collator import Collator
from sparsekit.data.labels import label_names
from sparsekit.errors import UserError, first_line
from sparsekit.models.first_token import only_first_token
from sparsekit.models.pruning import sparsity
from sparsekit.models.quantizers import separate_quantizers
from sparsekit.oneshot.calibration import draw
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.tasks.base import Task
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.best import LastStage, best_step, competes
from sparsekit.training.callbacks import RecipeCallback
from sparsekit.training.class_weights import weighted_task_loss
from sparsekit.training.cpu.acceleration import cpu_acceleration
from sparsekit.training.cpu.adamw import RowAdamW, steps_by_row
from sparsekit.training.cpu.precision import matmul_precision
from sparsekit.training.cpu.sparse_linear import SparseLinears
from sparsekit.training.learning_rate import recipe_scheduler
from sparsekit.training.own_parts import OwnParts
from sparsekit.training.processes import all_trainable
from sparsekit.training.record import record_model
from sparsekit.training.resume import resumed_step
from sparsekit.training.saved_masks import load_masks, save_masks
from sparsekit.training.stream import StreamedRows
from sparsekit.training.task_trainer import TaskTrainer


class RecipeTrainer(TaskTrainer):
    """A trainer whose schedule, masks, quantizers and loss come from a recipe.

    The caller keeps the run folder, its config, tracking and summary; `SparseTrainer` does it by
    itself. The recipe's epoch is `num_epochs` times the share of steps that are done, so a run
    shortened by `max_steps` passes through every window. What fits together is checked before:
    by `Plan`, and by `Given` for a SparseTrainer.

    Args:
        model: a model of transformers with the task's head; it is changed in place.
        recipe: what acts on it.
        run: where the model and the logits of evaluations are written.
        task: what the model is trained for.
        args: the training arguments.
        labelled_rows: the rows of train_dataset whose labels mean something, on which modifiers
            measure gradients; None: all. A teacher alone labels the others.
        options: further options of `TaskTrainer`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        recipe: Recipe,
        run: RunFolder,
        task: Task,
        *,
        args: SparseTrainingArguments,
        labelled_rows: Dataset | None = None,
        **options: Any,
    ) -> None:
        self.recipe, self.run, self._labelled_rows = recipe, run, labelled_rows
        self._own = OwnParts.among(options)
        recipe.use_task(task)
        before = {id(parameter) for parameter in model.parameters()}
        with self._naming():
            recipe.attach(model)
        # Such as the matrices that distillation of hidden states learns.
        self._added = {n: p for n, p in model.named_parameters() if id(p) not in before}
        super().__init__(model, task, args=args, **options)
        self._trained: dict[str, Any] = {}
        # What the summary has of the saved model: train, sparsity, quantization.
        self.results: dict[str, Any] = {}
        self._weigh_classes()
        recipe.use_rows(self._draw)
        self._follow_steps(model)
        self._choose_optimizer(model)

    def _weigh_classes(self) -> None:
        """Let rows count in the task's loss with the weights of their classes, if there are any."""
        choice, smoothing = self.args.class_weights, self.args.label_smoothing_factor
        if choice is None:
            return
        with self._naming():
            names = label_names(cast(PreTrainedModel, self.model).config)
            rows = self._measured_rows
            self.compute_loss_func = weighted_task_loss(choice, rows, names, smoothing)

    def _follow_steps(self, model: PreTrainedModel) -> None:
        """Let the recipe act at each step, and end training where the arguments say so."""
        skip_zeros = self.args.sparse_products_problem() is None
        self._sparse_linears = SparseLinears(model, self.recipe, skip_zeros)
        self._steps = RecipeCallback(self.recipe, self._sparse_linears)
        self.add_callback(self._steps)
        self._last_stage = LastStage(self.recipe)
        self.add_callback(self._last_stage)
        if (patience := self.args.early_stopping_patience) is not None:
            threshold = self.args.early_stopping_threshold
            self.add_callback(EarlyStoppingCallback(patience, threshold))

    def _choose_optimizer(self, model: PreTrainedModel) -> None:
        """Take the optimizer that is faster on a CPU, unless the user gave one."""
        if not self._own.optimizer and steps_by_row(self.args, model, self.recipe):
            _, settings = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer_cls_and_kwargs = RowAdamW, settings

    def _naming(self) -> contextlib.AbstractContextManager[None]:
        """Let errors name what this user sets: arguments, or the launcher's config keys."""
        return contextlib.nullcontext()

    def _draw(self, count: int, seed: int, multiple: int) -> Iterator[dict[str, Tensor]]:
        """Training rows as batches for the task's loss; see `oneshot.calibration.draw`."""
        collate = cast(Collator, self.data_collator)
        for batch in draw(self._measured_rows, collate, count, self.args.seed + seed, multiple):
            task = {name: batch[name] for name in batch if not name.startswith("teacher_")}
            yield self._prepare_inputs(task)

    @property
    def _measured_rows(self) -> Dataset:
        """The training rows that modifiers measure on: of a stream its first block."""
        if self._labelled_rows is not None:
            return self._labelled_rows
        rows = self.train_dataset
        return rows.first if isinstance(rows, StreamedRows) else cast(Dataset, rows)

    def _first_token_suffices(self) -> bool:
        return self.model.training and not self.recipe.reads_all_tokens

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Evaluate the model as it would be saved, with the recipe's averages of weights.

        Nothing is drawn from training's random state, as a data loader does.
        """
        with torch.random.fork_rng(devices=[]), self._naming(), self.recipe.as_saved():
            return super().evaluate(*args, **options)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether this is the best model so far, of those of the last stage that compete."""
        reached = self._last_stage.reached(self.state.global_step, self.state.max_steps)
        counts = reached and competes(self.args, self.control)
        return counts and bool(super()._determine_best_metric(metrics, trial))

    def create_optimizer(self, *args: Any, **options: Any) -> torch.optim.Optimizer:
        # Parameters that a recipe freezes now may be trained later, so the optimizer needs them.
        with all_trainable(self.model):
            optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **options)
        self._give_added(optimizer)
        self._steps.weight_decays = self._steps.weight_decays or self._weight_decays(optimizer)
        return optimizer

    def _prepare_for_training(self, *args: Any) -> Any:
        """Let processes share the gradients of parameters that are frozen only for now.

        DistributedDataParallel shares those that are trainable when it wraps the model.
        """
        freezing = [name for name, m in self.recipe.modifiers.items() if m.freezes]
        shared, handler = self.args.world_size > 1 and freezing, self.accelerator.ddp_handler
        if shared and (handler is None or not handler.find_unused_parameters):
            raise UserError(
                f"recipe.modifiers.{freezing[0]} changes which parameters are trained, and "
                "processes would wait for the gradients of frozen ones; set "
                "training.ddp_find_unused_parameters=true"
            )
        with all_trainable(self.model) if shared else contextlib.nullcontext():
            return super()._prepare_for_training(*args)  # type: ignore[no-untyped-call]

    def _weight_decays(self, optimizer: torch.optim.Optimizer) -> list[float | None]:
        """The weight decay of each parameter group; None where the optimizer has none."""
        decays = [group.get("weight_decay") for group in optimizer.param_groups]
        if self.recipe.sets_weight_decay and None in decays:
            raise UserError(
                f"optimizers: the recipe sets the weight decay, and {type(optimizer).__name__} has "
                "none; choose an optimizer that decays, or take the weight decay out of the recipe"
            )
        return decays

    def _give_added(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer of the user's learn what the recipe added to the model."""
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = {name: p for name, p in self._added.items() if id(p) not in known}
        if not missing:
            return
        if self.lr_scheduler is not None:
            raise UserError(
                f"optimizers: the recipe adds {', '.join(missing)} to the model, for which the "
                "scheduler has no learning rate; pass (optimizer, None)"
            )
        optimizer.add_param_group({"params": list(missing.values())})

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """The recipe's learning rate where it sets one, otherwise the arguments' scheduler."""
        steps_per_epoch = num_training_steps / self.recipe.num_epochs
        if not self.recipe.sets_lr:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            optimizer = optimizer or cast(torch.optim.Optimizer, self.optimizer)
            # transformers declares the class that it makes itself.
            self.lr_scheduler = cast(
                LambdaLR, recipe_scheduler(self.recipe, optimizer, steps_per_epoch)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _training_loss(self, task_loss: Tensor, batch: dict[str, Tensor], outputs: Any) -> Tensor:
        return self.recipe.loss(task_loss, batch, outputs)

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Add the parts of the loss and the modifiers' values to the Trainer's log."""
        if "loss" in logs:
            logs = {**logs, **self._recipe_log()}
        super().log(logs, *args, **options)

    def _recipe_log(self) -> dict[str, float]:
        task_loss = self._task_loss.take()
        task = {} if task_loss is None else {"task_loss": task_loss}
        return {**task, **self.recipe.logs(), "sparsity": sparsity(self.model)["overall"]}

    def train(  # type: ignore[override]
        self, resume_from_checkpoint: str | bool | None = None, **options: Any
    ) -> TrainOutput:
        """Train by the recipe, from the start or from a checkpoint's folder."""
        self._check_new()
        self._rows_seen = 0
        if isinstance(self.train_dataset, StreamedRows):
            steps = resumed_step(resume_from_checkpoint) or 0
            batches = steps * self.args.gradient_accumulation_steps
            self.train_dataset.passed = batches * self.args.train_batch_size
        with contextlib.ExitStack() as stack:
            stack.callback(self.recipe.stop)
            stack.enter_context(cpu_acceleration(self, self.recipe, self._sparse_linears))
            stack.enter_context(matmul_precision(self.args.matmul_precision))
            if isinstance(self.model, PreTrainedModel) and self.task.first_token:
                hook = only_first_token(self.model, self._first_token_suffices)
                stack.callback(hook.remove if hook else lambda: None)
            try:
                result = super().train(resume_from_checkpoint, **options)
            except pickle.UnpicklingError as error:
                raise UserError(
                    f"the training state in {resume_from_checkpoint} is not one that training "
                    f"wrote: {first_line(error)}; resume from another checkpoint, or train from "
                    "the start"
                ) from error
        self.recipe.detach(self.model)
        self._trained = {
            "seconds": result.metrics["train_runtime"],
            "steps": result.global_step,
            # How many a stream has is never counted.
            "rows": len(rows) if isinstance(rows := self.train_dataset, Dataset) else None,
            "samples_per_second": result.metrics["train_samples_per_second"],
            "sparse_layers": self.sparse_layers,
        }
        if self.args.load_best_model_at_end:
            self._trained["best_step"] = best_step(self.state)
        return result

    def _check_new(self) -> None:
        """Raise UserError where the recipe is over."""
        if self._trained:
            kind = type(self).__name__
            raise UserError(f"this trainer has trained, and its recipe is over; make a new {kind}")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model for `from_pretrained`, tokenizer and recipe beside it.

        Without `output_dir` it becomes the run folder's `model/`: the masks are checked in the
        saved weights, and `results` has what `record_model` returns. Nothing is evaluated.

        Raises:
            UserError: the run has not trained yet.
        """
        if output_dir is not None:
            super().save_model(output_dir, _internal_call)
            if self.args.should_save and _internal_call:
                save_masks(self.recipe, Path(output_dir))
            elif self.args.should_save:
                separate_quantizers(Path(output_dir))
            return
        if not self._trained:
            raise UserError("nothing was trained that could be saved: call train() first")
        super().save_model(str(self.run.model), _internal_call)
        if not self.is_world_process_zero():
            return
        precision = self.args.precision
        self.results = record_model(
            self.recipe, self.model, self.run, self.args, self._trained, precision
        )

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_masks(self.recipe, self.model, Path(resume_from_checkpoint))

    @property
    def sparse_layers(self) -> int:
        """How many layers skipped their zeros in training."""
        return self._sparse_linears.sparse_layers
