"""SparseML's recipes for question answering, tokens and hidden words train as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hub_seed
import launching
import pytest
import tagged
from project import SPARSEML_RECIPES
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from sparsekit.runs.folder import RunFolder

TEXTS = [str(row["text"]) for row in hub_seed.reviews(48, seed=0)]


def question(text: str) -> dict[str, Any]:
    subject = text.partition(" is ")[0]
    answers = {"text": [subject], "answer_start": [0]}
    return {"question": "what is meant ?", "context": text, "answers": answers}


def trained(folder: Path, rows: list[dict[str, Any]], recipe: str, *overrides: str) -> Any:
    """The events of a run of 12 steps, which passes through the whole recipe; and its summary."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    summary = launching.run_here(
        folder / "run",
        "dataset=json",
        *(f"dataset.data_files.{s}={folder}/rows.jsonl" for s in ("train", "validation")),
        "recipe=sparseml",
        f"recipe.path={SPARSEML_RECIPES / recipe}",
        "training=smoke",
        "training.max_steps=12",
        "training.logging_strategy=steps",
        "training.logging_steps=1",
        "runtime=none",
        *overrides,
    )
    assert summary["status"] == "completed"
    lines = RunFolder(folder / "run").path.joinpath("metrics.jsonl").read_text().splitlines()
    return summary, [event for event in map(json.loads, lines) if "kd_loss" in event]


@pytest.mark.slow
def test_question_answering(teacher_folder: str, tmp_path: Path) -> None:
    """oBERT from 60 to 80 %, and the teacher's starts and ends alone as the loss."""
    dense = tmp_path / "dense"
    AutoModelForQuestionAnswering.from_pretrained(teacher_folder).save_pretrained(dense)
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(dense)
    summary, events = trained(
        tmp_path,
        [question(text) for text in TEXTS],
        "qa_obert.yaml",
        "task=question_answering",
        "dataset.max_length=64",
        "dataset.doc_stride=16",
        f"student.checkpoint={dense}",
        "teacher=self",
        "recipe.variables.num_epochs=4",
    )
    assert summary["sparsity"]["overall"] == pytest.approx(0.8, abs=1e-3)
    assert len(events) == 12
    # With hardness 1 the loss is the distance of both outputs.
    assert all(event["loss"] == pytest.approx(event["kd_loss"], abs=1e-3) for event in events)
    assert set(summary["metrics"]["validation"]) == {"exact_match", "f1"}
    assert summary["export"]["verified"] is True


@pytest.mark.slow
def test_token_classification(student_folder: str, tmp_path: Path) -> None:
    """The student's zeros stay, half of the loss is the teacher's, int8 at the end."""
    summary, events = trained(
        tmp_path,
        tagged.rows(48, seed=0),
        "ner_transfer.yaml",
        "task=token_classification",
        f"student.checkpoint={student_folder}",
        "teacher=self",
        "recipe.variables.num_epochs=4",
        "export.max_metric_drop=0.1",
    )
    assert summary["sparsity"]["overall"] == pytest.approx(0.9, abs=5e-3)
    assert len(events) == 12
    assert summary["export"]["int8_matmuls"] == 13
    assert (tmp_path / "run" / "evaluation" / "validation_entities.json").is_file()


def test_masked_language_modeling(seed_folder: Path, student_folder: str, tmp_path: Path) -> None:
    """All layers together to 90 %, with a learning rate that starts over."""
    summary, events = trained(
        tmp_path,
        [{"text": text} for text in TEXTS],
        "mlm_upstream.yaml",
        "task=masked_lm",
        f"student.checkpoint={seed_folder / 'models' / hub_seed.MASKED_LM_TWIN}",
        "teacher=checkpoint",
        f"teacher.checkpoint={student_folder}",
        "recipe.variables.num_epochs=4",
        "recipe.variables.pruning_end=2",
        "export=none",
    )
    assert summary["sparsity"]["overall"] == pytest.approx(0.9, abs=1e-3)
    rates = [event["learning_rate"] for event in events]
    assert len(rates) == 12
    assert max(rates[6:]) > min(rates[:6])
    assert set(summary["metrics"]["validation"]) == {"loss", "perplexity"}
