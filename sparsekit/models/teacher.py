"""Teachers: their logits, computed once per teacher and text, and cached on disk.

Training reads the logits as a column, so a teacher with another tokenizer or another order of
labels needs no special handling, and no teacher runs while the student trains.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel

from sparsekit.cache import content_hash
from sparsekit.data.datasets import TextData, kept_rows, tokenize
from sparsekit.data.labels import is_generic, matching_order
from sparsekit.errors import UserError
from sparsekit.models.hub import fetch
from sparsekit.models.loading import (
    Classifier,
    id2label,
    load_classifier,
    read_config,
    weights_hash,
)
from sparsekit.models.predict import predict_logits

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class NoTeacher:
    """No teacher: the recipe may not distil."""

    teaches: ClassVar[bool] = False

    def folders(self, label_names: list[str], finetune: Finetune) -> list[Path]:
        """Raise UserError: there is no teacher to get."""
        raise UserError("teacher=none has nothing to teach; set teacher=self or another teacher")


@dataclass(kw_only=True)
class Checkpoint:
    """One or several fine-tuned classifiers, by Hub id or folder; several are averaged."""

    checkpoint: str | list[str]
    teaches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise UserError("teacher.checkpoint is empty; name a folder or id, or a list of them")

    def folders(self, label_names: list[str], finetune: Finetune) -> list[Path]:
        """The teachers' folders; raises UserError for one that does not fit the labels."""
        names = [self.checkpoint] if isinstance(self.checkpoint, str) else self.checkpoint
        folders = [fetch(name) for name in names]
        for folder, name in zip(folders, names, strict=True):
            label_order(folder, name, label_names)
        return folders


@dataclass(kw_only=True)
class Finetuned:
    """`base`, fine-tuned with `recipe` on this very data set first, once, and kept.

    Its `seed` is its own, so that runs of several seeds share one teacher.
    """

    base: str | dict[str, Any]
    recipe: dict[str, Any]
    seed: int = 42
    teaches: ClassVar[bool] = True

    def folders(self, label_names: list[str], finetune: Finetune) -> list[Path]:
        """The folder of the fine-tuned base."""
        return [finetune(self)]


@dataclass(kw_only=True)
class Self:
    """The student as it starts, before its first step: self-distillation."""

    teaches: ClassVar[bool] = True

    def folders(self, label_names: list[str], finetune: Finetune) -> list[Path]:
        """No folder: the student is in memory already."""
        return []


# Fine-tunes a teacher's base and returns its folder: a whole run, which this room cannot start.
Finetune = Callable[[Finetuned], Path]
Teacher = NoTeacher | Checkpoint | Finetuned | Self


def label_order(folder: Path, name: str, label_names: list[str]) -> list[int]:
    """The index in the logits of the teacher in `folder` of each label of the data."""
    config = read_config(folder)
    return logit_order(config, config.architectures or [], name, label_names)


def logit_order(
    config: PreTrainedConfig, architectures: list[str], name: str, label_names: list[str]
) -> list[int]:
    """The index in the logits of a teacher with this config of each label of the data.

    Raises UserError for a teacher that is not a classifier of one class per text, or has another
    number of labels.
    """
    if not any(a.endswith("ForSequenceClassification") for a in architectures):
        raise UserError(
            f"the teacher {name!r} is {' '.join(architectures) or 'of unknown architecture'}, not "
            "a sequence classifier, so it has no labels to teach; choose a checkpoint fine-tuned "
            "for this task (textattack/bert-base-uncased-rotten-tomatoes, with hyphens, is one; "
            "the one with underscores is a masked language model)"
        )
    if config.num_labels != len(label_names):
        raise UserError(
            f"the teacher {name!r} has {config.num_labels} labels, the dataset "
            f"{len(label_names)} ({', '.join(label_names)}); choose a teacher of the same task"
        )
    if config.problem_type not in (None, "single_label_classification"):
        raise UserError(
            f"the teacher {name!r} was trained for {config.problem_type.replace('_', ' ')}, so its "
            "logits are not those of one class per text; choose a teacher of the same task"
        )
    theirs = id2label(config)
    order = matching_order(label_names, theirs)
    if order is None:
        order = list(range(len(label_names)))
        if not is_generic(theirs):
            log.warning(
                "the teacher's labels are %s, the dataset's %s: assumed to be in the same order",
                ", ".join(theirs.values()),
                ", ".join(label_names),
            )
    return order


def teacher_logits(folder: Path, data: TextData, splits: Sequence[str]) -> dict[str, np.ndarray]:
    """The logits [rows, labels] of the teacher in `folder`, in the data's label order, by split."""
    order = label_order(folder, str(folder), data.label_names)
    identity = [weights_hash(folder), _vocabulary_hash(folder)]
    loaded: list[Classifier] = []

    def make(split: str, target: Path) -> None:
        # Once, and only where the logits of some split are missing.
        teacher = loaded[0] if loaded else load_teacher(folder, data.label_names, data.max_length)
        loaded[:] = [teacher]
        log.info("teacher %s reads %d rows of %s, once", folder, len(data.splits[split]), split)
        texts_only = replace(data, splits={split: data.splits[split]})
        logits = logits_of(teacher, texts_only, split)[:, order]
        Dataset.from_dict({"logits": logits.tolist()}).save_to_disk(str(target))

    found = {}
    for split in splits:
        text = [data.fingerprint(split), str(data.max_length), *data.label_names]
        key = content_hash([*identity, *text])
        stored = kept_rows("teacher-logits", key, functools.partial(make, split))
        found[split] = np.array(stored["logits"][:], dtype=np.float32)
    return found


def load_teacher(folder: Path, label_names: list[str], max_length: int) -> Classifier:
    """The teacher in `folder`; raises UserError where a part of its weights is missing."""
    loaded, missing = load_classifier(folder, label_names, max_length)
    if missing:
        raise UserError(
            f"the teacher in {folder} lacks the weights {', '.join(missing[:4])}, so its "
            "logits would be random; choose a complete checkpoint"
        )
    return loaded


def live_teacher(folders: Sequence[Path], student: Classifier, data: TextData) -> PreTrainedModel:
    """The teacher as a model, for layers to imitate: of no folder, a copy of the student.

    Raises UserError for several teachers, and for one with another vocabulary: it reads the
    student's own tokens.
    """
    if not folders:
        return copy.deepcopy(student.model)
    if len(folders) > 1:
        raise UserError(
            f"teacher.checkpoint names {len(folders)} teachers, but layers can imitate only one; "
            "name one, or distil logits only"
        )
    loaded, _ = load_classifier(folders[0], data.label_names, data.max_length)
    if loaded.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise UserError(
            f"the teacher in {folders[0]} has another vocabulary than the student, so its layers "
            "cannot be compared on the same tokens; choose a teacher of the student's family, or "
            "distil logits only"
        )
    return loaded.model


def averaged_logits(
    folders: Sequence[Path], student: Classifier, data: TextData, splits: Sequence[str]
) -> dict[str, np.ndarray]:
    """The mean of the teachers' logits [rows, labels] by split; of no folder, the student's own."""
    if not folders:
        return {split: logits_of(student, data, split) for split in splits}
    each = [teacher_logits(folder, data, splits) for folder in folders]
    return {split: np.stack([one[split] for one in each]).mean(axis=0) for split in splits}


def logits_of(classifier: Classifier, data: TextData, split: str) -> np.ndarray:
    """The logits [rows, labels] of a model in memory."""
    rows = tokenize(data, classifier.tokenizer, classifier.tokenizer_hash)[split]
    return predict_logits(classifier.model, rows, classifier.tokenizer)


def add_logits(rows: Dataset, logits: np.ndarray) -> Dataset:
    """`rows` with the teacher's logits [rows, labels] as the column `teacher_logits`."""
    return rows.add_column("teacher_logits", logits.tolist())


def _vocabulary_hash(folder: Path) -> str:
    files = [folder / name for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json")]
    return content_hash(path.read_bytes() for path in files if path.is_file())
