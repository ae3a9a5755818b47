"""What a SparseTrainer was given, as `config.yaml` and `summary.json` of its run tell it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from sparsekit.cache import content_hash
from sparsekit.data.tokenized import Tokenized, rows_hash
from sparsekit.models.contents import models_hash, tensors_hash
from sparsekit.tasks.config import task_node
from sparsekit.training.arguments import is_secret
from sparsekit.training.conversion import given_arguments
from sparsekit.training.given import Teachers
from sparsekit.training.preparation import Prepared


def given_config(prepared: Prepared, teacher: Teachers) -> dict[str, Any]:
    """`config.yaml`: what the trainer was given, by the launcher's keys."""
    model, args, task = prepared.student.model, prepared.args, prepared.task
    data = {
        split.name: split.rows.num_rows
        for split in (prepared.train, prepared.evaluation)
        if split is not None
    }
    node = task_node(task)
    given = {name: value for name, value in given_arguments(args).items() if not is_secret(name)}
    return {
        "task": {"_target_": node.pop("_target_")},
        "dataset": {**node, "rows": data},
        "student": {"checkpoint": model.name_or_path or type(model).__name__},
        "teacher": {"checkpoint": _teacher_name(teacher)},
        "recipe": prepared.recipe.values,
        "training": _plain(given),
        "export": {},
        "runtime": {},
        "seed": args.seed,
    }


def contents(prepared: Prepared, teacher: Teachers, train_rows: str) -> dict[str, Any]:
    """Hashes of what the trainer was given in memory, which `config.yaml` does not tell."""
    evaluation = prepared.evaluation
    rows = [train_rows, "" if evaluation is None else content_of_rows(prepared, evaluation)]
    found = {
        "rows": content_hash(rows),
        "weights": tensors_hash(prepared.student.model),
        "models": _teachers_hash(teacher),
    }
    return {name: content for name, content in found.items() if content is not None}


def content_of_rows(prepared: Prepared, split: Tokenized) -> str:
    """A hash of what the model reads of a split, and its labels."""
    inputs = prepared.student.tokenizer.model_input_names
    columns = [name for name in (*inputs, "labels") if name in split.rows.column_names]
    return rows_hash(split.rows, columns)


def _teachers_hash(teacher: Teachers) -> str | None:
    """A hash of the teachers' weights; None where their names alone tell them apart."""
    if teacher is None or isinstance(teacher, str | Path):
        return None if teacher is None else models_hash({"teacher": {"checkpoint": str(teacher)}})
    if isinstance(teacher, PreTrainedModel):
        return content_hash(tensors_hash(teacher).values())
    parts = [_teachers_hash(one) or "" for one in teacher]
    return content_hash(parts) if any(parts) else None


def _teacher_name(teacher: Teachers) -> str | list[str] | None:
    """The teacher by its folder or id, or by its class; a list of several."""
    if teacher is None or isinstance(teacher, str | Path):
        return None if teacher is None else str(teacher)
    if isinstance(teacher, PreTrainedModel):
        return teacher.name_or_path or type(teacher).__name__
    return [str(_teacher_name(one)) for one in teacher]


def _plain(value: Any) -> Any:
    """`value` in YAML's types; objects of other types become text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, str | int | float | bool | None) else str(value)
