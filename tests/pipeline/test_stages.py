"""The data of a run as its student sees them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from csv_files import write_csv
from datasets import Dataset

from sparsekit.config import sources
from sparsekit.data.datasets import FileDataset
from sparsekit.data.streaming import Streaming
from sparsekit.models.loading import Student
from sparsekit.models.teacher import Finetuned, NoTeacher, Self
from sparsekit.modifiers.optimizer import SetLearningRate
from sparsekit.pipeline import experiment
from sparsekit.pipeline.plan import Plan
from sparsekit.pipeline.stages import load_data
from sparsekit.tasks.base import Data
from sparsekit.tasks.text_classification import TextClassification


@pytest.mark.parametrize(
    ("case", "names", "expected"),
    [
        # A cycle of the sorted names, whose inverse is another one.
        ("keep", ["pos", "Pos", "neg"], [1, 0, 0, 2]),
        ("ignore", ["pos", "neg"], [0, 0, 0, 1]),
    ],
)
def test_a_runs_model_as_student_of_the_same_data(
    tmp_path: Path, student_folder: str, case: Any, names: list[str], expected: list[int]
) -> None:
    """Its labels differ in case alone, or did before they became one class."""
    labels = ["Pos", "pos", "pos", "neg"]
    rows = [{"text": f"row {i}", "label": label} for i, label in enumerate(labels)]
    path = str(write_csv(tmp_path / "rows.csv", rows))
    dataset = FileDataset(format="csv", data_files={"train": path, "validation": path})
    task = TextClassification(label_case=case)
    folder = Path(shutil.copytree(student_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(i): name for i, name in enumerate(names)}
    config["label2id"] = {name: i for i, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))
    plan = SimpleNamespace(
        dataset=dataset,
        task=task,
        student=Student(checkpoint=str(folder)),
        streaming=Streaming(),
        teacher=NoTeacher(),
    )
    _, data = load_data(cast(Plan, plan))
    assert data.label_names == names
    assert data.splits["train"]["label"][:] == expected


def test_a_student_that_teaches_itself_keeps_the_names_of_numbered_classes(
    tmp_path: Path, student_folder: str
) -> None:
    rows = [{"text": f"row {i}", "label": i % 2} for i in range(4)]
    path = str(write_csv(tmp_path / "rows.csv", rows))
    dataset = FileDataset(format="csv", data_files={"train": path, "validation": path})
    folder = Path(shutil.copytree(student_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    found = {}
    for names in (["negative", "positive"], ["LABEL_0", "LABEL_1"], ["a", "b", "c"]):
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
        (folder / "config.json").write_text(json.dumps(config))
        for teacher in (Self(), NoTeacher()):
            plan = SimpleNamespace(
                dataset=dataset,
                task=TextClassification(),
                student=Student(checkpoint=str(folder)),
                streaming=Streaming(),
                teacher=teacher,
            )
            _, data = load_data(cast(Plan, plan))
            assert data.splits["train"]["label"][:] == [0, 1, 0, 1]
            found[names[0], type(teacher)] = data.label_names
    assert found.pop(("negative", Self)) == ["negative", "positive"]
    # Another teacher's names need not be meant, nor those of another number of classes.
    assert list(found.values()) == [["0", "1"]] * 5


def keys_of_teachers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys in the cache of the teachers that are asked for; none is trained."""
    keys: list[str] = []

    def cached(kind: str, key: str, make: object) -> Path:
        keys.append(key)
        return Path("/nowhere")

    monkeypatch.setattr(experiment, "cached", cached)
    return keys


def test_a_finetuned_teacher_has_read_the_same_tokens(
    monkeypatch: pytest.MonkeyPatch, student_folder: str
) -> None:
    """One that was trained on rows of 16 tokens is not that of rows of 128."""
    keys = keys_of_teachers(monkeypatch)
    teacher = Finetuned(base=student_folder, recipe={"num_epochs": 1, "modifiers": {}})
    plan = SimpleNamespace(values={"training": {}})
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    for task in (
        TextClassification(max_length=16),
        TextClassification(max_length=128),
        TextClassification(max_length=128, metrics=["f1"]),
    ):
        data = Data(task, {"train": rows}, ["a", "b"])
        experiment.finetuned_teacher(plan, data, teacher)  # type: ignore[arg-type]
    assert keys[0] != keys[1]
    assert keys[1] == keys[2]


@dataclass(kw_only=True)
class OwnTask(TextClassification):
    """A task of a user, whose file is this one."""


@dataclass(kw_only=True)
class OwnModifier(SetLearningRate):
    """A modifier of a user."""


@pytest.mark.parametrize("own", ["task", "modifier"])
def test_a_finetuned_teacher_of_edited_code_is_another(
    own: str, monkeypatch: pytest.MonkeyPatch, student_folder: str
) -> None:
    keys = keys_of_teachers(monkeypatch)
    rate = {"_target_": f"{__name__}.OwnModifier", "learning_rate": 0.1}
    modifiers = {"rate": rate} if own == "modifier" else {}
    teacher = Finetuned(base=student_folder, recipe={"num_epochs": 1, "modifiers": modifiers})
    plan = SimpleNamespace(values={"training": {}})
    task = OwnTask() if own == "task" else TextClassification()
    data = Data(task, {"train": Dataset.from_dict({"text": ["a"], "label": [0]})}, ["a", "b"])
    for content in ("as it is", "as it is", "edited"):
        monkeypatch.setattr(sources, "file_hash", lambda path, content=content: content)
        experiment.finetuned_teacher(plan, data, teacher)  # type: ignore[arg-type]
    assert keys[0] == keys[1] != keys[2]
