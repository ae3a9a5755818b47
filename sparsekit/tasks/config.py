"""The task and the data source of a run, from the config groups `task` and `dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sparsekit.config.build import build, check_origin, locate
from sparsekit.config.old_names import current_name
from sparsekit.config.types import type_problems
from sparsekit.data.datasets import Source
from sparsekit.data.more_texts import MoreTexts
from sparsekit.data.selection import RowSelection, SelectedRows
from sparsekit.data.streaming import Streaming
from sparsekit.errors import ConfigError, first_line
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.evaluation_table import as_outputs, read_columns
from sparsekit.runtime.tasks.base import Outputs
from sparsekit.tasks.base import Labels, Task
from sparsekit.tasks.text_classification import TextClassification

_Fields = TypeVar("_Fields", MoreTexts, Streaming)


def build_task(config: Mapping[str, Any], *, trusted: bool = False) -> Task:
    """The task of a resolved config: text classification where it names none, as before 0.2.

    A field of the task is looked up in the node `task`, then in `dataset`. Raises ConfigError.
    """
    node, data = dict(config.get("task") or {}), config.get("dataset") or {}
    kind = _kind(node.pop("_target_", None), trusted)
    names = {field.name for field in fields(kind)}
    problems = [
        f"task.{key} is not a field of {kind.__name__}; known: {', '.join(sorted(names))}"
        for key in sorted(node.keys() - names)
    ]
    read = {key: value for key, value in data.items() if key in names and key not in node}
    problems += type_problems(kind, node, "task") + type_problems(kind, read, "dataset")
    if problems:
        raise ConfigError(problems)
    try:
        return kind(**read, **node)
    except TypeError as error:
        raise ConfigError([f"task: {first_line(error)}; set it in the group dataset"]) from error


def task_of(run: RunFolder) -> Task:
    """The task of a finished run, with what it chose on the validation split.

    Raises UserError for a config that is not a run's.
    """
    return tuned(configured_task(run), run)


def configured_task(run: RunFolder) -> Task:
    """The task of a finished run as its config has it, before anything is chosen; as `task_of`."""
    names = run.metric_names  # refuses a config that is not a run's
    return replace(build_task(run.config), metrics=names)


def tuned(task: Task, run: RunFolder) -> Task:
    """`task` with what it chooses on the validation split, as evaluated in `run`.

    It is `task` itself where that split was not evaluated.
    """
    file = run.evaluation("validation")
    return task.tuned(partial(_recorded, task, file)) if file.is_file() else task


def _recorded(task: Task, file: Path) -> tuple[Outputs, Labels]:
    """The outputs and labels of an evaluation table."""
    columns = read_columns(file, ["label", *task.outputs])
    return as_outputs(columns, task.outputs, task.per_token), columns["label"]


def _kind(path: Any, trusted: bool) -> type[Task]:
    """The class that `task._target_` names."""
    if path is None:
        return TextClassification
    name = str(current_name(path))
    if not trusted:
        check_origin(name, "task._target_")
    try:
        kind = locate(name)
    except ImportError as error:
        raise ConfigError([f"task._target_ {name!r} cannot be imported: {error}"]) from error
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ConfigError([f"task: {name} is not a subclass of {Task.__name__}"])
    return kind


def build_source(dataset: Mapping[str, Any], task: Task) -> Source:
    """The source of the rows, and which of them are used.

    They have the keys of the node `dataset` that are not fields of the task.
    """
    own = {field.name for field in fields(task)}
    selected = {field.name for field in fields(RowSelection)}
    others = (
        own | selected | {field.name for kind in (MoreTexts, Streaming) for field in fields(kind)}
    )
    node = {key: value for key, value in dataset.items() if key not in others}
    chosen = {key: value for key, value in dataset.items() if key in selected}
    problems = type_problems(RowSelection, chosen, "dataset")
    if not problems:
        selection = RowSelection(**chosen)
        problems += selection.problems()
    try:
        source: Source = build(node, "dataset", trusted=True)
    except ConfigError as error:
        problems += [_with_columns(text, task) for text in error.problems]
    if problems:
        raise ConfigError(problems)
    return SelectedRows(source, selection)


def build_more_texts(dataset: Mapping[str, Any]) -> MoreTexts:
    """What the node `dataset` says of texts without labels; raises ConfigError for wrong types."""
    return _own_fields(MoreTexts, dataset)


def build_streaming(dataset: Mapping[str, Any]) -> Streaming:
    """What the node `dataset` says of a stream; raises ConfigError for wrong types."""
    return _own_fields(Streaming, dataset)


def _own_fields(kind: type[_Fields], dataset: Mapping[str, Any]) -> _Fields:
    """`kind` with those keys of `dataset` that are its fields."""
    names = {field.name for field in fields(kind)}
    node = {key: value for key, value in dataset.items() if key in names}
    if problems := type_problems(kind, node, "dataset"):
        raise ConfigError(problems)
    return kind(**node)


def _with_columns(problem: str, task: Task) -> str:
    """A problem of an unknown key, with the keys that the task reads."""
    if "is not a field of" not in problem:
        return problem
    kinds = (task, RowSelection, MoreTexts, Streaming)
    known = ", ".join(sorted(field.name for kind in kinds for field in fields(kind)))
    return f"{problem}; for {task.name} also {known}"


def task_node(task: Task) -> dict[str, Any]:
    """The node `task` of a config, complete by itself."""
    kind = type(task)
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **asdict(task)}
