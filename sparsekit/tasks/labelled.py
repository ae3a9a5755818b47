"""Models of tasks with labels: as many as the data has, matched by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedConfig

from sparsekit.data.collator import IGNORED
from sparsekit.data.labels import id2label, is_generic, matching_order
from sparsekit.errors import UserError

log = logging.getLogger(__name__)


def label_options(label_names: Sequence[str]) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a model of these labels."""
    labels = dict(enumerate(label_names))
    return {
        "num_labels": len(labels),
        "id2label": labels,
        "label2id": {name: index for index, name in labels.items()},
    }


def order_of_model(label_names: Sequence[str], theirs: Mapping[int, str]) -> list[int] | None:
    """For each label of a checkpoint its index in the data's, where only their orders differ.

    theirs: the checkpoint's `id2label`.
    """
    order = matching_order(label_names, theirs)
    if order is None or order == sorted(order):
        return None
    return [order.index(index) for index in range(len(order))]


def check_label_count(config: PreTrainedConfig, name: str, label_names: Sequence[str]) -> None:
    """Raise UserError for a teacher of another number of labels."""
    if config.num_labels != len(label_names):
        raise UserError(
            f"the teacher {name!r} has {config.num_labels} labels, the dataset "
            f"{len(label_names)} ({', '.join(label_names)}); choose a teacher of the same task"
        )


def teacher_label_order(config: PreTrainedConfig, label_names: list[str]) -> list[int]:
    """For each label of the data its index in the teacher, by name where the names are the same."""
    theirs = id2label(config)
    order = matching_order(label_names, theirs)
    if order is not None:
        return order
    if not is_generic(theirs):
        log.warning(
            "the teacher's labels are %s, the dataset's %s: assumed to be in the same order",
            ", ".join(theirs.values()),
            ", ".join(label_names),
        )
    return list(range(len(label_names)))


def check_token_labels(rows: Dataset, name: str, column: str) -> None:
    """Raise UserError unless each of the tokenized rows has an integer label for each token.

    name, column: as of `Task.check_rows`.
    """
    table = rows.with_format("arrow")[:]
    values = table["labels"]
    kind = values.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not pa.types.is_integer(values.type.value_type):
        raise UserError(
            f"{name}, column {column} holds {values.type}, not a list of indices for each row"
            f"; give each token its label, and {IGNORED} where it has none"
        )
    unequal = pc.not_equal(pc.list_value_length(values), pc.list_value_length(table["input_ids"]))
    row = pc.index(unequal, True).as_py()
    if row >= 0:
        raise UserError(
            f"{name}, row {row} (from 0) has {len(table['input_ids'][row])} tokens and "
            f"{len(values[row])} labels; give each token one, and {IGNORED} where it has none"
        )
    labelled = pc.not_equal(pc.list_flatten(values), IGNORED)
    if not pc.any(labelled).as_py():
        raise UserError(
            f"{name}, column {column} has no label: every token is {IGNORED}; give the tokens that "
            "are to be learnt the indices of their labels"
        )
