"""Teachers of rows that a user tokenized: their logits, computed once and kept on disk.

`sparsekit.models.teacher` does the same for a data set of texts, as the launcher loads it.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsekit.cache import content_hash
from sparsekit.data.datasets import kept_rows
from sparsekit.data.tokenized import Tokenized, rows_hash, text_columns
from sparsekit.errors import UserError
from sparsekit.models.hub import fetch
from sparsekit.models.loading import (
    Classifier,
    embedded_tokens,
    positions_of,
    read_config,
    weights_hash,
)
from sparsekit.models.predict import predict_logits
from sparsekit.models.teacher import label_order, load_teacher, logit_order
from sparsekit.models.tokenizer import load_tokenizer

log = logging.getLogger(__name__)

SELF = "self"
Teacher = PreTrainedModel | str | Path
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One teacher, ready to be run.

    identity: the hash of its weights.
    order: for each label of the student its index in the teacher's logits.
    tokenizer: its own; None: it reads the student's tokens.
    load: returns the model.
    """

    name: str
    identity: str
    order: list[int]
    tokenizer: PreTrainedTokenizerBase | None
    load: Callable[[], PreTrainedModel]


def sources(
    teacher: Teacher | Sequence[Teacher], student: Classifier, label_names: list[str], longest: int
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
        _from_model(one, student, label_names)
        if isinstance(one, PreTrainedModel) or one == SELF
        else _from_folder(str(one), student, label_names, longest)
        for one in each
    ]


def _from_model(
    teacher: PreTrainedModel | str | Path, student: Classifier, label_names: list[str]
) -> Source:
    if not isinstance(teacher, PreTrainedModel):
        order, model = list(range(len(label_names))), student.model
        # The student as it is now: training changes it.
        return Source(
            name=SELF,
            identity=_model_hash(model),
            order=order,
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
        order=logit_order(teacher.config, [name], name, label_names),
        tokenizer=None,
        load=lambda: teacher,
    )


def _from_folder(name: str, student: Classifier, label_names: list[str], longest: int) -> Source:
    folder = fetch(name)
    order, config = label_order(folder, name, label_names), read_config(folder)
    limit = positions_of(config)
    # Its own tokens may be more than the student's: both truncate at the student's limit.
    most = student.tokenizer.model_max_length
    tokenizer = load_tokenizer(folder, min(most, limit or most), config.vocab_size)
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
        load=lambda: load_teacher(folder, label_names, tokenizer.model_max_length).model,
    )


def mean_logits(teachers: Sequence[Source], student: Classifier, split: Tokenized) -> Logits:
    """The mean of the teachers' logits [rows, labels] for a split, in the student's label order."""
    each = [_logits(teacher, student, split) for teacher in teachers]
    mean: Logits = np.stack(each).mean(axis=0)
    return mean


def _logits(teacher: Source, student: Classifier, split: Tokenized) -> Logits:
    tokenizer = teacher.tokenizer or student.tokenizer
    rows = split.rows if teacher.tokenizer is None else _tokenized_again(teacher, student, split)
    inputs = [name for name in sorted(rows.column_names) if name in tokenizer.model_input_names]

    def make(target: Path) -> None:
        model = teacher.load()
        log.info("teacher %s reads %d rows of %s, once", teacher.name, len(rows), split.name)
        accepted = inspect.signature(model.forward).parameters
        read = rows.select_columns([*(name for name in inputs if name in accepted), "length"])
        logits = predict_logits(model, read, tokenizer)[:, teacher.order]
        Dataset.from_dict({"logits": logits.tolist()}).save_to_disk(str(target))

    key = content_hash([teacher.identity, *map(str, teacher.order), rows_hash(rows, inputs)])
    stored = kept_rows("teacher-logits", key, make)
    return np.array(stored["logits"][:], dtype=np.float32)


def _tokenized_again(teacher: Source, student: Classifier, split: Tokenized) -> Dataset:
    """The split's text as the tokens of a teacher with another vocabulary."""
    columns = text_columns(split.dataset, split.rows, student.tokenizer)
    if not columns:
        raise UserError(
            f"the teacher {teacher.name!r} has another vocabulary than the student, and "
            f"{split.name} has no column of text that its tokens were made of; keep the text in "
            "it, or choose a teacher of the student's family"
        )
    assert teacher.tokenizer is not None
    texts = [split.dataset.with_format(None)[name][:] for name in columns]
    limit = teacher.tokenizer.model_max_length
    encoded = dict(teacher.tokenizer(*texts, truncation=True, max_length=limit))
    lengths = [len(ids) for ids in encoded["input_ids"]]
    return Dataset.from_dict({**encoded, "length": lengths})


def teacher_model(
    teacher: Teacher | Sequence[Teacher], student: Classifier, label_names: list[str], longest: int
) -> nn.Module:
    """A copy of the teacher's model, for layers to imitate on the student's own tokens.

    Raises UserError for several teachers, and for one with another vocabulary.
    """
    each = sources(teacher, student, label_names, longest)
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
