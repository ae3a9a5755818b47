"""`sparsekit prune --data` with checkpoints of every task: its columns, its loss."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import hub_seed
import pytest
import tagged
import torch
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.models.inspection import inspect
from sparsekit.models.loading import load_for_task
from sparsekit.tasks.base import Task
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.masked_lm import MaskedLM
from sparsekit.tasks.multi_label import MultiLabel
from sparsekit.tasks.question_answering import QuestionAnswering
from sparsekit.tasks.regression import Regression
from sparsekit.tasks.token_classification import TokenClassification

FAST = ["--num-grads", "8", "--rows", "8", "--num-recomputations", "1", "--sparsity", "0.6"]
TEXTS = [str(row["text"]) for row in hub_seed.reviews(24, seed=0)]
LABELS = ["long", "short"]


def answered(context: str) -> dict[str, Any]:
    first = context.split()[0]
    return {"text": [first], "answer_start": [context.index(first)]}


# Of each task: its labels, and rows that have its own columns.
TASKS: dict[str, tuple[Task, list[str], list[dict[str, Any]]]] = {
    "token_classification": (TokenClassification(), tagged.NAMES, tagged.rows(24, seed=0)),
    "question_answering": (
        QuestionAnswering(),
        [],
        # Contexts of several windows.
        [{"question": "what ?", "context": text * 60, "answers": answered(text)} for text in TEXTS],
    ),
    "regression": (
        Regression(),
        ["score"],
        [{"text": text, "label": len(text) / 10} for text in TEXTS],
    ),
    "multi_label": (
        MultiLabel(),
        LABELS,
        [{"text": text, "labels": LABELS[len(text) % 3 :]} for text in TEXTS],
    ),
    "masked_lm": (MaskedLM(), [], [{"text": text} for text in TEXTS]),
}


def checkpoint(folder: Path, base: str, task: Task, labels: list[str]) -> str:
    """A dense model with the head of the task."""
    torch.manual_seed(0)
    loaded, _ = load_for_task(Path(base), task, labels)
    loaded.model.save_pretrained(folder)
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copyfile(Path(base) / name, folder / name)
    return str(folder)


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def command(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["prune", *words])
    return result.exit_code, result.output


@pytest.mark.parametrize("method", ["obs", "wanda"])
@pytest.mark.parametrize("name", TASKS)
def test_a_checkpoint_of_the_task_is_pruned(
    name: str, method: str, teacher_folder: str, tmp_path: Path
) -> None:
    task, labels, rows = TASKS[name]
    model = checkpoint(tmp_path / "dense", teacher_folder, task, labels)
    data, target = written(tmp_path / "rows.jsonl", rows), tmp_path / "pruned"
    options = ["--method", method, "--data", data, "-o", str(target)]
    code, output = command(model, *FAST, *options)
    assert code == 0, output
    assert inspect(str(target)).sparsity == pytest.approx(0.6, abs=1e-3)
    again, missing = load_for_task(target, task, labels)
    assert not missing and task.is_head(type(again.model).__name__)


def test_columns_of_another_name(teacher_folder: str, tmp_path: Path) -> None:
    task, labels, rows = TASKS["token_classification"]
    model = checkpoint(tmp_path / "dense", teacher_folder, task, labels)
    renamed = [{"words": row["tokens"], "ner": row["tags"]} for row in rows]
    options = [*FAST, "--method", "obs", "--data", written(tmp_path / "rows.jsonl", renamed)]
    code, output = command(model, *options, "-o", str(tmp_path / "pruned"))
    assert code == 1 and "set --text-column and --label-column" in output, output
    named = ["--text-column", "words", "--label-column", "ner"]
    code, output = command(model, *options, *named, "-o", str(tmp_path / "pruned"))
    assert code == 0, output
    code, output = command(
        model, *options, *named, "--text-column", "more", "-o", str(tmp_path / "other")
    )
    assert code == 1
    assert "--text-column words more: token classification reads 1 column, token_column" in output


def test_an_encoder_of_embeddings_has_no_loss_of_labels(
    teacher_folder: str, tmp_path: Path
) -> None:
    model = checkpoint(tmp_path / "dense", teacher_folder, Embedding(), [])
    data = written(tmp_path / "rows.jsonl", [{"text": text} for text in TEXTS])
    options = [*FAST, "--data", data, "-o", str(tmp_path / "pruned"), "--method"]
    code, output = command(model, *options, "obs")
    assert code == 1
    assert "is a BertModel; fine-tune it first, or use --method wanda" in output
    code, output = command(model, *options, "wanda")
    assert code == 0, output
