"""The trainer of the Python API, which keeps a run folder as the launcher does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import TrainOutput

from sparsekit.config.arguments import naming_arguments
from sparsekit.tasks.base import Task
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.training.given import Given, RecipeSource, Teachers
from sparsekit.training.own_parts import OwnParts
from sparsekit.training.recipe_trainer import RecipeTrainer
from sparsekit.training.session import Session


class SparseTrainer(RecipeTrainer):
    """A transformers Trainer whose schedule, masks, quantizers and loss come from a recipe.

    The recipe's epoch is `num_epochs` times the share of steps that are done, so a run shortened
    by `max_steps` passes through every window. `args.output_dir` becomes a run folder as
    the launcher's: `model/` with the recipe, `evaluation/`, `checkpoints/`, `metrics.jsonl`,
    `schedule.json` and `summary.json`.

    Args:
        model: a model of transformers with the task's head; it is changed in place.
        recipe: a file, the name of one of sparsekit's recipes, a SparseZoo stub, YAML text, a
            mapping or a `Recipe`.
        recipe_args: values for variables of the recipe, as in `{"num_epochs": 3}`.
        teacher: what a recipe that distils imitates: a classifier, its folder or Hub id, a list of
            these (their logits are averaged), or "self", the model as it is now. Its logits are
            computed once and kept in the cache. None: the task's loss counts alone.
        args: plain TrainingArguments or SparseTrainingArguments. The recipe sets the number of
            epochs, and what its modifiers are about, such as the learning rate.
        train_dataset: a `datasets.Dataset` with `input_ids` and `labels` or `label`.
        eval_dataset: the same for evaluation. Keep its text: exports are checked on it.
        processing_class: their tokenizer.
        data_collator: by default rows are padded to the longest of a batch.
        task: what the model is trained for, one of `sparsekit.tasks`; by default
            `TextClassification()`, which needs a `...ForSequenceClassification`.
        metrics: what is computed of the evaluation split, by name; an export is checked on these.
            None: those of the task.
        compute_metrics: replaces `metrics` in what `evaluate` returns and logs.
        overwrite: whether a completed run in `args.output_dir` may be replaced.
        options: further options of Trainer, such as `optimizers`.

    Raises:
        UserError: what does not fit together, such as labels that the model does not have, a
            teacher that the recipe would not use, an argument that the recipe overrides, or an
            `args.output_dir` that holds a completed run or files of another program.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        recipe: RecipeSource,
        *,
        recipe_args: Mapping[str, Any] | None = None,
        teacher: Teachers = None,
        args: TrainingArguments | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        task: Task | None = None,
        metrics: str | Sequence[str] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        overwrite: bool = False,
        **options: Any,
    ) -> None:
        task = TextClassification() if task is None else task
        if metrics is not None:
            named = [metrics] if isinstance(metrics, str) else list(metrics)
            task = replace(task, metrics=named)
        given = Given(
            model=model,
            task=task,
            recipe=recipe,
            recipe_args=recipe_args or {},
            teacher=teacher,
            args=args,
            datasets={"train_dataset": train_dataset, "eval_dataset": eval_dataset},
            tokenizer=processing_class,
            own=OwnParts.among(options),
            own_metrics=compute_metrics is not None,
        )
        self._session = Session.begin(given, overwrite)
        prepared = self._session.prepared
        super().__init__(
            model,
            prepared.recipe,
            self._session.run,
            task,
            args=prepared.args,
            train_dataset=prepared.train.rows,
            eval_dataset=prepared.evaluation_rows,
            processing_class=prepared.student.tokenizer,
            data_collator=data_collator,
            compute_metrics=compute_metrics,
            callbacks=[*self._session.callbacks, *callbacks],
            **options,
        )
        self.trained_by = self._session.trained_by

    def _naming(self) -> contextlib.AbstractContextManager[None]:
        return naming_arguments()

    def _rows(self, dataset: Any, name: str) -> Any:
        """Another data set of the user's, as `train_dataset` was prepared."""
        return dataset if isinstance(dataset, str) else self._session.rows(dataset, name)

    def train(  # type: ignore[override]
        self, resume_from_checkpoint: str | bool | None = None, **options: Any
    ) -> TrainOutput:
        """Train by the recipe; see transformers.

        Args:
            resume_from_checkpoint: a checkpoint's folder, or True for the newest of this run; False
                starts anew. None: what `args.resume_from_checkpoint` says.
        """
        self._check_new()
        with self._session.training(resume_from_checkpoint) as checkpoint:
            result = super().train(checkpoint, **options)
            self._session.record({"train": self._trained})
        return result

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model for `from_pretrained`, tokenizer and recipe beside it.

        Without `output_dir` it becomes the run folder's `model/`: the masks are checked in the
        saved weights, the evaluation split is scored, and `summary.json` is written.

        Raises:
            UserError: the run has not trained yet.
        """
        super().save_model(output_dir, _internal_call)
        if output_dir is None and self.is_world_process_zero():
            self._session.finish(self.results)
