"""transformers' Trainer for one of sparsekit's tasks: rows, loss and metrics, without a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from sparsekit.data.labels import label_names
from sparsekit.errors import UserError
from sparsekit.models.saving import own_names
from sparsekit.modifiers.loss_mean import LossMean, weighted
from sparsekit.tasks.base import Task
from sparsekit.training.arguments import SparseTrainingArguments, without_secrets
from sparsekit.training.checkpoints import written_whole
from sparsekit.training.divergence import Losses, divergence, losses_per_look
from sparsekit.training.processes import loss_weight, same_length
from sparsekit.training.samplers import lengths_in_memory, order_by_epoch
from sparsekit.training.stream import StreamedRows


class TaskTrainer(Trainer):
    """A Trainer that takes its loss, outputs and metrics from a task, and resumes exactly.

    Args:
        model: a model of transformers with the task's head.
        task: what the model is trained for.
        processing_class: the tokenizer of the rows; None only beside a data_collator.
        data_collator: by default the task's.
        compute_metrics: by default the task's metrics.
        options: further options of Trainer.
    """

    args: SparseTrainingArguments
    model: nn.Module

    def __init__(
        self,
        model: PreTrainedModel,
        task: Task,
        *,
        processing_class: PreTrainedTokenizerBase | None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        **options: Any,
    ) -> None:
        if data_collator is None:
            assert processing_class is not None
            data_collator = task.collator(processing_class)
        self.task = task
        # Kept in every checkpoint, for a run that resumes from it to compare.
        self.trained_by: Mapping[str, Any] = {}
        # The task's loss since the last log, and the rows that this process trained on.
        self._task_loss = LossMean()
        self._rows_seen = 0
        # Of the current optimizer step: its batches, and the items that they have together.
        self._step_batches = 0
        self._step_items: int | Tensor = 0
        self._losses = Losses()
        super().__init__(
            model=model,
            processing_class=processing_class,
            data_collator=data_collator,
            compute_metrics=compute_metrics or self._computed,
            **options,
        )
        # The loss is a mean over the batch: otherwise gradients accumulated over N batches would
        # be N times too large.
        self.loss_is_scaled_for_ga = False

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches in an order that a resumed run repeats."""
        loader: DataLoader[Any] = super().get_train_dataloader()
        if isinstance(self.train_dataset, StreamedRows):
            return loader  # The stream has its own order.
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        budget = self.args.tokens_per_batch
        if len(loader) == 0:
            raise UserError(
                "training.dataloader_drop_last=true leaves no batch: there are "
                f"{self.num_examples(loader)} training rows, fewer than the "
                f"{self.args.train_batch_size} of one batch; set it to false, or a smaller "
                "training.per_device_train_batch_size"
            )
        processes = self.args.world_size, self.args.process_index
        return order_by_epoch(loader, seed, lambda: int(self.state.epoch or 0), budget, processes)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        if eval_dataset is not None and eval_dataset is not self.eval_dataset:
            eval_dataset = self._rows(eval_dataset, "eval_dataset")
        self._evaluated = self.eval_dataset if eval_dataset is None else eval_dataset
        loader: DataLoader[Any] = super().get_eval_dataloader(eval_dataset)
        lengths_in_memory(loader)
        return loader

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        rows = self._rows(test_dataset, "test_dataset")
        self._evaluated = rows
        loader: DataLoader[Any] = super().get_test_dataloader(rows)
        return loader

    def _rows(self, dataset: Any, name: str) -> Any:
        """Another data set than the trainer's own, as the model reads it; `name` is for errors."""
        return dataset

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The batches of an optimizer step, whose items are counted."""
        batches, counted = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step_batches = len(batches)
        self._step_items = sum(self.task.loss_items(batch["labels"]) for batch in batches)
        return batches, counted

    def _weight(self, items: int | Tensor, device: torch.device) -> Tensor | float:
        """The factor of a batch's loss, so that a step's loss is a mean over its items.

        Batches of one step, and of several processes, may have different numbers of items.
        """
        if self.args.world_size > 1:
            return loss_weight(items, self._step_items, self._step_batches, device)
        weight = items * self._step_batches
        # A step without items changes nothing: its weight is 0.
        if isinstance(self._step_items, Tensor):
            return weight / self._step_items.clamp(min=1)
        return weight / max(self._step_items, 1)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        teacher = {name: inputs[name] for name in inputs if name.startswith("teacher_")}
        inputs = {name: value for name, value in inputs.items() if name not in teacher}
        several = model.training and self.args.world_size > 1
        if several and self.processing_class is not None:
            inputs = same_length(inputs, cast(PreTrainedTokenizerBase, self.processing_class))
        # Taken before: with label smoothing the Trainer pops the labels from its inputs.
        batch = {**inputs, **teacher}
        # Without the number of items: with it the Trainer would take the loss for a part of a sum,
        # and multiply this process's mean by the number of processes.
        if self.task.learns_from_teacher:
            del inputs["labels"]
            outputs = model(**inputs)
            loss = self.task.loss(outputs, batch)
        else:
            loss, outputs = super().compute_loss(model, inputs, True)
        if model.training:
            self._rows_seen += len(batch["labels"])
            weight = self._weight(self.task.loss_items(batch["labels"]), loss.device)
            factor = torch.as_tensor(weight, dtype=torch.float32, device=loss.device)
            batch["loss_weight"] = factor
            self._task_loss.add(weighted(loss, factor))
            loss = weighted(self._training_loss(loss, batch, outputs), factor)
        return (loss, outputs) if return_outputs else loss

    def _training_loss(self, task_loss: Tensor, batch: dict[str, Tensor], outputs: Any) -> Tensor:
        """The loss that is minimized, from the task's loss of the batch."""
        return task_loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any) -> Tensor:
        """Raise UserError instead of going on with a loss that is NaN or infinite."""
        loss = super().training_step(model, inputs, *args)
        self._losses.add(loss.detach(), self.state.global_step + 1, inputs)
        if self._losses.waiting >= losses_per_look(loss.device):
            self._check_losses()
        return loss

    def _check_losses(self) -> None:
        """Raise UserError if a loss since the last look was NaN or infinite."""
        if found := self._losses.first_not_finite():
            folder = Path(str(self.args.output_dir))
            rows = self.train_dataset
            streamed = isinstance(rows, StreamedRows)
            raise divergence(*found, None if streamed else cast(Dataset, rows), folder)

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        self._check_losses()
        return super().evaluate(*args, **options)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """The loss, the task's outputs and the labels, which may be missing, of a batch."""
        inputs = self._prepare_inputs(inputs)
        loss, labels = None, inputs.get("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            if labels is None:
                outputs = model(**inputs)
            else:
                loss, outputs = self.compute_loss(model, dict(inputs), True)
                loss = loss.detach().mean()
            found = None if prediction_loss_only else self.task.model_outputs(outputs, inputs)
        if found is None:
            return loss, None, None
        return loss, found if len(found) > 1 else found[0], labels

    def _computed(self, prediction: EvalPrediction) -> dict[str, float]:
        """The task's metrics of the rows that were evaluated last."""
        found = prediction.predictions
        each = found if isinstance(found, tuple) else (found,)
        outputs = dict(zip(self.task.outputs, each, strict=True))
        labels = self.task.gathered_labels(prediction.label_ids, self._evaluated)
        return self.task.score(
            outputs, labels, label_names(cast(PreTrainedModel, self.model).config)
        )

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Count the rows of the training speed: the Trainer assumes batches of one size."""
        self._check_losses()
        if "train_samples_per_second" in logs:
            # Changed in place: `train` returns the dict that it logs.
            rows = self._rows_seen * self.args.world_size
            logs["train_samples_per_second"] = round(rows / logs["train_runtime"], 3)
        super().log(logs, *args, **options)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save weights under the names of the model's modules, which masks and resuming use."""
        self._check_losses()
        # The arguments are saved too.
        with own_names(cast(PreTrainedModel, self.model)), without_secrets(self.args):
            super()._save(output_dir, state_dict)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._check_losses()
        with written_whole(self, self.trained_by):
            super()._save_checkpoint(model, trial)
