"""Texts that the teacher alone labels, among the training rows: `dataset.unlabeled`, `augment`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets

from sparsekit.cache import cached, content_hash
from sparsekit.data.augmentation import Augmentation, augmented
from sparsekit.data.columns import select
from sparsekit.data.datasets import Source
from sparsekit.data.duplicates import column_texts, repeated, text_keys
from sparsekit.data.more_texts import MoreTexts
from sparsekit.errors import UserError
from sparsekit.models.contents import weights_hash
from sparsekit.models.hub import fetch
from sparsekit.models.masked_words import MaskedWords
from sparsekit.models.teacher import Teacher
from sparsekit.recipe.recipe import Recipe
from sparsekit.tasks.base import Data, Task

log = logging.getLogger(__name__)

# In a cache entry of augmented texts: one column for each column of texts.
TEXTS = "texts.parquet"


def without_more_texts(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The config node `dataset` of a teacher that is trained on the labelled rows alone."""
    return {**dataset, "unlabeled": None, "augment": {}}


def more_texts_problems(
    more: MoreTexts, task: Task, teacher: Teacher | None, recipe: Recipe | None
) -> list[str]:
    """Why the run cannot learn from texts without labels; empty where none are asked for."""
    if problems := more.problems():
        return problems
    if not more.any:
        return []
    name = "dataset.unlabeled" if more.files else "dataset.augment.copies"
    found = []
    if not task.takes_more_texts:
        found.append(
            f"{name} is for text classification, regression, multi-label and token "
            f"classification and embeddings, not for {task.name}; leave it out"
        )
    if teacher is not None and not teacher.teaches:
        found.append(f"{name} adds texts for a teacher to label, but there is none: set teacher")
    elif recipe is not None and recipe.replaces_task_loss is None and not task.learns_from_teacher:
        found.append(
            f"{name} adds texts without labels, but the recipe learns from labels too; let it "
            "learn from the teacher alone: recipe.distill_hardness=1"
        )
    return found


def with_more_texts(data: Data, more: MoreTexts, source: Source) -> Data:
    """`data` with the texts of `more` among its training rows, with labels that mean nothing.

    source: that of `data`.

    Texts that occur already, in whatever split, are left out: the teacher would otherwise score
    validation rows for the student to learn. Raises UserError for files that cannot be read.
    """
    if not more.any:
        return data
    train = data.splits["train"]
    names = [name for name in data.task.text_names if name in train.column_names]
    labelled = [list(column_texts(train, name)) for name in names]
    read = more.read([column for column in data.task.columns() if column.is_text], source)
    if len(names) < len(read):  # a task whose rows are single texts reads pairs one by one
        read = [list(chain.from_iterable(read))]
    both = [ours + theirs for ours, theirs in zip(labelled, read, strict=True)]
    made = _augmented(both, more.augmentation)
    rows = data.task.more_rows([a + b for a, b in zip(read, made, strict=True)], train)
    rows = _new(rows, data, names)
    if not len(rows):
        raise UserError(
            "dataset.unlabeled and dataset.augment add no text that is not in the data set already"
        )
    log.info("the teacher labels %d more texts, beside %d training rows", len(rows), len(train))
    return replace(data, splits={**data.splits, "train": concatenate_datasets([train, rows])})


def _augmented(columns: list[list[str]], config: Augmentation) -> list[list[str]]:
    """The augmented texts of `columns`; those that a model helps to make are made once."""
    if not config.masks:
        return augmented(columns, config)
    assert config.masked_lm is not None
    checkpoint = weights_hash(fetch(config.masked_lm, key="dataset.augment.masked_lm"))
    parts = [*(text for column in columns for text in column), checkpoint]
    described = json.dumps([len(columns), config.copies, config.methods, config.seed])

    def make(folder: Path) -> None:
        texts = augmented(columns, config, MaskedWords(str(config.masked_lm)))
        pq.write_table(pa.Table.from_arrays(texts, names=_numbers(columns)), folder / TEXTS)

    stored = cached("augmented-texts", content_hash([described, *parts]), make) / TEXTS
    return [column.to_pylist() for column in pq.read_table(stored).columns]


def _numbers(columns: list[list[str]]) -> list[str]:
    return [str(index) for index in range(len(columns))]


def _new(rows: Dataset, data: Data, names: list[str]) -> Dataset:
    """The rows whose texts are not empty, do not repeat, and are in no split."""
    keys = text_keys(rows, names)
    new = ~repeated(keys)
    for split in data.splits.values():
        new &= ~np.isin(keys, text_keys(split, names))
    new &= np.array([bool(text.strip()) for text in column_texts(rows, names[0])], dtype=bool)
    return select(rows, new)
