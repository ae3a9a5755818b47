"""What a user gives to SparseTrainer, brought to what the trainer works with."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsekit import metrics
from sparsekit.cache import content_hash
from sparsekit.data.labels import id2label, label_names
from sparsekit.data.tokenized import Tokenized, text_columns, tokenized_rows
from sparsekit.errors import UserError
from sparsekit.models.kept_outputs import add_outputs
from sparsekit.models.loading import LoadedModel, positions_of
from sparsekit.models.teaching import SELF, Source, Teacher, mean_outputs, sources, teacher_model
from sparsekit.models.tokenizer import leave_out_types, pad_as_expected
from sparsekit.recipe.recipe import Recipe
from sparsekit.tasks.base import Task
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.cpu.allocator import reuse_freed_memory
from sparsekit.training.cpu.precision import matmul_precision
from sparsekit.training.given import Given, check_positions

# Longer than any text: nothing is cut off.
UNCUT = 10**7


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


def prepare(given: Given, recipe: Recipe, args: SparseTrainingArguments) -> Prepared:
    """Check the model and data that SparseTrainer is given, and run the teacher if it is needed.

    recipe, args: those of `given`, as training uses them. Raises UserError.
    """
    metrics.check_cache()
    model, task, tokenizer = given.model, given.task, given.checked_tokenizer()
    splits = _tokenized(given, tokenizer, given.checked_datasets(args.eval_strategy), args)
    train, evaluation = splits["train_dataset"], splits.get("eval_dataset")
    longest = max(split.longest for split in splits.values())
    check_positions(model, longest)
    read = evaluation or train
    columns = text_columns(read.dataset, read.rows, tokenizer, task.words)
    student = _student(model, task, tokenizer, read, columns, longest)
    prepared = Prepared(
        task=replace(task.with_columns(columns), max_length=student.tokenizer.model_max_length),
        student=student,
        recipe=recipe,
        args=args,
        train=train,
        evaluation=evaluation,
        text_columns=columns,
        teacher_scores=None,
    )
    return prepared if given.teacher is None else _taught(prepared, given.teacher, longest)


def _tokenized(
    given: Given,
    tokenizer: PreTrainedTokenizerBase,
    datasets: Mapping[str, Dataset],
    args: SparseTrainingArguments,
) -> dict[str, Tokenized]:
    """The rows of each data set with the columns that training reads."""
    keep = not args.remove_unused_columns
    # The rows are brought to the columns that are used here already.
    args.remove_unused_columns = False
    inputs, labels = tokenizer.model_input_names, len(id2label(given.model.config))
    check = partial(given.task.check_rows, labels)
    for name, dataset in datasets.items():
        if isinstance(dataset, Dataset):
            given.task.check_columns(dataset.column_names, name)
    labelled = not given.task.learns_from_teacher
    return {
        name: Tokenized(
            name,
            dataset,
            tokenized_rows(dataset, inputs, check, name, keep=keep, labelled=labelled),
        )
        for name, dataset in datasets.items()
    }


def _student(
    model: PreTrainedModel,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    split: Tokenized,
    columns: Sequence[str],
    longest: int,
) -> LoadedModel:
    """The model with a copy of the tokenizer that truncates as the data sets were truncated."""
    own = copy.deepcopy(tokenizer)
    pad_as_expected(own, model)
    leave_out_types(own, model.config)
    limits = [own.model_max_length, positions_of(model.config) or own.model_max_length]
    if task.windows:
        limits.append(task.max_length)
    if columns and split.longest == longest and _truncated(split, task, tokenizer, columns):
        limits.append(longest)
    own.model_max_length = min(limits)
    return LoadedModel(model, own, content_hash([own.backend_tokenizer.to_str()]))


def _truncated(
    split: Tokenized, task: Task, tokenizer: PreTrainedTokenizerBase, columns: Sequence[str]
) -> bool:
    """Whether the text of the longest row has more tokens than the row."""
    row = split.dataset.with_format(None)[int(np.argmax(split.rows["length"]))]
    uncut = replace(task, max_length=UNCUT)
    whole = uncut.tokenize(uncut.unlabelled([[row[name]] for name in columns]), tokenizer)
    return int(whole["length"][0]) > split.longest


def _taught(prepared: Prepared, teacher: Teacher | Sequence[Teacher], longest: int) -> Prepared:
    """The rows with the teacher's outputs, and its scores on the evaluation split."""
    student, recipe, task = prepared.student, prepared.recipe, prepared.task
    labels = label_names(student.model.config)
    recipe.use_teacher(lambda: teacher_model(teacher, task, student, labels, longest))
    if not recipe.uses_teacher("logits"):
        return prepared
    train, evaluation, device = prepared.train, prepared.evaluation, prepared.args.device
    with reuse_freed_memory(), matmul_precision(prepared.args.matmul_precision):
        teachers = sources(teacher, task, student, labels, longest)
        if evaluation is not None and not task.learns_from_teacher:
            _check_teachers(teachers, prepared, evaluation, labels)
        outputs = mean_outputs(teachers, task, student, train, device)
        rows = add_outputs(task.with_teacher(train.rows, outputs), outputs)
        scores = None
        if evaluation is not None:
            outputs = mean_outputs(teachers, task, student, evaluation, device)
            evaluation = replace(evaluation, rows=task.with_teacher(evaluation.rows, outputs))
            scores = task.score(outputs, evaluation.rows["labels"][:], labels)
    return replace(
        prepared,
        train=replace(train, rows=rows),
        evaluation=evaluation,
        teacher_scores=scores,
    )


def _check_teachers(
    teachers: Sequence[Source], prepared: Prepared, split: Tokenized, names: list[str]
) -> None:
    """Raise UserError for a teacher that does worse on the evaluation split than guessing."""
    for teacher in teachers:
        if teacher.name == SELF:
            continue  # the student as it starts may be anything
        outputs = mean_outputs(
            [teacher], prepared.task, prepared.student, split, prepared.args.device
        )
        labels = split.rows["labels"][:]
        if problem := prepared.task.teacher_problem(teacher.name, outputs, labels, names):
            raise UserError(problem)
