"""What a user gives to SparseTrainer, checked and brought to what the trainer works with."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from sparsekit import metrics
from sparsekit.cache import content_hash
from sparsekit.data.labels import id2label, is_generic, matching_order
from sparsekit.data.tokenized import Tokenized, class_names, text_columns, tokenized_rows
from sparsekit.errors import ConfigError, UserError
from sparsekit.models.kept_outputs import add_outputs
from sparsekit.models.loading import LoadedModel, embedded_tokens, positions_of
from sparsekit.models.teaching import SELF, Source, Teacher, mean_outputs, sources, teacher_model
from sparsekit.models.tokenizer import pad_as_expected, tokenizer_problem
from sparsekit.recipe.recipe import Recipe
from sparsekit.tasks.base import Task
from sparsekit.training.arguments import SparseTrainingArguments, matmul_precision
from sparsekit.training.conversion import sparse_arguments
from sparsekit.training.cpu.allocator import reuse_freed_memory

Teachers = Teacher | Sequence[Teacher] | None
RecipeSource = Recipe | Mapping[str, Any] | str | Path


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run of the Python API before its first step.

    text_columns: the columns of `evaluation.dataset` that its tokens were made of, if it has them.
    teacher_scores: the teacher's metrics on the evaluation split.
    """

    task: Task
    student: LoadedModel
    recipe: Recipe
    args: SparseTrainingArguments
    train: Tokenized
    evaluation: Tokenized | None
    text_columns: tuple[str, ...]
    teacher_scores: dict[str, float] | None

    @property
    def evaluation_rows(self) -> Dataset | None:
        """The rows of the evaluation split, if there is one."""
        return None if self.evaluation is None else self.evaluation.rows


def prepare(
    model: PreTrainedModel,
    task: Task,
    recipe: RecipeSource,
    recipe_args: Mapping[str, Any],
    teacher: Teachers,
    args: TrainingArguments | None,
    datasets: Mapping[str, Dataset | None],
    tokenizer: PreTrainedTokenizerBase | None,
) -> Prepared:
    """Check everything that SparseTrainer is given, and run the teacher where the recipe needs it.

    `datasets` are those of the arguments `train_dataset` and `eval_dataset`. Raises UserError.
    """
    if problems := task.problems():
        raise ConfigError(problems)
    metrics.check_cache()
    built = recipe_of(recipe, recipe_args).taught(teacher is not None)
    if problems := built.task_problems(task):
        raise ConfigError(problems)
    converted = sparse_arguments(args, built)
    if tokenizer is None:
        raise UserError(
            "processing_class is not set: give the tokenizer of the data sets, which pads batches"
        )
    _check_model(model, task, tokenizer)
    given = {name: dataset for name, dataset in datasets.items() if dataset is not None}
    if "train_dataset" not in given:
        raise UserError("train_dataset is not set; give the tokenized rows to train on")
    if "eval_dataset" not in given and converted.eval_strategy != "no":
        strategy = IntervalStrategy(converted.eval_strategy).value
        raise UserError(
            f'eval_strategy="{strategy}" evaluates while training, and eval_dataset is not set; '
            "give one, or leave out eval_strategy"
        )
    _name_labels(model, given["train_dataset"])
    keep = not converted.remove_unused_columns
    # The rows are brought to the columns that are used here already.
    converted.remove_unused_columns = False
    inputs, labels = tokenizer.model_input_names, len(id2label(model.config))
    splits = {
        name: Tokenized(
            name,
            data,
            tokenized_rows(data, inputs, partial(task.check_rows, labels), name, keep=keep),
        )
        for name, data in given.items()
    }
    train, evaluation = splits["train_dataset"], splits.get("eval_dataset")
    longest = max(split.longest for split in splits.values())
    _check_positions(model, longest)
    read = evaluation or train
    columns = text_columns(read.dataset, read.rows, tokenizer)
    student = _student(model, tokenizer, read, columns, longest)
    prepared = Prepared(
        task=replace(task, max_length=student.tokenizer.model_max_length),
        student=student,
        recipe=built,
        args=converted,
        train=train,
        evaluation=evaluation,
        text_columns=columns,
        teacher_scores=None,
    )
    if teacher is None:
        return prepared
    return _taught(prepared, teacher, longest)


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
    task.check_model(model.config)
    if problem := tokenizer_problem(tokenizer, embedded_tokens(model)):
        raise UserError(
            f"processing_class, a {type(tokenizer).__name__}, {problem}; load the tokenizer of the "
            "model's own checkpoint and tokenize with it"
        )


def _check_positions(model: PreTrainedModel, longest: int) -> None:
    positions = positions_of(model.config)
    if positions is not None and longest > positions:
        raise UserError(
            f"the longest row has {longest} tokens, the model {positions} positions; tokenize with "
            f"truncation=True, max_length={positions} or less"
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


def _student(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: Tokenized,
    columns: Sequence[str],
    longest: int,
) -> LoadedModel:
    """The model with a copy of the tokenizer that truncates as the data sets were truncated."""
    own = copy.deepcopy(tokenizer)
    pad_as_expected(own, model)
    limits = [own.model_max_length, positions_of(model.config) or own.model_max_length]
    if columns and split.longest == longest and _truncated(split, tokenizer, columns):
        limits.append(longest)
    own.model_max_length = min(limits)
    return LoadedModel(model, own, content_hash([own.backend_tokenizer.to_str()]))


def _truncated(
    split: Tokenized, tokenizer: PreTrainedTokenizerBase, columns: Sequence[str]
) -> bool:
    """Whether the text of the longest row has more tokens than the row."""
    row = split.dataset.with_format(None)[int(np.argmax(split.rows["length"]))]
    whole = tokenizer(*(row[name] for name in columns), truncation=False, verbose=False)
    return len(whole["input_ids"]) > split.longest


def _taught(prepared: Prepared, teacher: Teacher | Sequence[Teacher], longest: int) -> Prepared:
    """The rows with the teacher's outputs, and its scores on the evaluation split."""
    student, recipe, task = prepared.student, prepared.recipe, prepared.task
    labels = [name for _, name in sorted(id2label(student.model.config).items())]
    recipe.use_teacher(lambda: teacher_model(teacher, task, student, labels, longest))
    if not recipe.needs_teacher("logits"):
        return prepared
    train, evaluation = prepared.train, prepared.evaluation
    with reuse_freed_memory(), matmul_precision(prepared.args.matmul_precision):
        teachers = sources(teacher, task, student, labels, longest)
        if evaluation is not None:
            _check_teachers(teachers, prepared, evaluation, labels)
        rows = add_outputs(train.rows, mean_outputs(teachers, task, student, train))
        scores = None
        if evaluation is not None:
            outputs = mean_outputs(teachers, task, student, evaluation)
            scores = task.score(outputs, evaluation.rows["labels"][:])
    return replace(prepared, train=replace(train, rows=rows), teacher_scores=scores)


def _check_teachers(
    teachers: Sequence[Source], prepared: Prepared, split: Tokenized, label_names: list[str]
) -> None:
    """Raise UserError for a teacher that does worse on the evaluation split than guessing."""
    for teacher in teachers:
        if teacher.name == SELF:
            continue  # the student as it starts may be anything
        outputs = mean_outputs([teacher], prepared.task, prepared.student, split)
        labels = split.rows["labels"][:]
        if problem := prepared.task.teacher_problem(teacher.name, outputs, labels, label_names):
            raise UserError(problem)
