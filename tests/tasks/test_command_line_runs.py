"""Whole runs of tasks as the command line starts them, from files to what `predict` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import csv_files
import hub_seed
import numpy as np
import pyarrow.parquet as pq
import pytest
import tagged
from launching import run_here
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.metrics import multi_label

LABELS = ["plot", "positive"]
# The seed of each split's rows.
SPLITS = {"train": 0, "validation": 1, "test": 2}
SHORT = [
    "teacher=none",
    "training=smoke",
    "training.max_steps=24",
    "student.sparsity=0.5",
    "dataset.max_length=24",
    "runtime=none",
]


def predicted(run: Path, *words: str) -> str:
    done = CliRunner().invoke(app, ["predict", str(run), *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def completed(folder: Path, student: str, kind: str, *overrides: str) -> dict[str, Any]:
    """The summary of a run in `folder/run` on the files `<split>.<kind>` of `folder`."""
    files = [f"dataset.data_files.{split}={folder / split}.{kind}" for split in SPLITS]
    summary = run_here(
        folder / "run",
        *SHORT,
        f"dataset={kind}",
        *files,
        f"student.checkpoint={student}",
        *overrides,
    )
    assert summary["status"] == "completed"
    assert summary["export"]["verified"] is True
    return summary


@pytest.mark.slow
def test_labels_above_the_threshold_of_the_validation_split(
    student_folder: str, tmp_path: Path
) -> None:
    for split, seed in SPLITS.items():
        rows = [
            {
                "text": row["text"],
                "plot": int("plot" in str(row["text"])),
                "positive": row["label"],
            }
            for row in hub_seed.reviews(64, seed)
        ]
        csv_files.write_csv(tmp_path / f"{split}.csv", rows)
    run = tmp_path / "run"
    labels = f"dataset.label_columns=[{','.join(LABELS)}]"
    summary = completed(tmp_path, student_folder, "csv", "task=multi_label", labels)
    deployed = json.loads((run / "deployment" / "task.json").read_text())
    threshold = deployed["threshold"]
    for split in ("validation", "test"):
        report = json.loads((run / "evaluation" / f"{split}_labels.json").read_text())
        assert report["threshold"] == threshold
        assert list(report["labels"]) == LABELS
        assert set(summary["metrics"][split]) == set(multi_label.METRICS)
    table = pq.read_table(run / "evaluation" / "validation.parquet").to_pydict()
    probabilities = multi_label.probabilities_of(np.array(table["logits"]))
    assert threshold == pytest.approx(
        multi_label.best_threshold(probabilities, np.array(table["label"]))
    )
    text = "the plot is warm ."
    [answer] = json.loads(predicted(run, "--json", text))
    assert set(answer["scores"]) == set(LABELS)
    above = {name for name, score in answer["scores"].items() if score >= threshold}
    assert {each["label"] for each in answer["labels"]} == above


@pytest.mark.slow
def test_texts_in_the_order_of_a_regression(student_folder: str, tmp_path: Path) -> None:
    for split, seed in SPLITS.items():
        reviews = hub_seed.reviews(64, seed)
        rows = [
            {
                "first": one["text"],
                "second": other["text"],
                "closeness": 1.0 if one["label"] == other["label"] else 0.25,
            }
            for one, other in zip(reviews[::2], reviews[1::2], strict=True)
        ]
        csv_files.write_csv(tmp_path / f"{split}.csv", rows)
    run = tmp_path / "run"
    columns = ["dataset.text_columns=[first,second]", "dataset.label_column=closeness"]
    summary = completed(tmp_path, student_folder, "csv", "task=regression", *columns)
    assert set(summary["metrics"]["test"]) == {"pearson", "spearman", "mse"}
    texts = [f"the plot is {word} ." for words in hub_seed.WORDS.values() for word in words]
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    ranked = predicted(run, "--rank", "the cast is warm .", str(tmp_path / "texts.txt"))
    lines = [line.split("\t") for line in ranked.splitlines()]
    assert sorted(text for _, text in lines) == sorted(texts)
    scores = [float(score) for score, _ in lines]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_entities_of_conll_files(student_folder: str, tmp_path: Path) -> None:
    for split, seed in SPLITS.items():
        sentences = [
            "".join(
                f"{word}\t{tag}\n" for word, tag in zip(row["tokens"], row["tags"], strict=True)
            )
            for row in tagged.rows(64, seed)
        ]
        (tmp_path / f"{split}.conll").write_text("\n".join(sentences))
    run = tmp_path / "run"
    longer = ["training.max_steps=60", "recipe.init_lr=0.01"]
    summary = completed(tmp_path, student_folder, "conll", *longer)
    assert summary["metrics"]["test"]["f1"] > 0.5
    text = "the plot is warm ."
    [answer] = json.loads(predicted(run, "--json", text))
    entities = answer["entities"]
    assert entities
    for entity in entities:
        assert text[entity["start"] : entity["end"]] == entity["text"]
