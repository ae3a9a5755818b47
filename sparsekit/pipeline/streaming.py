"""`dataset.streaming`: what it cannot be combined with, each with the fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsekit.distributed import PROCESSES
from sparsekit.models.teacher import Checkpoint, Finetuned
from sparsekit.training.class_weights import BALANCED


def streaming_problems(parts: Mapping[str, Any]) -> list[str]:
    """Why the rows of a plan with these `parts` cannot be streamed; empty where none are."""
    streaming = parts.get("streaming")
    if streaming is None:
        return []
    problems: list[str] = streaming.problems()
    if not streaming.streaming:
        return problems
    if (dataset := parts.get("dataset")) is not None:
        problems += dataset.stream_problems()
    if (more := parts.get("more_texts")) is not None and more.any:
        problems.append(
            "dataset.unlabeled and dataset.augment need all training texts at once; leave them "
            "out, or set dataset.streaming=false"
        )
    if getattr(parts.get("task"), "label_case", None) == "ignore":
        problems.append(
            "dataset.label_case=ignore chooses a label's most frequent spelling in all rows; with "
            "dataset.streaming=true write each label in one way, or set keep"
        )
    problems += _teacher_problems(parts.get("teacher"))
    if (training := parts.get("training")) is not None:
        problems += _training_problems(training)
    if PROCESSES > 1:
        problems.append(
            f"dataset.streaming=true trains in one process, and torchrun started {PROCESSES}; "
            "start one, or set it to false"
        )
    return problems


def _teacher_problems(teacher: Any) -> list[str]:
    """Streamed rows are taught as they come, by one teacher that reads the student's tokens."""
    if isinstance(teacher, Finetuned):
        return [
            "dataset.streaming=true fine-tunes no teacher; train one by itself (recipe=dense), "
            "and name it: teacher=checkpoint teacher.checkpoint=RUN/model"
        ]
    names = teacher.checkpoint if isinstance(teacher, Checkpoint) else ""
    if isinstance(names, list) and len(names) > 1:
        return [
            f"teacher.checkpoint names {len(names)} teachers, and dataset.streaming=true is taught "
            "by one; name one"
        ]
    return []


def _training_problems(training: Any) -> list[str]:
    problems = []
    if training.max_steps <= 0:
        problems.append(
            "dataset.streaming=true knows no end of an epoch; set training.max_steps to the number "
            "of steps"
        )
    if training.class_weights == BALANCED:
        problems.append(
            "training.class_weights=balanced counts all training rows, which a stream never has at "
            "once; give a weight for each class: 'training.class_weights={CLASS: WEIGHT}'"
        )
    if training.tokens_per_batch is not None:
        problems.append(
            "training.tokens_per_batch sorts all training rows by length; with "
            "dataset.streaming=true set it to null"
        )
    if training.dataloader_num_workers:
        problems.append(
            f"training.dataloader_num_workers={training.dataloader_num_workers} would read each "
            "streamed row as many times; set it to 0"
        )
    return problems
