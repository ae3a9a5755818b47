"""Teachers of rows that a user tokenized: their outputs, computed once and kept on disk.

`sparsekit.models.teacher` does the same for a data set of texts, as the launcher loads it.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsekit.cache import content_hash
from sparsekit.data.datasets import kept_rows
from sparsekit.data.labels import id2label
from sparsekit.data.tokenized import Tokenized, rows_hash, text_columns
from sparsekit.errors import UserError
from sparsekit.models.contents import weights_hash
from sparsekit.models.hub import fetch
from sparsekit.models.kept_outputs import Kept, keep, mean, read_kept
from sparsekit.models.loading import (
    LoadedModel,
    embedded_tokens,
    positions_of,
    read_config,
)
from sparsekit.models.predict import predict_outputs
from sparsekit.models.teacher import label_order, load_teacher
from sparsekit.models.tokenizer import load_tokenizer
from sparsekit.runtime.tasks.base import Output
from sparsekit.tasks.base import Task
from sparsekit.tasks.cache_key import cache_key
from sparsekit.tasks.inputs import inputs_of, padding_side

log = logging.getLogger(__name__)

SELF = "self"
Teacher = PreTrainedModel | str | Path


@dataclass(frozen=True, kw_only=True)
class Source:
    """One teacher, ready to be run.

    identity: the hash of its weights.
    order: for each label of the student its index in the teacher's outputs; None: the same.
    tokenizer: its own; None: it reads the student's tokens.
    load: returns the model.
    """

    name: str
    identity: str
    order: list[int] | None
    tokenizer: PreTrainedTokenizerBase | None
    load: Callable[[], PreTrainedModel]


def sources(
    teacher: Teacher | Sequence[Teacher],
    task: Task,
    student: LoadedModel,
    label_names: list[str],
    longest: int,
) -> list[Source]:
    """The teachers that `teacher` names: a model, folder or Hub id, "self", or a list of these.

    `longest` is the length of the longest row in tokens. Raises UserError for a teacher of another
    task, and for one that reads no rows of that length.
    """
    each = (
        list(teacher)
        if isinstance(teacher, Sequence) and not isinstance(teacher, str)
        else [teacher]
    )
    for one in each:
        if not isinstance(one, str | Path | PreTrainedModel):
            raise UserError(
                f"teacher is of type {type(one).__name__}; give a transformers model, a folder, a "
                'Hub id, "self", a list of these, or None'
            )
    if not each:
        raise UserError("teacher is an empty list; give one or more teachers, or None")
    return [
        _from_model(one, task, student, label_names)
        if isinstance(one, PreTrainedModel) or one == SELF
        else _from_folder(str(one), task, student, label_names, longest)
        for one in each
    ]


def _from_model(
    teacher: PreTrainedModel | str | Path,
    task: Task,
    student: LoadedModel,
    label_names: list[str],
) -> Source:
    if not isinstance(teacher, PreTrainedModel):
        model = student.model
        # The student as it is now: training changes it.
        return Source(
            name=SELF,
            identity=_model_hash(model),
            order=None,
            tokenizer=None,
            load=lambda: model,
        )
    name = type(teacher).__name__
    theirs, ours = embedded_tokens(teacher), embedded_tokens(student.model)
    if theirs != ours:
        raise UserError(
            f"the teacher, a {name}, embeds {theirs} tokens and the student {ours}: it has another "
            "vocabulary; give its folder or Hub id instead of the model, so that its own tokenizer "
            "is used"
        )
    return Source(
        name=name,
        identity=_model_hash(teacher),
        order=task.teacher_order(teacher.config, [name], name, label_names),
        tokenizer=None,
        load=lambda: teacher,
    )


def _from_folder(
    name: str, task: Task, student: LoadedModel, label_names: list[str], longest: int
) -> Source:
    folder = fetch(name, key="teacher")
    order, config = label_order(folder, task, name, label_names), read_config(folder)
    limit = positions_of(config)
    # Its own tokens may be more than the student's: both truncate at the student's limit.
    most = student.tokenizer.model_max_length
    tokenizer = load_tokenizer(folder, config, min(most, limit or most), config.vocab_size)
    tokenizer.padding_side = padding_side(config)
    same = tokenizer.get_vocab() == student.tokenizer.get_vocab()
    if same and limit is not None and longest > limit:
        raise UserError(
            f"the teacher {name!r} has {limit} positions, the longest row {longest} tokens; "
            f"tokenize with max_length={limit} or less"
        )
    return Source(
        name=name,
        identity=weights_hash(folder),
        order=order,
        tokenizer=None if same else tokenizer,
        load=lambda: (
            load_teacher(
                folder, replace(task, max_length=tokenizer.model_max_length), label_names
            ).model
        ),
    )


def mean_outputs(
    teachers: Sequence[Source],
    task: Task,
    student: LoadedModel,
    split: Tokenized,
    device: torch.device | None = None,
) -> dict[str, Output]:
    """The mean of the teachers' outputs for a split, in the student's label order.

    device: where they run, after which they are moved back; None: where they are.
    """
    kept = mean(task, [_kept(teacher, task, student, split, device) for teacher in teachers])
    return {name: task.taught_output(split.rows, output) for name, output in kept.items()}


def _kept(
    teacher: Source,
    task: Task,
    student: LoadedModel,
    split: Tokenized,
    device: torch.device | None,
) -> Kept:
    tokenizer = teacher.tokenizer or student.tokenizer
    rows = (
        split.rows if teacher.tokenizer is None else _tokenized_again(teacher, task, student, split)
    )
    inputs = [name for name in sorted(rows.column_names) if name in tokenizer.model_input_names]
    others = ["length", *(["labels"] if task.outputs_of_labels else [])]

    def make(target: Path) -> None:
        model = teacher.load()
        log.info("teacher %s reads %d rows of %s, once", teacher.name, len(rows), split.name)
        read = rows.select_columns([*inputs_of(model, inputs), *others])
        outputs = predict_outputs(model, task, read, tokenizer, device)
        keep(task, rows, outputs, teacher.order, target)

    order = teacher.order or range(len(id2label(student.model.config)))
    read_from = rows_hash(rows, [*inputs, *others])
    key = content_hash([teacher.identity, *cache_key(task), *map(str, order), read_from])
    return read_kept(task, kept_rows("teacher-logits", key, make))


def _tokenized_again(
    teacher: Source, task: Task, student: LoadedModel, split: Tokenized
) -> Dataset:
    """The split's text as the tokens of a teacher with another vocabulary."""
    columns = text_columns(split.dataset, split.rows, student.tokenizer, task.words)
    if not columns:
        raise UserError(
            f"the teacher {teacher.name!r} has another vocabulary than the student, and "
            f"{split.name} has no column of text that its tokens were made of; keep the text in "
            "it, or choose a teacher of the student's family"
        )
    assert teacher.tokenizer is not None
    texts = [split.dataset.with_format(None)[name][:] for name in columns]
    fitted = replace(task, max_length=teacher.tokenizer.model_max_length)
    return Dataset.from_dict(fitted.tokenize(fitted.unlabelled(texts), teacher.tokenizer))


def teacher_model(
    teacher: Teacher | Sequence[Teacher],
    task: Task,
    student: LoadedModel,
    label_names: list[str],
    longest: int,
) -> nn.Module:
    """A copy of the teacher's model, for layers to imitate on the student's own tokens.

    Raises UserError for several teachers, and for one with another vocabulary.
    """
    each = sources(teacher, task, student, label_names, longest)
    if len(each) > 1:
        raise UserError(
            f"teacher names {len(each)} teachers, but layers can imitate only one; name one, or "
            "distil logits only"
        )
    if each[0].tokenizer is not None:
        raise UserError(
            f"the teacher {each[0].name!r} has another vocabulary than the student, so its layers "
            "cannot be compared on the same tokens; choose a teacher of the student's family, or "
            "distil logits only"
        )
    return copy.deepcopy(each[0].load())


def _model_hash(model: PreTrainedModel) -> str:
    """A hash of the model's config and of every tensor of its state."""
    parts: list[str | bytes] = [model.config.to_json_string()]
    for name, tensor in sorted(model.state_dict().items()):
        stored = tensor.detach().cpu().reshape(-1).contiguous()
        parts += [name, str(tensor.dtype), stored.view(torch.uint8).numpy().tobytes()]
    return content_hash(parts)
