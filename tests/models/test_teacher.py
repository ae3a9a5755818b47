"""Teachers that fit, teachers that do not, and logits that are computed once."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import hub_seed
import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from sparsekit.errors import UserError
from sparsekit.models import teacher
from sparsekit.models.kept_outputs import add_outputs
from sparsekit.models.loading import load_for_task
from sparsekit.models.teacher import Checkpoint, label_order, teacher_outputs
from sparsekit.tasks.base import Data
from sparsekit.tasks.text_classification import TextClassification

TASK = TextClassification(max_length=64)

LABELS = ["neg", "pos"]


@pytest.fixture
def data() -> Data:
    rows = hub_seed.reviews(24, seed=3)
    return Data(TASK, {"train": Dataset.from_list(rows)}, LABELS)


def named(folder: str, tmp_path: Path, id2label: dict[str, str]) -> Path:
    """A copy of the teacher that calls its labels so."""
    copy = tmp_path / "named"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config["id2label"] = id2label
    config["label2id"] = {name: int(index) for index, name in id2label.items()}
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def test_the_second_time_no_teacher_runs(
    teacher_folder: str, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = teacher_outputs(Path(teacher_folder), data, ["train"])["train"]["logits"]
    monkeypatch.setattr(teacher, "predict_outputs", None)
    second = teacher_outputs(Path(teacher_folder), data, ["train"])["train"]["logits"]
    np.testing.assert_array_equal(first, second)
    assert first.shape == (24, 2)


def test_a_teacher_is_loaded_once_for_all_splits(
    teacher_folder: str, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []
    load = teacher.load_for_task

    def counted(folder: Path, *arguments: Any) -> Any:
        loads.append(folder)
        return load(folder, *arguments)

    monkeypatch.setattr(teacher, "load_for_task", counted)
    rows = hub_seed.reviews(16, seed=4)
    both = replace(data, splits={**data.splits, "validation": Dataset.from_list(rows)})
    found = teacher_outputs(Path(teacher_folder), both, ["validation", "train"])
    assert {split: np.shape(outputs["logits"]) for split, outputs in found.items()} == {
        "validation": (16, 2),
        "train": (24, 2),
    }
    # The training rows may have been read by another test's run.
    assert loads == [Path(teacher_folder)]


def test_another_order_of_labels_is_no_special_case(
    teacher_folder: str, data: Data, tmp_path: Path
) -> None:
    three = tmp_path / "three"
    load_for_task(Path(teacher_folder), TASK, ["bad", "fair", "good"])[0].model.save_pretrained(
        three
    )
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(three)
    data = replace(data, label_names=["bad", "fair", "good"])
    straight = teacher_outputs(three, data, ["train"])["train"]["logits"]
    # A cycle of three, whose inverse is another one.
    turned = named(str(three), tmp_path, {"0": "FAIR", "1": "GOOD", "2": "BAD"})
    np.testing.assert_allclose(
        teacher_outputs(turned, data, ["train"])["train"]["logits"],
        straight[:, [2, 0, 1]],
        atol=1e-6,
    )


def test_other_names_are_taken_in_order_and_mentioned(
    teacher_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = named(teacher_folder, tmp_path, {"0": "BAD", "1": "GOOD"})
    with caplog.at_level(logging.WARNING):
        assert label_order(folder, TASK, "it", LABELS) == [0, 1]
    assert "BAD, GOOD" in caplog.text


def test_the_masked_language_model_twin_is_refused(seed_folder: Path) -> None:
    folder = str(seed_folder / "models" / hub_seed.MASKED_LM_TWIN)
    with pytest.raises(UserError, match=r"BertForMaskedLM, not a sequence classifier.*hyphens"):
        Checkpoint(checkpoint=folder).folders(TASK, LABELS, lambda _: Path())


def test_another_number_of_labels_is_refused(teacher_folder: str) -> None:
    with pytest.raises(UserError, match=r"has 2 labels, the dataset 3 \(a, b, c\)"):
        Checkpoint(checkpoint=teacher_folder).folders(TASK, ["a", "b", "c"], lambda _: Path())


def test_one_of_several_teachers_that_does_not_fit_is_named(
    teacher_folder: str, student_folder: str
) -> None:
    with pytest.raises(UserError, match="oBERT"):
        Checkpoint(checkpoint=[teacher_folder, student_folder]).folders(
            TASK, LABELS, lambda _: Path()
        )


def test_a_teacher_without_its_head_is_refused(
    teacher_folder: str, data: Data, tmp_path: Path
) -> None:
    import torch

    folder = tmp_path / "headless"
    shutil.copytree(teacher_folder, folder)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del weights["classifier.weight"]
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"lacks the weights classifier\.weight"):
        teacher_outputs(folder, data, ["train"])["train"]["logits"]


@pytest.mark.parametrize("task", ["multi_label_classification", "regression"])
def test_a_teacher_of_another_task_is_refused(
    teacher_folder: str, tmp_path: Path, task: str
) -> None:
    folder = named(teacher_folder, tmp_path, {"0": "neg", "1": "pos"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": task}))
    with pytest.raises(UserError, match=f"was trained for {task.replace('_', ' ')}"):
        label_order(folder, TASK, "it", LABELS)


def test_a_teacher_whose_labels_differ_in_case_alone(teacher_folder: str, tmp_path: Path) -> None:
    folder = named(teacher_folder, tmp_path, {"0": "Good", "1": "good"})
    assert label_order(folder, TASK, "it", ["good", "Good"]) == [1, 0]
    with pytest.raises(UserError, match="labels Good, good and the data's GOOD, good differ in"):
        label_order(folder, TASK, "it", ["GOOD", "good"])


def test_a_teacher_worse_than_guessing_is_refused_with_the_order_that_fits() -> None:
    labels = np.arange(100) % 2
    texts = Dataset.from_dict({"text": ["a"] * 100, "label": labels})
    rows = Dataset.from_dict({"labels": labels})
    data = Data(TASK, {"validation": texts}, LABELS)
    right = np.eye(2, dtype=np.float32)[labels]
    teacher.check_teacher("t", data, rows, {"logits": right})
    teacher.check_teacher("t", data, rows, None)
    with pytest.raises(
        UserError,
        match=r"'t' has an accuracy of 0.0%.* 100.0% if what is taken for neg, pos were pos, neg",
    ):
        teacher.check_teacher("t", data, rows, {"logits": right[:, ::-1]})


def test_logits_become_a_column() -> None:
    outputs = {"logits": np.array([[1, 2], [3, 4]], np.float32)}
    rows = add_outputs(Dataset.from_dict({"a": [1, 2]}), outputs)
    assert rows["teacher_logits"][:] == [[1, 2], [3, 4]]
