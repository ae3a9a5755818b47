"""Teachers of tasks with labels: as many as the data has, matched by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from transformers import PreTrainedConfig

from sparsekit.data.labels import id2label, is_generic, matching_order
from sparsekit.errors import UserError

log = logging.getLogger(__name__)


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
