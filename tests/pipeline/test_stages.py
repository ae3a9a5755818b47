"""The data of a run as its student sees them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from csv_files import write_csv

from sparsekit.data.datasets import FileDataset
from sparsekit.data.streaming import Streaming
from sparsekit.models.loading import Student
from sparsekit.pipeline.plan import Plan
from sparsekit.pipeline.stages import load_data
from sparsekit.tasks.text_classification import TextClassification


@pytest.mark.parametrize(
    ("case", "names", "expected"),
    [
        ("keep", ["pos", "Pos"], [1, 0, 0]),
        ("ignore", ["pos", "neg"], [0, 0, 0, 1]),
    ],
)
def test_a_runs_model_as_student_of_the_same_data(
    tmp_path: Path, student_folder: str, case: Any, names: list[str], expected: list[int]
) -> None:
    """Its labels differ in case alone, or did before they became one class."""
    labels = ["Pos", "pos", "pos", "neg"][: len(expected)]
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
    )
    _, data = load_data(cast(Plan, plan))
    assert data.label_names == names
    assert data.splits["train"]["label"][:] == expected
