"""`task.json`, which names the task of a deployment."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsekit.config.build import build
from sparsekit.errors import UserError, first_line, parse_json
from sparsekit.runtime.encoder import UNNAMED, read_json
from sparsekit.runtime.tasks.base import Answers
from sparsekit.runtime.tasks.text_classification import TextClassificationAnswers

# In a deployment folder: the class of the task's answers and its settings.
FILE = "task.json"
# How transformers ends the names of classifiers.
_HEAD = "ForSequenceClassification"


def write_task(answers: Answers, folder: Path) -> None:
    """Write `folder/task.json`."""
    kind = type(answers)
    node = {"_target_": f"{kind.__module__}.{kind.__qualname__}", **asdict(answers)}
    (folder / FILE).write_text(json.dumps(node, indent=2) + "\n", encoding="utf-8")


def read_task(folder: Path) -> Answers:
    """The answers that `folder/task.json` names.

    Deployments of versions before 0.2 have no such file and are text classifiers, as their
    `config.json` says. Raises UserError where the file is missing from another deployment or cannot
    be read, and for a class that is neither sparsekit's nor imported already.
    """
    node = _node(folder)
    if node is None:
        return TextClassificationAnswers()
    answers: Answers = build(node, FILE, Answers)
    return answers


def is_own(folder: Path) -> bool:
    """Whether the class that `folder/task.json` names is a user's own; it is not imported."""
    node = _node(folder)
    name = None if node is None else node["_target_"]
    return isinstance(name, str) and not name.startswith("sparsekit.")


def _node(folder: Path) -> dict[str, Any] | None:
    """What `folder/task.json` holds; None for a text classifier without it."""
    file = folder / FILE
    if not file.is_file():
        _check_classifier(folder)
        return None
    try:
        node = parse_json(file.read_bytes())
        if not isinstance(node, dict) or "_target_" not in node:
            raise ValueError("it is not a mapping with _target_")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {file}: {first_line(error)}; export the run again: sparsekit export RUN"
        ) from error
    return node


def _check_classifier(folder: Path) -> None:
    """Raise UserError where `config.json` is not that of a classifier with one label a text."""
    config = read_json(folder / "config.json")
    architectures, labels = config.get("architectures"), config.get("id2label", UNNAMED)
    kind, count = config.get("problem_type"), len(labels) if isinstance(labels, dict) else 0
    names = architectures if isinstance(architectures, list) else []
    classifier = any(str(name).endswith(_HEAD) for name in names)
    if not classifier or kind not in (None, "single_label_classification") or count < 2:
        raise UserError(
            f"there is no {folder / FILE}, and config.json does not say that the model is a text "
            f"classifier of one label a text: architectures {architectures}, problem_type {kind}, "
            f"{count} labels; export the run again: sparsekit export RUN"
        )
