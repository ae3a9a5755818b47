"""Teachers: their outputs, computed once per teacher and row, and cached on disk.

Training reads the outputs as columns, so a teacher with another tokenizer or another order of
labels needs no special handling, and need not run while the student trains. Modifiers that learn
from more than the outputs, such as hidden states, run it then.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from sparsekit.cache import content_hash
from sparsekit.data.datasets import kept_rows
from sparsekit.errors import UserError
from sparsekit.models.contents import weights_hash
from sparsekit.models.hub import fetch
from sparsekit.models.kept_outputs import (
    Kept,
    add_outputs,
    keep,
    kept_in_order,
    mean,
    read_kept,
)
from sparsekit.models.loading import LoadedModel, contradiction, load_for_task, read_config
from sparsekit.models.predict import predict_outputs
from sparsekit.tasks.base import Data, Task
from sparsekit.tasks.cache_key import cache_key
from sparsekit.tasks.tokens import tokenize

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class NoTeacher:
    """No teacher: modifiers of the recipe that need one are left out."""

    teaches: ClassVar[bool] = False
    is_baseline: ClassVar[bool] = False

    def folders(self, task: Task, label_names: list[str], finetune: Finetune) -> list[Path]:
        """Raise UserError: there is no teacher to get."""
        raise UserError("teacher=none has nothing to teach; set teacher=self or another teacher")


@dataclass(kw_only=True)
class Checkpoint:
    """One or several models fine-tuned for the task, by Hub id or folder; several are averaged."""

    checkpoint: str | list[str]
    teaches: ClassVar[bool] = True

    @property
    def is_baseline(self) -> bool:
        """Whether it is one model that the student can be compared with."""
        return isinstance(self.checkpoint, str) or len(self.checkpoint) == 1

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise UserError("teacher.checkpoint is empty; name a folder or id, or a list of them")

    def folders(self, task: Task, label_names: list[str], finetune: Finetune) -> list[Path]:
        """The teachers' folders; raises UserError for one that does not fit the labels."""
        names = [self.checkpoint] if isinstance(self.checkpoint, str) else self.checkpoint
        folders = [fetch(name, key="teacher=checkpoint teacher.checkpoint") for name in names]
        for folder, name in zip(folders, names, strict=True):
            label_order(folder, task, name, label_names)
        return folders


@dataclass(kw_only=True)
class Finetuned:
    """`base`, fine-tuned once with `recipe` on the run's own data set, and cached.

    Its `seed` is its own, so that runs of several seeds share one teacher.
    """

    base: str | dict[str, Any]
    recipe: dict[str, Any]
    seed: int = 42
    teaches: ClassVar[bool] = True
    is_baseline: ClassVar[bool] = True

    def folders(self, task: Task, label_names: list[str], finetune: Finetune) -> list[Path]:
        """The folder of the fine-tuned base."""
        return [finetune(self)]


@dataclass(kw_only=True)
class Self:
    """The student as it starts, before its first step: self-distillation.

    A student that `student.shrink` makes smaller, or `student.sparsity` prunes, is taught by what
    it was before.
    """

    teaches: ClassVar[bool] = True
    is_baseline: ClassVar[bool] = True

    def folders(self, task: Task, label_names: list[str], finetune: Finetune) -> list[Path]:
        """No folder: the student is in memory already."""
        return []


# Fine-tunes a teacher's base and returns its folder: a whole run, which this room cannot start.
Finetune = Callable[[Finetuned], Path]
Teacher = NoTeacher | Checkpoint | Finetuned | Self


def label_order(folder: Path, task: Task, name: str, label_names: list[str]) -> list[int] | None:
    """The index in the outputs of the teacher in `folder` of each label of the data.

    Raises UserError for a teacher that does not fit the task.
    """
    config = read_config(folder)
    order = task.teacher_order(config, config.architectures or [], name, label_names)
    if problem := contradiction(folder, task, f"the teacher {name!r}"):
        raise UserError(problem)
    return order


def teacher_outputs(
    folder: Path, data: Data, splits: Sequence[str], device: torch.device | None = None
) -> dict[str, Kept]:
    """What is kept of the teacher in `folder`, in the data's label order, by split.

    It runs on `device`; None: the CPU.
    """
    order = label_order(folder, data.task, str(folder), data.label_names)
    identity = [weights_hash(folder), _vocabulary_hash(folder)]
    loaded: list[LoadedModel] = []

    def make(split: str, target: Path) -> None:
        # Once, and only where the outputs of some split are missing.
        teacher = loaded[0] if loaded else load_teacher(folder, data.task, data.label_names)
        loaded[:] = [teacher]
        texts_only = replace(data, splits={split: data.splits[split]})
        log.info("teacher %s reads %d rows of %s, once", folder, len(data.splits[split]), split)
        rows = tokenize(texts_only, teacher.tokenizer, teacher.tokenizer_hash)[split]
        outputs = predict_outputs(teacher.model, data.task, rows, teacher.tokenizer, device)
        keep(data.task, rows, outputs, order, target)

    found = {}
    for split in splits:
        text = [data.fingerprint(split), *cache_key(data.task), *data.label_names]
        key = content_hash([*identity, *text])
        stored = kept_rows("teacher-logits", key, functools.partial(make, split))
        found[split] = read_kept(data.task, stored)
    return found


def load_teacher(folder: Path, task: Task, label_names: list[str]) -> LoadedModel:
    """The teacher in `folder`; raises UserError where a part of its weights is missing."""
    loaded, missing = load_for_task(folder, task, label_names)
    if missing:
        raise UserError(
            f"the teacher in {folder} lacks the weights {', '.join(missing[:4])}, so its "
            "outputs would be random; choose a complete checkpoint"
        )
    return loaded


def live_teacher(
    folders: Sequence[Path],
    student: LoadedModel,
    data: Data,
    otherwise: str = "or distil logits only",
) -> PreTrainedModel:
    """The teacher as a model, for layers to imitate; without folders, a copy of the student.

    otherwise: the end of a message about a teacher that cannot be used so.

    Raises UserError for several teachers, and for one with another vocabulary: it reads the
    student's own tokens.
    """
    if not folders:
        return copy.deepcopy(student.model)
    if len(folders) > 1:
        raise UserError(
            f"teacher.checkpoint names {len(folders)} teachers, but layers can imitate only one; "
            f"name one, {otherwise}"
        )
    loaded, _ = load_for_task(folders[0], data.task, data.label_names)
    if loaded.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise UserError(
            f"the teacher in {folders[0]} has another vocabulary than the student, so its layers "
            "cannot be compared on the same tokens; choose a teacher of the student's family, "
            f"{otherwise}"
        )
    return loaded.model


def row_teacher(
    folders: Sequence[Path],
    student: LoadedModel,
    data: Data,
    device: torch.device | None = None,
) -> Callable[[Dataset], Dataset]:
    """A function that adds the teacher's outputs to tokenized rows, with nothing cached.

    Without folders the teacher is the student as it is now. It stays on `device`; None: where it
    is. Raises UserError as `live_teacher`.
    """
    task = data.task
    model = live_teacher(folders, student, data, "or set dataset.streaming=false")
    if device is not None:
        cast(nn.Module, model).to(device)
    order = label_order(folders[0], task, str(folders[0]), data.label_names) if folders else None

    def taught(rows: Dataset) -> Dataset:
        outputs = predict_outputs(model, task, rows, student.tokenizer)
        kept = kept_in_order(task, rows, outputs, order)
        found = {name: task.taught_output(rows, output) for name, output in kept.items()}
        return add_outputs(task.with_teacher(rows, found), found)

    return taught


def averaged_outputs(
    folders: Sequence[Path],
    student: LoadedModel,
    data: Data,
    splits: Sequence[str],
    device: torch.device | None = None,
) -> dict[str, Kept]:
    """The mean of the teachers' outputs by split, for the student's rows; without folders, its own.

    device: where they run; None: the CPU, and the student where it is.

    Raises UserError for a teacher that does worse on the validation split than guessing.
    """
    each = [teacher_outputs(folder, data, splits, device) for folder in folders]
    rows = tokenize(data, student.tokenizer, student.tokenizer_hash)
    for folder, outputs in zip(folders, each, strict=True):
        check_teacher(str(folder), data, rows["validation"], outputs.get("validation"))
    found = {}
    for split in splits:
        kept = (
            mean(data.task, [one[split] for one in each])
            if each
            else _own(student, data, rows[split], device)
        )
        found[split] = {
            name: data.task.taught_output(rows[split], output) for name, output in kept.items()
        }
    return found


def check_teacher(name: str, data: Data, rows: Dataset, outputs: Kept | None) -> None:
    """Raise UserError for a teacher whose outputs on the validation split show that it is wrong.

    rows: the split as the student's tokens. Does nothing without `outputs`.
    """
    if outputs is None:
        return
    taught = {key: data.task.taught_output(rows, output) for key, output in outputs.items()}
    if problem := data.task.teacher_problem(name, taught, rows["labels"][:], data.label_names):
        raise UserError(problem)


def _own(student: LoadedModel, data: Data, rows: Dataset, device: torch.device | None) -> Kept:
    outputs = predict_outputs(student.model, data.task, rows, student.tokenizer, device)
    return {name: data.task.kept_output(rows, output) for name, output in outputs.items()}


def _vocabulary_hash(folder: Path) -> str:
    files = [folder / name for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json")]
    return content_hash(path.read_bytes() for path in files if path.is_file())
