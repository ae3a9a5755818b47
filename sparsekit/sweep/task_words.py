"""What the trials of `sparsekit compress` are told of the task: what the dense model's run says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from sparsekit.config.command_line import quoted
from sparsekit.oneshot.checkpoint_task import group_choice
from sparsekit.runs.folder import RunFolder
from sparsekit.system import expanded
from sparsekit.tasks.base import Task


def task_words(source: str, task: Task) -> list[str]:
    """The overrides that choose `task`, with the fields that the config of the run `source` has.

    Without such a config they have the defaults of the task, as those of its columns.
    """
    choice, kind = group_choice(task), type(task)
    target = f"task._target_={kind.__module__}.{kind.__qualname__}"
    words = [target if choice is None else f"task={choice}"]
    run = RunFolder(expanded(source))
    return [*words, *_fields(task, run.config)] if run.config_file.is_file() else words


def _fields(task: Task, config: dict[str, Any]) -> Iterator[str]:
    """The fields of `task` that `config` sets, in the node in which it sets them."""
    names = [field.name for field in fields(task)]
    for node in ("task", "dataset"):
        values = config.get(node) or {}
        # ++: an own class has fields that no file of conf/ names.
        yield from (f"++{node}.{name}={_written(values[name])}" for name in names if name in values)


def _written(value: Any) -> str:
    """A value of a config as Hydra reads it in an override.

    >>> _written(["a", "b, c"]), _written(None), _written(True), _written(0.5)
    ('["a","b, c"]', 'null', 'true', '0.5')
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return str(value)
