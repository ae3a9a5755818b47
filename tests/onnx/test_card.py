"""The model card describes its deployment: kind, measurements, opset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import Dataset
from run_folder import LABELS, LINEARS, quantization, write_run

from sparsekit.data.origin import with_origin
from sparsekit.data.profile import profile
from sparsekit.metrics.report import class_report, read_report, write_report
from sparsekit.onnx.card_metadata import metadata
from sparsekit.onnx.class_tables import WIDEST_MATRIX, class_tables
from sparsekit.onnx.export import ExportConfig, export
from sparsekit.runtime.evaluation_table import read_columns
from sparsekit.sparsity.prunable import prunable


def card_of(run: Path, form: str = "qdq", recipe: dict[str, Any] | None = None) -> str:
    if recipe is not None:
        settings = yaml.safe_load((run / "config.yaml").read_text()) | {"recipe": recipe}
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
    export(run, ExportConfig(form=form, max_metric_drop=0.1))
    return (run / "deployment" / "README.md").read_text()


def head_of(card: str) -> dict[str, Any]:
    """The metadata before the text."""
    _, head, _ = card.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def fill(model: Any) -> None:
    for module in prunable(model).values():
        module.weight.data[module.weight == 0] = 0.01


def test_a_dense_model_is_not_called_sparse_or_quantized(
    tmp_path: Path, student_folder: str
) -> None:
    nodes = {"quantization": {"enabled": False}, "pruning": None, "weight_decay": {}}
    recipe = {"num_epochs": 1, "modifiers": nodes | {"learning_rate": {"enabled": True}}}
    card = card_of(write_run(tmp_path, student_folder, None, change=fill), recipe=recipe)
    assert head_of(card)["tags"] == ["sparsekit", "onnx", "onnxruntime"]
    assert "# BertForSequenceClassification\n" in card
    assert "1 epoch with learning_rate.\n" in card
    assert "| int8 matmuls | 0 of 14 |" in card
    assert "Zeros alone" not in card and "Int8 is fast" not in card
    assert "## Classes" not in card  # a run without a report of classes


def test_a_sparse_model_in_float32(tmp_path: Path, student_folder: str) -> None:
    card = card_of(write_run(tmp_path, student_folder, None))
    assert "# BertForSequenceClassification, sparse\n" in card
    assert "Zeros alone" in card and "Int8 is fast" not in card


@pytest.mark.parametrize(("form", "opset"), [("qdq", 20), ("deepsparse", 16)])
def test_the_opset_is_that_of_the_file(
    tmp_path: Path, student_folder: str, form: str, opset: int
) -> None:
    card = card_of(write_run(tmp_path, student_folder, quantization()), form)
    assert f"ONNX opset {opset};" in card
    assert "# BertForSequenceClassification, sparse, int8\n" in card
    assert head_of(card)["tags"][-2:] == ["sparse", "int8"]


def test_matmuls_of_attention_count_as_matmuls(tmp_path: Path, student_folder: str) -> None:
    modifier = quantization()
    modifier.quantize_attention = True
    card = card_of(write_run(tmp_path, student_folder, modifier))
    matmuls = LINEARS + 4
    assert f"| int8 matmuls | {matmuls} of {matmuls} |" in card


def test_the_head_names_what_the_hub_looks_for(tmp_path: Path, student_folder: str) -> None:
    run = write_run(tmp_path, student_folder, quantization())
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["dataset"]["path"] = "nyu-mll/glue"
    settings["student"] = {"checkpoint": "google-bert/bert-base-uncased"}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    exported = export(run, ExportConfig(license="apache-2.0", max_metric_drop=0.1))
    head = head_of((run / "deployment" / "README.md").read_text())
    assert head["license"] == "apache-2.0"
    assert head["base_model"] == "google-bert/bert-base-uncased"
    assert head["datasets"] == ["nyu-mll/glue"]
    (index,) = head["model-index"]
    (result,) = index["results"]
    assert result["dataset"] == {
        "name": "nyu-mll/glue",
        "type": "nyu-mll/glue",
        "split": "validation",
    }
    accuracy = pytest.approx(exported["metrics"]["accuracy"], abs=1e-4)
    assert result["metrics"] == [{"type": "accuracy", "value": accuracy}]


def test_the_head_has_no_paths_of_the_machine_and_no_license_unasked() -> None:
    settings = {
        "dataset": {"data_files": {"train": "/home/me/tickets: 2.csv"}},
        "student": {"checkpoint": "/home/me/model"},
    }
    head = yaml.safe_load(
        metadata(settings, "text-classification", {"f1": 0.5}, "Bert, int8", ["a: b"], None)
    )
    assert head.keys() == {"library_name", "pipeline_tag", "tags", "model-index"}
    assert head["tags"] == ["a: b"]
    assert head["model-index"][0]["results"][0]["dataset"]["name"] == "tickets: 2.csv"


def test_a_folder_of_the_user_is_no_hub_id(
    tmp_path: Path, student_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the run is exported again: paths are relative to where it was started."""
    run = write_run(tmp_path / "run", student_folder, None)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["student"] = {"checkpoint": "models/minilm"}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "models" / "minilm").mkdir(parents=True)
    launch = {"runtime": {"cwd": str(tmp_path), "config_sources": []}, "overrides": {"task": []}}
    (run / ".hydra").mkdir()
    (run / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {**launch, "verbose": 0}}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "base_model" not in head_of(card_of(run))


def test_the_example_pads_and_truncates_as_the_tokenizer_does(
    tmp_path: Path, student_folder: str
) -> None:
    run = write_run(tmp_path, student_folder, None)
    card = card_of(run)
    assert "enable_truncation(32)\n" in card and "enable_padding(pad_id=0)\n" in card
    file = run / "model" / "tokenizer_config.json"
    sides = {"padding_side": "left", "truncation_side": "left", "pad_token_type_id": 1}
    file.write_text(json.dumps(json.loads(file.read_text()) | sides))
    # A BERT padded on the left gives other outputs: only the card counts here.
    export(run, ExportConfig(verify=False))
    card = (run / "deployment" / "README.md").read_text()
    assert 'enable_truncation(32, direction="left")\n' in card
    assert 'enable_padding(pad_id=0, pad_type_id=1, direction="left")\n' in card


@pytest.mark.parametrize(("rows", "epochs"), [(None, "1.7"), (1280, "0.85")])
def test_the_steps_are_those_that_were_made(
    tmp_path: Path, student_folder: str, rows: int | None, epochs: str
) -> None:
    """A run of 34 steps does not say 13 epochs; its data are described.

    An epoch is one of the rows that training read, texts without labels among them.
    """
    run = write_run(tmp_path, student_folder, None)
    saved = {
        "num_epochs": 13,
        "metadata": {
            "steps": 34,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 2,
            "processes": 1,
            "rows": rows,
        },
    }
    (run / "model" / "recipe.yaml").write_text(yaml.safe_dump(saved))
    texts = {"text": ["late parcel"] * 20, "label": [0, 1] * 10}
    table = with_origin(Dataset.from_dict(texts), "train")
    figures = profile({"train": table}, ["text"], {}, ["late", "lost"])
    figures |= {"max_length": 32, "longest_input": None, "warnings": []}
    figures["splits"]["train"]["rows"] = 640
    (run / "data.json").write_text(json.dumps(figures))
    untaught = {"modifiers": [{"name": "pruning"}, {"name": "distillation", "off": True}]}
    (run / "schedule.json").write_text(json.dumps(untaught))
    modifiers = {name: {"enabled": True} for name in ("pruning", "distillation")}
    card = card_of(run, recipe={"num_epochs": 13, "modifiers": modifiers})
    assert f"34 steps of 32 rows ({epochs} epochs) with pruning.\n" in card
    assert "13 epochs" not in card
    assert "## Data\n\nTrained on data of its own:\n\n| | train |\n" in card
    assert "| rows | 640 |" in card


NAMES = ["refund", "late|delivery", "<b>other</b>"]


def report_of(names: list[str]) -> dict[str, Any]:
    """A report of 60 rows in which the last class is never predicted."""
    labels = np.arange(60) % len(names)
    predicted = np.where(labels == len(names) - 1, 0, labels)
    return class_report(np.eye(len(names))[predicted] * 3, labels, names)


def test_classes_are_tables_and_the_worst_is_named() -> None:
    text = class_tables(report_of(NAMES))
    lines = text.splitlines()
    assert "| refund | 0.5000 | 1.0000 | 0.6667 | 20 |" in lines
    assert r"| late\|delivery | 1.0000 | 1.0000 | 1.0000 | 20 |" in lines
    assert r"| \<b\>other\</b\> | - | 0.0000 | 0.0000 | 20 |" in lines
    assert r"Worst class: **\<b\>other\</b\>**, F1 0.0000." in text
    assert "is never recognized: recall 0 of 20 rows, 20 of them predicted as 'refund'." in text
    assert r"| **refund** | 20 | 0 | 0 |" in lines
    assert r"Most frequent errors: \<b\>other\</b\> as refund (20)." in text
    assert "Expected calibration error: 0." in text


def test_a_matrix_of_many_classes_is_left_out() -> None:
    names = [f"class {i}" for i in range(WIDEST_MATRIX + 1)]
    text = class_tables(report_of(names))
    assert "Confusion matrix" not in text
    assert "Confusion matrix" in class_tables(report_of(names[:-1]))
    assert "Most frequent errors: class 12 as class 0" in text


def test_the_card_has_the_classes_of_the_validation_split(
    tmp_path: Path, student_folder: str
) -> None:
    run = write_run(tmp_path, student_folder, None)
    columns = read_columns(run / "evaluation" / "validation.parquet", ["logits", "label"])
    write_report(
        run / "evaluation",
        "validation",
        np.array(columns["logits"]),
        np.array(columns["label"]),
        LABELS,
    )
    card = card_of(run)
    report = read_report(run / "evaluation", "validation")
    assert report is not None and report["rows"] == 64
    assert f"\n\n{class_tables(report)}\n\n## Run it\n" in card
