"""`student.shrink`: runs whose student loses structures before it is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from datasets import Dataset
from launching import local, planned, run_here
from safetensors.numpy import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from sparsekit.cache import cache_folder
from sparsekit.config.identity import identity_hash
from sparsekit.errors import ConfigError, UserError
from sparsekit.models.loading import Student, load_for_task
from sparsekit.pipeline import experiment
from sparsekit.pipeline.plan import Plan
from sparsekit.pipeline.shrinking import load_student
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.pipeline import Pipeline
from sparsekit.shape.shrink import Shrink
from sparsekit.tasks.base import Data
from sparsekit.tasks.embedding import Embedding, embedding_distance, pooled
from sparsekit.tasks.text_classification import TextClassification

HALF = ["student.shrink.heads=0.5", "student.shrink.neurons=0.5"]
QUANTIZED = ["recipe=from_dense", "recipe.final_sparsity=0"]
TARGET = f"{Shrink.__module__}.Shrink"
SAVING = ["training.save_strategy=steps", "+training.save_steps=2", "training.save_total_limit=5"]
SHORT = ["recipe.num_epochs=2", "recipe.qat_epochs=1"]


def records() -> list[dict[str, Any]]:
    """What the cached smaller checkpoints say of themselves."""
    return [
        json.loads(file.read_text())
        for file in (cache_folder() / "shrunken").glob("*/model/shrinking.json")
    ]


def vectors(folder: Path, texts: list[str]) -> torch.Tensor:
    """The vectors of texts by an encoder, of shape (texts, hidden)."""
    loaded, _ = load_for_task(folder, Embedding(), [])
    rows = loaded.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = loaded.model.eval()(**rows).last_hidden_state
    return pooled(hidden, rows["attention_mask"], "mean")


def weights(folder: Path) -> dict[str, Any]:
    return load_file(RunFolder(folder).weights)


def test_a_dense_model_is_shrunk_and_taught_by_itself(
    csv_files: dict[str, str], teacher_folder: str, tmp_path: Path
) -> None:
    words = [*local(csv_files, teacher_folder), *QUANTIZED, *SHORT, *HALF, "teacher=self"]
    words += ["student.shrink.method=obs", "student.shrink.rows=16", *SAVING]
    whole = tmp_path / "whole"
    summary = run_here(whole, *words)
    assert summary["status"] == "completed"
    shape = summary["shape"]
    assert shape["heads"] == [1, 1] and shape["neurons"] == [32, 32]
    assert shape["before"]["heads"] == [2, 2] and shape["before"]["neurons"] == [64, 64]
    assert len(summary["quantization"]["modules"]) > 0
    picture = (whole / "shape.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and (whole / "deployment" / "shape.png").is_file()
    assert "Of 2 heads and 64 neurons" in (whole / "deployment" / "README.md").read_text()
    assert summary["teacher"]["validation"]
    assert any(record["rows"] == 16 and record["method"] == "obs" for record in records())
    answers = Pipeline(whole)(["a fine film", "a dull plot"])
    assert {answer["label"] for answer in answers} <= {"0", "1"}
    # Resumed in the middle it ends in the same weights, whether the smaller checkpoint is kept...
    for name, kept_in_cache in (("resumed", True), ("made again", False)):
        resumed = Path(shutil.copytree(whole, tmp_path / name))
        for left in ("checkpoint-4", "../model", "../deployment"):
            shutil.rmtree(resumed / "checkpoints" / left)
        if not kept_in_cache:
            shutil.rmtree(cache_folder() / "shrunken")
        run_here(resumed, *words, "export=none", "training.resume_from_checkpoint=auto")
        for weight, value in weights(whole).items():
            np.testing.assert_array_equal(value, weights(resumed)[weight], err_msg=weight)


def test_the_teacher_is_the_whole_student(
    csv_files: dict[str, str], teacher_folder: str, tmp_path: Path
) -> None:
    for shares, expected in ((HALF, [Path(teacher_folder)]), ([], [])):
        words = [*local(csv_files, teacher_folder), *QUANTIZED, *SHORT, *shares, "teacher=self"]
        plan = planned(f"output_dir={tmp_path}", "tracking=none", *words)
        (tmp_path / "run").mkdir(exist_ok=True)
        inputs = experiment._inputs(plan, RunFolder(tmp_path / "run"), False)
        # Without a folder it is the student that was loaded.
        assert inputs.teacher_folders() == expected


def test_layers_and_width_of_a_student_whose_head_is_new(
    csv_files: dict[str, str], student_folder: str, tmp_path: Path
) -> None:
    words = [*local(csv_files, student_folder), "recipe=dense", "student.sparsity=0.5"]
    words += ["student.shrink.layers=0.5", "student.shrink.hidden=0.25", "export=none"]
    summary = run_here(tmp_path / "run", *words)
    assert summary["shape"]["hidden"] == 24 and summary["shape"]["heads"] == [2]
    assert summary["shape"]["before"]["hidden"] == 32
    assert weights(tmp_path / "run")["classifier.weight"].shape == (2, 24)


def test_vectors_of_the_whole_student_are_learned(
    csv_files: dict[str, str],
    teacher_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder_folder = str(tmp_path / "encoder")
    AutoModel.from_pretrained(teacher_folder).save_pretrained(encoder_folder)
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(encoder_folder)
    words = [word for word in local(csv_files, encoder_folder) if "label" not in word]
    words += ["task=embedding", "recipe=from_dense", "recipe.final_sparsity=0", *SHORT, *HALF]
    words += ["recipe.init_lr=3e-4", "training.max_steps=40"]
    words += ["recipe.modifiers.quantization.enabled=false", "training.precision=fp32"]
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    summary = run_here(tmp_path / "run", *words, "teacher=self", "export=none")
    assert summary["shape"]["heads"] == [1, 1]
    [smaller] = (tmp_path / "cache" / "shrunken").glob("*/model")
    texts = [row["text"] for row in Dataset.from_csv(csv_files["train"])]
    whole = vectors(Path(encoder_folder), texts)
    at_first = embedding_distance(vectors(smaller, texts), whole)
    learned = embedding_distance(vectors(RunFolder(tmp_path / "run").model, texts), whole)
    assert 0 < learned < at_first / 2
    with pytest.raises(UserError, match="embedding has no loss of labels; or set"):
        run_here(tmp_path / "obs", *words, "teacher=self", "student.shrink.method=obs")


def test_a_trained_head_is_not_lost_to_other_labels(teacher_folder: str) -> None:
    """With three labels the head is new, which the smaller checkpoint of two must not be."""
    whole = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    trained = whole.classifier.weight.detach().numpy()
    rows = {"train": Dataset.from_dict({"text": ["a"], "label": [0]})}
    for names in (["a", "b", "c"], ["0", "1"]):
        plan = SimpleNamespace(
            student=Student(checkpoint=teacher_folder, shrink={"_target_": TARGET, "neurons": 0.5}),
            training=SimpleNamespace(seed=0),
        )
        loaded = load_student(cast(Plan, plan), Data(TextClassification(), rows, names))
        head = loaded.model.get_parameter("classifier.weight").detach().numpy()
        assert head.shape[0] == len(names)
    np.testing.assert_array_equal(head, trained)


def test_a_score_by_the_loss_needs_a_trained_head(
    csv_files: dict[str, str], student_folder: str, tmp_path: Path
) -> None:
    words = [*local(csv_files, student_folder), *HALF, "student.shrink.method=first_order"]
    with pytest.raises(UserError, match=r"student\.shrink\.method=first_order needs the loss .* f"):
        run_here(tmp_path / "run", *words)


def test_a_share_that_removes_nothing_is_named(
    csv_files: dict[str, str], teacher_folder: str, tmp_path: Path
) -> None:
    words = [*local(csv_files, teacher_folder), "student.shrink.heads=0.1"]
    with pytest.raises(ConfigError, match=r"student\.shrink\.heads 0\.1 removes none: there are 4"):
        run_here(tmp_path / "run", *words)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"heads": 1.5}, r"student\.shrink\.heads 1\.5 must be at least 0 and less than 1"),
        ({"heads": 0.5, "method": "norm"}, r"student\.shrink\.method norm is not one of"),
        ({"heads": 0.5, "rows": 0}, r"student\.shrink\.rows 0 must be 1 or more"),
        ({"head": 0.5}, r"student\.shrink\.head is not a field of Shrink; did you mean heads"),
        ({"heads": "half"}, r"student\.shrink\.heads"),
    ],
)
def test_problems_name_their_key(changed: dict[str, Any], problem: str) -> None:
    node = {"_target_": TARGET, **changed}
    problems = Student(checkpoint="x", shrink=node).problems()
    assert len(problems) == 1
    with pytest.raises(ConfigError, match=problem):
        raise ConfigError(problems)


def test_runs_that_shrink_nothing_keep_their_identity(
    csv_files: dict[str, str], teacher_folder: str, tmp_path: Path
) -> None:
    summary = run_here(
        tmp_path / "run", *local(csv_files, teacher_folder), "recipe=dense", "export=none"
    )
    values = RunFolder(tmp_path / "run").config
    assert "shape" not in summary
    before = {**values, "student": {**values["student"]}}
    del before["student"]["shrink"]
    assert identity_hash(values) == identity_hash(before)
    changed = {**values["student"]["shrink"], "heads": 0.5}
    other = {**values, "student": {**values["student"], "shrink": changed}}
    assert identity_hash(values) != identity_hash(other)
