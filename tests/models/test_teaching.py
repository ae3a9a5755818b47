"""Teachers of rows that a user tokenized: every form, run once, refused in words."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import hub_seed
import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
)

from sparsekit.data.tokenized import Tokenized, tokenized_rows
from sparsekit.errors import UserError
from sparsekit.models import teaching, tiny
from sparsekit.models.loading import LoadedModel, load_for_task
from sparsekit.models.teacher import teacher_outputs
from sparsekit.models.teaching import mean_outputs, sources, teacher_model
from sparsekit.tasks.base import Data
from sparsekit.tasks.text_classification import TextClassification

TASK = TextClassification(max_length=64)

LABELS = ["neg", "pos"]


@pytest.fixture
def student(student_folder: str) -> LoadedModel:
    torch.manual_seed(1)
    return load_for_task(Path(student_folder), TASK, LABELS)[0]


@pytest.fixture
def split(student: LoadedModel) -> Tokenized:
    reviews = Dataset.from_list(hub_seed.reviews(24, seed=3))
    dataset = reviews.map(
        lambda rows: student.tokenizer(rows["text"], truncation=True), batched=True
    )
    check = partial(TASK.check_rows, 2)
    rows = tokenized_rows(dataset, student.tokenizer.model_input_names, check, "train_dataset")
    return Tokenized("train_dataset", dataset, rows)


def other_vocabulary(folder: Path) -> Path:
    """A classifier with a vocabulary of its own, and another order of labels."""
    vocabulary = tiny.vocabulary(["a dull plot and a warm cast", "this is a witty film"])
    torch.manual_seed(2)
    labels = {0: "pos", 1: "neg"}
    config = hub_seed.small_bert(vocabulary, num_hidden_layers=1, id2label=labels)
    hub_seed.write_model(folder, BertForSequenceClassification(config), vocabulary)
    return folder


def logits(
    teacher: Any, student: LoadedModel, split: Tokenized, names: list[str] = LABELS
) -> np.ndarray:
    teachers = sources(teacher, TASK, student, names, split.longest)
    found = np.asarray(mean_outputs(teachers, TASK, student, split)["logits"])
    assert found.shape == (len(split.rows), len(names))
    assert found.dtype == np.float32
    return found


def test_tokens_give_the_logits_that_texts_give(
    teacher_folder: str, student: LoadedModel, split: Tokenized
) -> None:
    data = Data(
        TASK,
        {"train": split.dataset.select_columns(["text", "label"])},
        LABELS,
    )
    expected = teacher_outputs(Path(teacher_folder), data, ["train"])["train"]["logits"]
    np.testing.assert_array_equal(logits(teacher_folder, student, split), expected)


def test_a_model_in_memory_is_its_folder(
    teacher_folder: str, student: LoadedModel, split: Tokenized
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    by_folder = logits(Path(teacher_folder), student, split)
    np.testing.assert_array_equal(logits(model, student, split), by_folder)


def test_the_second_time_no_teacher_runs(
    teacher_folder: str, student: LoadedModel, split: Tokenized, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = logits([teacher_folder, "self"], student, split)
    monkeypatch.setattr(teaching, "predict_outputs", None)
    np.testing.assert_array_equal(logits([teacher_folder, "self"], student, split), first)
    with torch.no_grad():
        student.model.classifier.bias.add_(1)
    with pytest.raises(TypeError):
        logits("self", student, split)


def test_several_teachers_are_averaged(
    teacher_folder: str, student: LoadedModel, split: Tokenized
) -> None:
    mean = logits([teacher_folder, "self"], student, split)
    each = [logits(one, student, split) for one in (teacher_folder, "self")]
    np.testing.assert_allclose(mean, (each[0] + each[1]) / 2, rtol=1e-6)


def test_another_vocabulary_reads_the_text(
    student: LoadedModel, split: Tokenized, tmp_path: Path
) -> None:
    folder = other_vocabulary(tmp_path / "other")
    data = Data(
        TASK,
        {"train": split.dataset.select_columns(["text", "label"])},
        LABELS,
    )
    expected = teacher_outputs(folder, data, ["train"])["train"]["logits"]
    np.testing.assert_array_equal(logits(folder, student, split), expected)


def test_another_vocabulary_without_the_text(
    student: LoadedModel, split: Tokenized, tmp_path: Path
) -> None:
    folder = other_vocabulary(tmp_path / "other")
    tokens_only = Tokenized(split.name, split.dataset.remove_columns("text"), split.rows)
    with pytest.raises(UserError, match=r"another vocabulary.*train_dataset has no column of text"):
        logits(folder, student, tokens_only)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with pytest.raises(UserError, match=r"embeds \d+ tokens and the student \d+.*give its folder"):
        logits(model, student, split)
    with pytest.raises(UserError, match="layers cannot be compared"):
        teacher_model(folder, TASK, student, LABELS, split.longest)


def test_the_order_of_labels_is_the_students(
    teacher_folder: str, student_folder: str, split: Tokenized
) -> None:
    names = ["bad", "fair", "good"]
    student, model = (
        load_for_task(Path(folder), TASK, names)[0] for folder in (student_folder, teacher_folder)
    )
    straight = logits(model.model, student, split, names)
    # A cycle of three, whose inverse is another one.
    model.model.config.id2label = {0: "FAIR", 1: "GOOD", 2: "BAD"}
    turned = logits(model.model, student, split, names)
    np.testing.assert_array_equal(turned, straight[:, [2, 0, 1]])


def test_a_model_for_layers_is_a_copy(
    teacher_folder: str, student: LoadedModel, split: Tokenized
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    copied = teacher_model(model, TASK, student, LABELS, split.longest)
    assert copied is not model
    assert torch.equal(copied.classifier.weight, model.classifier.weight)
    assert teacher_model("self", TASK, student, LABELS, 64) is not student.model
    with pytest.raises(UserError, match="names 2 teachers, but layers can imitate only one"):
        teacher_model([model, "self"], TASK, student, LABELS, split.longest)


def test_teachers_of_another_task(
    seed_folder: Path, teacher_folder: str, student: LoadedModel, split: Tokenized, tmp_path: Path
) -> None:
    twin = str(seed_folder / "models" / hub_seed.MASKED_LM_TWIN)
    with pytest.raises(UserError, match="BertForMaskedLM, not a sequence classifier"):
        logits(twin, student, split)
    with pytest.raises(UserError, match=r"has 2 labels, the dataset 3 \(a, b, c\)"):
        sources(teacher_folder, TASK, student, ["a", "b", "c"], 10)
    with pytest.raises(UserError, match="there is no checkpoint folder"):
        logits(tmp_path / "missing", student, split)
    with pytest.raises(UserError, match="teacher is an empty list"):
        logits([], student, split)
    for wrong in (3, [3]):
        with pytest.raises(UserError, match="teacher is of type int; give a transformers model"):
            logits(wrong, student, split)


def test_a_teacher_of_too_few_positions(
    teacher_folder: str, student: LoadedModel, split: Tokenized, tmp_path: Path
) -> None:
    short = tmp_path / "short"
    shutil.copytree(teacher_folder, short)
    text = (short / "config.json").read_text()
    (short / "config.json").write_text(
        text.replace('"max_position_embeddings": 512', '"max_position_embeddings": 8')
    )
    with pytest.raises(UserError, match=r"8 positions, the longest row \d+ tokens"):
        logits(short, student, split)


def test_teachers_run_on_the_device_of_training(
    teacher_folder: str,
    student: LoadedModel,
    split: Tokenized,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[torch.device | None] = []

    def predict(model: Any, task: Any, rows: Dataset, tokenizer: Any, device: Any) -> Any:
        found.append(device)
        return {"logits": np.zeros((len(rows), 2), np.float32)}

    monkeypatch.setattr(teaching, "predict_outputs", predict)
    device = torch.device("meta")
    teachers = sources(["self", teacher_folder], TASK, student, LABELS, split.longest - 1)
    monkeypatch.setattr(teaching, "kept_rows", lambda name, key, make: make(Path("unused")))
    monkeypatch.setattr(teaching, "keep", lambda *_: None)
    monkeypatch.setattr(teaching, "read_kept", lambda *_: {"logits": np.zeros((24, 2))})
    mean_outputs(teachers, TASK, student, split, device)
    assert found == [device, device]
