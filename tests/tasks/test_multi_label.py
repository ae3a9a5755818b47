"""Any number of labels for each text, from the data to the answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import hub_seed
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, DatasetDict, List, Value
from quantized_training import trained
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support

import sparsekit
from sparsekit.data.datasets import FileDataset
from sparsekit.data.selection import ReadRows, RowSelection, SelectedRows
from sparsekit.errors import ConfigError, UserError
from sparsekit.gate.gate import GateConfig, compare_with
from sparsekit.gate.models import Answered
from sparsekit.metrics import multi_label
from sparsekit.models.loading import LoadedModel, load_for_task
from sparsekit.models.teacher import averaged_outputs
from sparsekit.pipeline.verification import verify_run
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.answers import predict
from sparsekit.tasks.base import Data
from sparsekit.tasks.config import task_of
from sparsekit.tasks.distances import bernoulli_divergence
from sparsekit.tasks.multi_label import KIND, MultiLabel
from sparsekit.tasks.regression import Regression
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.class_weights import loss_problems

NAMES = ["plot", "positive", "shows"]
TASK = MultiLabel(max_length=32)


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Reviews with the labels of what they say; some have none."""
    made = []
    for review in hub_seed.reviews(count, seed):
        text = str(review["text"])
        has = {"plot": "plot" in text, "positive": review["label"] == 1, "shows": "shows" in text}
        made.append({"text": text, "labels": [name for name in NAMES if has[name]]})
    return made


def loaded(train: list[dict[str, Any]], validation: list[dict[str, Any]], task: MultiLabel) -> Data:
    splits = {"train": Dataset.from_list(train), "validation": Dataset.from_list(validation)}
    return task.load(ReadRows(DatasetDict(splits)))


@pytest.fixture
def data() -> Data:
    return loaded(rows(96, 0), rows(48, 5), TASK)


@pytest.fixture
def student(student_folder: str) -> LoadedModel:
    torch.manual_seed(1)
    return load_for_task(Path(student_folder), TASK, NAMES)[0]


def test_the_metrics_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    scores, true = generator.random((40, 5)), generator.integers(0, 2, (40, 5))
    found = multi_label.compute(multi_label.METRICS, scores, true, 0.6)
    for average in ("micro", "macro"):
        expected = f1_score(true, scores >= 0.6, average=average)
        assert found[f"f1_{average}"] == pytest.approx(expected)
    assert found["average_precision"] == pytest.approx(average_precision_score(true, scores))
    with pytest.raises(UserError, match="undefined for 40 rows without any label"):
        multi_label.compute(["average_precision"], scores, np.zeros((40, 5)), 0.5)


def test_the_report_of_each_label_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    scores, true = generator.random((40, 5)), generator.integers(0, 2, (40, 5))
    true[:, 4] = 0
    report = multi_label.report(scores, true, 0.7, list("abcde"))
    columns = precision_recall_fscore_support(true, scores >= 0.7, zero_division=0)
    for label, *values in zip("abcde", *columns, strict=True):
        found = [report[label][name] for name in ("precision", "recall", "f1", "rows")]
        assert found == pytest.approx(values)
    assert all(report[label]["precision"] != report[label]["recall"] for label in "abcd")
    areas = average_precision_score(true[:, :4], scores[:, :4], average=None)
    assert [report[label]["average_precision"] for label in "abcd"] == pytest.approx(areas)
    assert report["e"]["average_precision"] is None


def test_no_threshold_is_better_than_the_chosen_one() -> None:
    generator = np.random.default_rng(1)
    scores, true = generator.random((30, 4)).round(1), generator.integers(0, 2, (30, 4))
    best = multi_label.best_threshold(scores, true)
    f1 = multi_label.compute(["f1_micro"], scores, true, best)["f1_micro"]
    for other in np.linspace(0.01, 1, 100):
        assert f1 >= multi_label.compute(["f1_micro"], scores, true, other)["f1_micro"]
    assert multi_label.best_threshold(scores, np.zeros((30, 4))) == 0.5


def test_kd_compares_probabilities() -> None:
    student, teacher = torch.randn(6, 3), torch.randn(6, 3)
    assert bernoulli_divergence(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-6)
    p, q = (teacher / 2).sigmoid(), (student / 2).sigmoid()
    expected = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert bernoulli_divergence(student, teacher, 2.0).item() == pytest.approx(
        expected.item(), rel=1e-4
    )


def test_all_forms_of_the_data_are_the_same(tmp_path: Path, data: Data) -> None:
    made = rows(96, 0)
    assert data.label_names == NAMES
    assert data.splits["train"]["label"][:] == [
        [float(name in row["labels"]) for name in NAMES] for row in made
    ]
    assert any(not row["labels"] for row in made)
    flags = [
        {"text": row["text"], **{name: int(name in row["labels"]) for name in NAMES}}
        for row in made
    ]
    by_column = loaded(flags, flags, MultiLabel(label_columns=NAMES))
    joined = tmp_path / "train.csv"
    lines = [f'"{row["text"]}",{"|".join(row["labels"])}\n' for row in made]
    joined.write_text("text,labels\n" + "".join(lines))
    files = FileDataset(data_files={"train": str(joined), "validation": str(joined)})
    kept = SelectedRows(files, RowSelection(drop_empty=True))
    for other in (by_column, MultiLabel(label_separator="|").load(kept)):
        assert other.label_names == NAMES
        assert other.splits["train"].to_dict() == data.splits["train"].to_dict()
    with pytest.raises(UserError, match=r"holds no lists for labels.*dataset\.label_separator"):
        TASK.load(files)
    # A cycle of three, whose inverse is another one.
    names = [*NAMES[1:], NAMES[0]]
    turned = TASK.with_model_labels(data, dict(enumerate(names)))
    assert turned.label_names == names
    assert turned.splits["train"]["label"][:] == [
        [*row[1:], row[0]] for row in data.splits["train"]["label"]
    ]


GOOD = {"text": "a b", "labels": ["x"]}


@pytest.mark.parametrize(
    ("task", "row", "problem"),
    [
        (TASK, {"text": "a", "labels": ["new"]}, "row 1 .*'new' is not one of train's: x; correct"),
        (TASK, {"text": "a", "labels": None}, r"row 1 .*has no list in 1 of 2 rows; write \[\]"),
        (TASK, {"text": " ", "labels": ["x"]}, "row 1 .*'text' has no text"),
    ],
)
def test_lists_that_are_wrong(task: MultiLabel, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        loaded([GOOD], [GOOD, row], task)


def test_what_else_is_wrong() -> None:
    flags = [{"text": "a", "x": "1"}, {"text": "b", "x": "2"}]
    with pytest.raises(ConfigError, match=r"row 1 .*column 'x' holds '2', neither 0 nor 1; write"):
        loaded(flags, flags, MultiLabel(label_columns=["x"]))
    with pytest.raises(ConfigError, match=r"no column labels; .*set dataset\.label_column"):
        loaded([{"text": "a"}], [GOOD], TASK)
    with pytest.raises(ConfigError, match="holds no list in each row; set"):
        loaded([{"text": "a", "labels": "x"}], [{"text": "a", "labels": "x"}], TASK)
    task = MultiLabel(label_columns=["x", "x"], metrics=["mcc"], threshold=2.0)
    with pytest.raises(ConfigError) as caught:
        loaded(flags, flags, task)
    assert len(caught.value.problems) == 3
    smoothed = SparseTrainingArguments(label_smoothing_factor=0.1)
    for other in (TASK, Regression()):
        [problem] = loss_problems(smoothed, other)
        assert problem.startswith("training.label_smoothing_factor=0.1 moves probability")


def test_teachers(data: Data, student: LoadedModel, teacher_folder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"not one probability for each label; .*'{KIND}'"):
        averaged_outputs([Path(teacher_folder)], student, data, ["train"])
    student.model.save_pretrained(tmp_path)
    student.tokenizer.save_pretrained(tmp_path)
    [taught] = averaged_outputs([tmp_path], student, data, ["validation"]).values()
    assert np.shape(taught["logits"]) == (48, 3)


def test_tokenized_labels_of_another_form_are_refused() -> None:
    def check(labels: list[Any], kind: str) -> None:
        made = Dataset.from_dict({"labels": labels}).cast_column("labels", List(Value(kind)))
        TASK.check_rows(3, made, "`train_dataset`", "labels")

    check([[0, 1, 1]], "float32")
    with pytest.raises(UserError, match=r"holds list<.*int64>, not a list of 0\.0 or 1\.0"):
        check([[0, 1, 1]], "int64")
    for wrong in ([0, 1], [0, 1, 2]):
        with pytest.raises(UserError, match=r"row 1 \(from 0\) is "):
            check([[0, 1, 1], wrong], "float32")


@pytest.mark.slow
def test_the_whole_path(
    tmp_path: Path, student: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distillation and int8 in training; the threshold stays with the deployment."""

    def made(rows: list[dict[str, Any]]) -> Dataset:
        flags = [[float(name in row["labels"]) for name in NAMES] for row in rows]
        texts = [row["text"] for row in rows]
        tokens = dict(student.tokenizer(texts))
        own = Dataset.from_dict({"text": texts, **tokens, "labels": flags})
        return own.cast_column("labels", List(Value("float32")))

    run = RunFolder(tmp_path / "run")
    trainer = trained(run.path, student, TASK, made(rows(160, 0)), made(rows(64, 5)))
    scores = run.summary["metrics"]["validation"]
    assert set(scores) == set(multi_label.METRICS)
    assert scores["f1_micro"] > 0.6
    report = json.loads((run.evaluations / "validation_labels.json").read_text())
    assert set(report["labels"]) == set(NAMES)
    exported = sparsekit.export(trainer, max_metric_drop=0.2)
    assert exported["verified"]
    assert exported["int8_matmuls"]
    card = (run.deployment / "README.md").read_text()
    assert "| label | precision | recall | F1 | average precision | rows |" in card
    assert verify_run(run, run.summary)["f1_micro"]
    threshold = json.loads((run.deployment / "task.json").read_text())["threshold"]
    assert threshold == report["threshold"] == task_of(run).answers.threshold
    _check_thresholds_of_the_gate(run, monkeypatch)
    text = "the plot is warm , and it shows ."
    [answer] = predict(run.deployment, [text])
    above = {name: score for name, score in answer["scores"].items() if score >= threshold}
    assert {each["label"]: each["score"] for each in answer["labels"]} == above
    pipeline = sparsekit.Pipeline(run.path, runtime="sparse", threads=1)
    [ranked] = pipeline(text, top_k=None)
    assert len(ranked) == 3
    [best] = pipeline(text)
    assert [each["label"] for each in best] == [each["label"] for each in answer["labels"]]


def _check_thresholds_of_the_gate(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate scores a baseline of larger logits at the threshold that is best for these."""
    theirs: list[np.ndarray] = []

    def larger(ours: Answered, *_: object) -> Answered:
        noise = np.random.default_rng(0).normal(0, 0.05, ours.outputs["logits"].shape)
        theirs.append((ours.outputs["logits"] + 5.0 + noise).astype(np.float32))
        return replace(ours, outputs={"logits": theirs[0]})

    monkeypatch.setattr("sparsekit.gate.gate.answer_as", larger)
    config = GateConfig(max_drop=1, metrics=["f1_micro"], resamples=100)
    [test] = compare_with(run, run.path, config)["metrics"]
    labels = pq.read_table(run.evaluation("validation"))["label"].to_pylist()
    best = TASK.score({"logits": theirs[0]}, labels, NAMES)["f1_micro"]
    shared = task_of(run).score({"logits": theirs[0]}, labels, NAMES)["f1_micro"]
    assert test["against"] == pytest.approx(best)
    assert best > shared + 0.05
