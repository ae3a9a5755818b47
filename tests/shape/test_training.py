"""A run that prunes structures and quantizes ends in a smaller model, file and summary."""

from __future__ import annotations

from pathlib import Path

import api_training
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import sparsekit
from sparsekit.models.inspection import inspect
from sparsekit.onnx.trace import load_model
from sparsekit.shape.blocks import blocks
from sparsekit.tasks.text_classification import TextClassification

RECIPE = """
num_epochs: 2
modifiers:
  shape:
    _target_: sparsekit.modifiers.pruning.structured.StructuredPruning
    end: 1.0
    heads: 0.5
    neurons: 0.5
    method: magnitude
  quantization:
    _target_: sparsekit.modifiers.quantization.qat.Quantization
    start: 1.0
"""


def test_a_run_saves_and_exports_the_smaller_model(teacher_folder: str, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    data = api_training.tokenized(tokenizer)
    training = api_training.trainer(model, tokenizer, data, tmp_path / "run", recipe=RECIPE)
    training.train()
    training.save_model()
    loaded, _ = load_model(tmp_path / "run" / "model", TextClassification())
    assert [(block.heads, block.neurons) for block in blocks(loaded)] == [(1, 32), (1, 32)]
    found = {layer.name: layer for layer in inspect(str(tmp_path / "run")).layers}
    assert found["bert.encoder.layer.0.attention.self.query"].shape == (16, 32)
    assert found["bert.encoder.layer.0.intermediate.dense"].weights == "int8"
    summary = sparsekit.export(tmp_path / "run")
    assert summary is not None
    assert (tmp_path / "run" / "deployment" / "model.onnx").is_file()
