"""What a checkpoint was trained for, and the columns of a file with data of that task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from transformers import PreTrainedConfig

from sparsekit.errors import UserError
from sparsekit.runs.folder import RunFolder
from sparsekit.system import expanded
from sparsekit.tasks.base import Task
from sparsekit.tasks.config import build_task
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.masked_lm import MaskedLM
from sparsekit.tasks.multi_label import MultiLabel
from sparsekit.tasks.question_answering import QuestionAnswering
from sparsekit.tasks.regression import Regression
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.token_classification import TokenClassification

# Of two with the same head the one that accepts fewer models is first.
_TASKS: tuple[Callable[[], Task], ...] = (
    *(Regression, MultiLabel, TextClassification, TokenClassification),
    *(QuestionAnswering, MaskedLM, Embedding),
)


def task_of_checkpoint(source: str, config: PreTrainedConfig, architecture: str) -> Task | None:
    """The task of the run folder `source`, or else the one that a model's config speaks of.

    architecture: the name of the model's class. None: no task has such a model.
    """
    run = RunFolder(expanded(source))
    if run.config_file.is_file():
        return build_task(run.config)
    return next((task for make in _TASKS if _fits(task := make(), config, architecture)), None)


def task_named(choice: str) -> Task | None:
    """The task of the config `task=<choice>`, which has the name of its module; None: no such one.

    >>> type(task_named("embedding")).__name__, task_named("translation")
    ('Embedding', None)
    """
    made = (make() for make in _TASKS)
    return next((task for task in made if group_choice(task) == choice), None)


def group_choice(task: Task) -> str | None:
    """The choice of the config group `task` for a task of sparsekit; None for any other.

    >>> group_choice(TextClassification())
    'text_classification'
    """
    package, _, module = type(task).__module__.rpartition(".")
    return module if package == "sparsekit.tasks" else None


def _fits(task: Task, config: PreTrainedConfig, architecture: str) -> bool:
    if not task.is_head(architecture):
        return False
    try:
        task.check_model(config)
    except UserError:
        return False
    return True


def with_file_columns(
    task: Task, text_columns: Sequence[str] | None, label_column: str | None
) -> Task:
    """`task` with the columns that are named, its own where they are None.

    Raises UserError where it reads another number of columns.
    """
    fields: dict[str, str | list[str]] = {}
    if text_columns is not None:
        names = _fields(task, text=True)
        if names == ["text_columns"]:
            fields["text_columns"] = list(text_columns)
        elif len(names) == len(text_columns):
            fields |= dict(zip(names, text_columns, strict=True))
        else:
            raise UserError(
                f"--text-column {' '.join(text_columns)}: {task.name} reads {len(names)} "
                f"column{'s' * (len(names) > 1)}, {' and '.join(names)}; name each of them"
            )
    if label_column is not None:
        names = _fields(task, text=False)
        if len(names) != 1:
            raise UserError(
                f"--label-column {label_column}: {task.name} reads no labels; leave it out"
            )
        fields[names[0]] = [label_column] if names[0] == "label_columns" else label_column
    return replace(task, **fields)  # type: ignore[arg-type]


def _fields(task: Task, text: bool) -> list[str]:
    """The fields of the task that name its columns of text, or the others."""
    keys = (column.key for column in task.columns() if column.is_text == text)
    return list(dict.fromkeys(key.removeprefix("dataset.") for key in keys))
