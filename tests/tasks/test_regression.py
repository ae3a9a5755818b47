"""A number for each pair of texts, and texts ordered by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hub_seed
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from quantized_training import trained
from typer.testing import CliRunner

import sparsekit
from sparsekit.cli.app import app
from sparsekit.data.selection import ReadRows
from sparsekit.errors import ConfigError, UserError
from sparsekit.metrics.regression import compute
from sparsekit.models.loading import LoadedModel, load_for_task
from sparsekit.models.teacher import averaged_outputs
from sparsekit.pipeline.verification import verify_run
from sparsekit.runs.folder import RunFolder
from sparsekit.tasks.base import Data
from sparsekit.tasks.regression import Regression

TASK = Regression(text_columns=["first", "second"], label_column="score", max_length=32)


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Two reviews and how positive they are together, 0 to 2."""
    made = hub_seed.reviews(2 * count, seed)
    return [
        {"first": a["text"], "second": b["text"], "score": float(int(a["label"]) + int(b["label"]))}
        for a, b in zip(made[::2], made[1::2], strict=True)
    ]


@pytest.fixture
def data() -> Data:
    splits = {"train": rows(96, 0), "validation": rows(48, 5)}
    made = DatasetDict({name: Dataset.from_list(each) for name, each in splits.items()})
    return TASK.load(ReadRows(made))


@pytest.fixture
def student(student_folder: str) -> LoadedModel:
    torch.manual_seed(1)
    return load_for_task(Path(student_folder), TASK, ["score"])[0]


def test_the_metrics() -> None:
    predicted, true = np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 2.0])
    found = compute(["pearson", "spearman", "mse"], predicted, true)
    assert found == {"pearson": pytest.approx(0.98198, abs=1e-5), "spearman": 1.0, "mse": 2.0}
    with pytest.raises(UserError, match="pearson is undefined for 2 rows with 1 different"):
        compute(["pearson"], np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    with pytest.raises(UserError, match="row 1 is not finite"):
        compute(["mse"], np.array([1.0, np.nan]), np.array([3.0, 3.0]))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"first": "a", "second": "b", "score": "high"}, "row 0 .*no finite number in 1 of 1"),
        ({"first": "a", "second": "b", "score": float("nan")}, "row 0 .*no finite number"),
        ({"first": "", "second": "b", "score": 1.0}, "row 0 .*'first' has no text"),
        ({"first": "a", "score": 1.0}, r"no column second; .*set dataset\.text_columns"),
    ],
)
def test_rows_that_are_wrong(row: dict[str, Any], problem: str) -> None:
    made = Dataset.from_list([row])
    with pytest.raises(ConfigError, match=problem):
        TASK.load(ReadRows(DatasetDict(train=made, validation=made)))
    with pytest.raises(ConfigError, match="'accuracy' is not known for regression"):
        Regression(metrics=["accuracy"]).load(ReadRows(DatasetDict(train=made, validation=made)))


def test_a_teacher_of_classes_is_refused(
    data: Data, student: LoadedModel, teacher_folder: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="with 2 outputs, not a model of one number"):
        averaged_outputs([Path(teacher_folder)], student, data, ["train"])
    student.model.save_pretrained(tmp_path)
    student.tokenizer.save_pretrained(tmp_path)
    [taught] = averaged_outputs([tmp_path], student, data, ["validation"]).values()
    assert np.shape(taught["logits"]) == (48, 1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_distance_is_the_squared_error_at_any_temperature(
    student: LoadedModel, temperature: float
) -> None:
    rows = [{"input_ids": [5, 6], "teacher_logits": [value]} for value in (1.0, -2.0)]
    batch = TASK.collator(student.tokenizer)(rows)
    outputs = {"logits": torch.tensor([[1.5], [1.0]])}
    found = TASK.distance("logits", outputs, batch, temperature)
    assert found.item() == pytest.approx((0.5**2 + 3.0**2) / 2)


@pytest.mark.slow
def test_the_whole_path(tmp_path: Path, student: LoadedModel) -> None:
    """Distillation and int8 in training; the export is checked, verified and orders texts."""

    def made(rows: list[dict[str, Any]]) -> Dataset:
        return Dataset.from_list(rows).map(
            lambda row: {**student.tokenizer(row["first"], row["second"]), "labels": row["score"]}
        )

    run = RunFolder(tmp_path / "run")
    trainer = trained(run.path, student, TASK, made(rows(96, 0)), made(rows(48, 5)))
    assert run.summary["metrics"]["validation"]["spearman"] > 0.5
    exported = sparsekit.export(trainer, max_metric_drop=0.2)
    assert exported["verified"]
    assert exported["int8_matmuls"] == 14
    assert verify_run(run, run.summary)["spearman"]
    query, pipeline = "the plot is warm .", sparsekit.Pipeline(run.path)
    scores = {
        text: pipeline((query, text))[0]["score"]
        for text in (f"the plot is {word} ." for words in hub_seed.WORDS.values() for word in words)
    }
    ascending = sorted(scores, key=scores.__getitem__)
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in ascending))
    command = ["predict", str(run.path), "--rank", query, str(tmp_path / "texts.txt")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    ranked = [line.split("\t") for line in done.output.splitlines()]
    assert {text for _, text in ranked} == set(scores)
    # The order of texts is open where their scores are equal.
    expected = [scores[text] for _, text in ranked]
    assert expected == sorted(expected, reverse=True) != expected[::-1]
    assert [float(score) for score, _ in ranked] == pytest.approx(expected, abs=6e-5)
