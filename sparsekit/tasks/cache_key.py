"""What names the cached results of a task: its tokens, and the outputs of its teachers."""

from __future__ import annotations

from dataclasses import fields
from typing import cast

from sparsekit import __version__
from sparsekit.config.sources import outside_code
from sparsekit.tasks.base import Task


def cache_key(task: Task) -> list[str]:
    """What decides about the tokens of a row besides its fingerprint and the tokenizer.

    A teacher's outputs are kept under it too. Besides `task.tokens_key` it holds the class, its
    code where that is not sparsekit's, and the fields that such a class adds: a class of your own
    neither takes another task's tokens nor keeps its own once it is edited. It is no method, which
    a class of your own could override.
    """
    made_by, ours = type(task), _of_sparsekit(type(task))
    added = {each.name for each in fields(task)} - {each.name for each in fields(ours)}
    return [
        f"{made_by.__module__}.{made_by.__qualname__}",
        __version__,
        *outside_code([made_by]),
        *(f"{name}={getattr(task, name)!r}" for name in sorted(added)),
        *task.tokens_key,
    ]


def _of_sparsekit(task: type[Task]) -> type[Task]:
    """The class of sparsekit that `task` is, or extends."""
    ours = (base for base in task.__mro__ if base.__module__.partition(".")[0] == "sparsekit")
    return cast(type[Task], next(ours))
