"""`task.json`, which names the task of a deployment."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from sparsekit.config.build import build
from sparsekit.errors import UserError, first_line, parse_json
from sparsekit.runtime.tasks.base import Answers
from sparsekit.runtime.tasks.text_classification import TextClassificationAnswers

# In a deployment folder: the class of the task's answers and its settings.
FILE = "task.json"


def write_task(answers: Answers, folder: Path) -> None:
    """Write `folder/task.json`."""
    kind = type(answers)
    node = {"_target_": f"{kind.__module__}.{kind.__qualname__}", **asdict(answers)}
    (folder / FILE).write_text(json.dumps(node, indent=2) + "\n", encoding="utf-8")


def read_task(folder: Path) -> Answers:
    """The answers that `folder/task.json` names; those of text classification without the file.

    Deployments of versions before 0.2 have no such file. Raises UserError where it cannot be read,
    and for a class that is neither sparsekit's nor imported already.
    """
    file = folder / FILE
    if not file.is_file():
        return TextClassificationAnswers()
    try:
        node = parse_json(file.read_bytes())
        if not isinstance(node, dict) or "_target_" not in node:
            raise ValueError("it is not a mapping with _target_")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {file}: {first_line(error)}; export the run again: sparsekit export RUN"
        ) from error
    answers: Answers = build(node, FILE, Answers)
    return answers
