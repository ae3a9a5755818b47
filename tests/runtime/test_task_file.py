"""Which task a deployment without `task.json` has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from project import GOLDEN

from sparsekit.errors import UserError
from sparsekit.runtime.pipeline import Pipeline
from sparsekit.runtime.tasks.file import read_task
from sparsekit.runtime.tasks.text_classification import TextClassificationAnswers


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A deployment of version 0.1."""
    return Path(shutil.copytree(GOLDEN / "old_run" / "deployment", tmp_path / "old"))


def change(folder: Path, changes: dict[str, Any]) -> None:
    """Change `config.json`; a key with None is removed."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


@pytest.mark.parametrize("changes", [{}, {"problem_type": None}, {"id2label": None}])
def test_an_old_deployment_classifies_texts(old: Path, changes: dict[str, Any]) -> None:
    change(old, changes)
    assert type(read_task(old)) is TextClassificationAnswers
    [found] = Pipeline(old)("a good film")
    assert found.keys() == {"label", "score"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "problem_type multi_label_class"),
        ({"problem_type": "regression", "id2label": {"0": "score"}}, "problem_type regression, 1"),
        ({"problem_type": None, "id2label": {"0": "score"}}, "problem_type None, 1 labels"),
        ({"architectures": ["BertForTokenClassification"]}, "'BertForTokenClassification'"),
        ({"architectures": None}, "architectures None"),
        ({"architectures": "BertForSequenceClassification"}, "architectures Bert"),
        ({"id2label": 3}, "0 labels"),
    ],
)
def test_another_deployment_is_refused(old: Path, changes: dict[str, Any], message: str) -> None:
    change(old, changes)
    with pytest.raises(UserError, match=message) as raised:
        Pipeline(old)
    assert "export the run again: sparsekit export RUN" in str(raised.value)
    assert "task.json" in str(raised.value)
