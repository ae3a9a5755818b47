"""What a user gives to SparseTrainer, and whether it fits together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from sparsekit.data.labels import id2label, is_generic, matching_order
from sparsekit.data.tokenized import class_names
from sparsekit.errors import ConfigError, UserError
from sparsekit.models.loading import embedded_tokens, positions_of
from sparsekit.models.teaching import Teacher
from sparsekit.models.tokenizer import tokenizer_problem
from sparsekit.recipe.recipe import Recipe
from sparsekit.tasks.base import Task
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.best import best_problems
from sparsekit.training.class_weights import loss_problems, without_effect
from sparsekit.training.own_parts import OwnParts

Teachers = Teacher | Sequence[Teacher] | None
RecipeSource = Recipe | Mapping[str, Any] | str | Path


@dataclass(frozen=True, kw_only=True)
class Given:
    """The arguments of SparseTrainer.

    datasets: by their names, `train_dataset` and the other.
    own: the parts that the user made.
    own_metrics: whether the user computes the metrics, whose names are then not known.
    """

    model: PreTrainedModel
    task: Task
    recipe: RecipeSource
    recipe_args: Mapping[str, Any]
    teacher: Teachers
    args: TrainingArguments | None
    datasets: Mapping[str, Dataset | None]
    tokenizer: PreTrainedTokenizerBase | None
    own: OwnParts
    own_metrics: bool

    def build_recipe(self) -> Recipe:
        """The recipe for the task and the teacher, a new object; raises UserError."""
        if problems := self.task.problems():
            raise ConfigError(problems)
        recipe = recipe_of(self.recipe, self.recipe_args).for_teacher(self.teacher is not None)
        if problems := recipe.task_problems(self.task):
            raise ConfigError(problems)
        return recipe

    def problems(self, args: SparseTrainingArguments, recipe: Recipe) -> list[str]:
        """What does not fit together among the arguments alone, before any data are read."""
        names = None if self.own_metrics else self.task.computed_metrics
        return [
            *loss_problems(args, self.task),
            *self.own.problems(args, recipe, self.task),
            *best_problems(args, recipe, names),
            *without_effect(args, recipe),
        ]

    def checked_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; raises UserError unless it and the model are those of the task."""
        if self.tokenizer is None:
            raise UserError(
                "processing_class is not set: give the tokenizer of the data sets, which pads "
                "batches"
            )
        _check_model(self.model, self.task, self.tokenizer)
        return self.tokenizer

    def checked_datasets(self, eval_strategy: str) -> dict[str, Dataset]:
        """The data sets that are set, after whose classes the model's are named.

        Raises UserError where one is missing, or names the classes in another order.
        """
        datasets = {name: data for name, data in self.datasets.items() if data is not None}
        if "train_dataset" not in datasets:
            raise UserError("train_dataset is not set; give the tokenized rows to train on")
        if "eval_dataset" not in datasets and eval_strategy != "no":
            strategy = IntervalStrategy(eval_strategy).value
            raise UserError(
                f'eval_strategy="{strategy}" evaluates while training, and eval_dataset is not '
                "set; give one, or leave out eval_strategy"
            )
        _check_same_order(datasets)
        _name_labels(self.model, datasets["train_dataset"])
        return datasets


def recipe_of(source: RecipeSource, variables: Mapping[str, Any]) -> Recipe:
    """The recipe that `source` is or names, its `variables` set; a new object in any case."""
    if isinstance(source, Recipe):
        if variables:
            raise UserError(
                f"recipe_args {', '.join(variables)} cannot be set in a Recipe, whose windows are "
                "fixed; set them when it is read: Recipe.from_file(FILE, num_epochs=3)"
            )
        return Recipe.build(source.values)
    if isinstance(source, Mapping):
        return Recipe.from_dict(source, **variables)
    if isinstance(source, str) and "\n" in source:
        return Recipe.from_text(source, **variables)
    if isinstance(source, str | Path):
        return Recipe.from_file(source, **variables)
    raise UserError(
        f"recipe is of type {type(source).__name__}; give a file, the name of one of sparsekit's "
        "recipes, YAML text, a mapping or a Recipe"
    )


def _check_model(model: object, task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel) or not task.is_head(name):
        raise UserError(
            f"the model is a {name}, which is not trained for {task.name}: load it with "
            f"{task.head.__name__}.from_pretrained, or name its task: SparseTrainer(..., task=...)"
        )
    _check_precision(model)
    task.check_model(model.config)
    task.prepare(model)
    if problem := tokenizer_problem(tokenizer, embedded_tokens(model)):
        raise UserError(
            f"processing_class, a {type(tokenizer).__name__}, {problem}; load the tokenizer of the "
            "model's own checkpoint and tokenize with it"
        )


def _check_precision(model: PreTrainedModel) -> None:
    """Raise UserError for a model of half precision, as `from_pretrained` loads many checkpoints.

    Most steps of fine-tuning are smaller than half the distance of two bf16 numbers, so that they
    change nothing. It is not converted here: that would double its memory unasked.
    """
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    half = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes if dtype.itemsize < 4)
    if half:
        raise UserError(
            f"the model's weights are {' and '.join(half)}, which round most steps of fine-tuning "
            f"away: load it with {type(model).__name__}.from_pretrained(..., dtype=torch.float32), "
            "or call model.float(); bf16=True in args computes in bf16 all the same"
        )


def check_positions(model: PreTrainedModel, longest: int) -> None:
    """Raise UserError for rows of more tokens than the model has positions."""
    positions = positions_of(model.config)
    if positions is not None and longest > positions:
        raise UserError(
            f"the longest row has {longest} tokens, the model {positions} positions; tokenize with "
            f"truncation=True, max_length={positions} or less"
        )


def _check_same_order(datasets: Mapping[str, Dataset]) -> None:
    """Raise UserError for data sets whose labels, where both name them, are numbered otherwise."""
    named = {
        argument: names
        for argument, rows in datasets.items()
        if isinstance(rows, Dataset) and (names := class_names(rows)) is not None
    }
    train = named.get("train_dataset")
    for argument, names in named.items():
        if train is not None and names != train:
            raise UserError(
                f"{argument} numbers its labels {', '.join(names)}, train_dataset "
                f"{', '.join(train)}: its scores would be those of other classes; number both "
                f"alike: {argument}.align_labels_with_mapping("
                f"{ {name: i for i, name in enumerate(train)} }, COLUMN)"
            )


def _name_labels(model: PreTrainedModel, dataset: object) -> None:
    """Name the model's labels as the data set does, where the model has no names of its own.

    Raises UserError where both name the same labels in another order.
    """
    names = class_names(dataset) if isinstance(dataset, Dataset) else None
    if names is None:
        return
    theirs = id2label(model.config)
    if len(theirs) != len(names):
        raise UserError(
            f"train_dataset has {len(names)} labels ({', '.join(names)}), the model {len(theirs)}; "
            f"load the model with num_labels={len(names)}"
        )
    order = matching_order(names, theirs)
    if order is not None and order != sorted(order):
        raise UserError(
            f"train_dataset numbers its labels {', '.join(names)}, the model "
            f"{', '.join(theirs.values())}: the loss would teach the wrong ones; load the model "
            f"with id2label={dict(enumerate(names))}"
        )
    if is_generic(theirs):
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: index for index, name in enumerate(names)}
