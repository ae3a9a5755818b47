"""The model card says of each deployment what is so: its kind, its numbers, its opset."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_folder import LINEARS, quantization, write_run

from sparsekit.data.synthetic import reviews
from sparsekit.export.card import EXAMPLE, ROWS
from sparsekit.export.onnx import ExportConfig, export
from sparsekit.models.pruning import prunable


def card_of(run: Path, form: str = "qdq", recipe: dict[str, Any] | None = None) -> str:
    if recipe is not None:
        settings = yaml.safe_load((run / "config.yaml").read_text()) | {"recipe": recipe}
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
    export(run, ExportConfig(form=form, max_metric_drop=0.1))
    return (run / "deployment" / "README.md").read_text()


def fill(model: Any) -> None:
    for module in prunable(model).values():
        module.weight.data[module.weight == 0] = 0.01


def test_a_dense_model_is_not_called_sparse_or_quantized(
    tmp_path: Path, student_folder: str
) -> None:
    nodes = {"quantization": {"enabled": False}, "pruning": None, "weight_decay": {}}
    recipe = {"num_epochs": 1, "modifiers": nodes | {"learning_rate": {"enabled": True}}}
    card = card_of(write_run(tmp_path, student_folder, None, change=fill), recipe=recipe)
    assert "tags: [sparsekit, onnx, onnxruntime]" in card
    assert "# BertForSequenceClassification\n" in card
    assert "1 epoch of learning_rate.\n" in card
    assert "| products on int8 | 0 of 14 |" in card
    assert "Zeros alone" not in card and "Int8 is fast" not in card


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
    assert "sparse, int8]" in card


def test_products_of_attention_are_products_too(tmp_path: Path, student_folder: str) -> None:
    modifier = quantization()
    modifier.quantize_attention = True
    card = card_of(write_run(tmp_path, student_folder, modifier))
    products = LINEARS + 4
    assert f"| products on int8 | {products} of {products} |" in card


def test_the_quickstarts_model_knows_the_words_of_the_examples() -> None:
    """Its vocabulary is that of its reviews: of other words it makes nothing."""
    known = {word for text in reviews()["train"]["text"] for word in text.split()}
    for example in (EXAMPLE, ROWS):
        assert set(re.findall(r"\w+", example.lower())) <= known
