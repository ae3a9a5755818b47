"""A run that prunes structures and quantizes ends in a smaller model, file and summary."""

from __future__ import annotations

from pathlib import Path

import api_training
from safetensors.torch import load_file
from shaped import classifier
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import sparsekit
from sparsekit.models.inspection import inspect
from sparsekit.modifiers.distillation.layers import PerLayerDistillation
from sparsekit.onnx.sums import check_sums
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
    shape = training.results["shape"]
    assert shape["heads"] == [1, 1] and shape["neurons"] == [32, 32]
    assert shape["before"]["heads"] == [2, 2] and shape["zeros"] == [0, 0]
    loaded, _ = load_model(tmp_path / "run" / "model", TextClassification())
    assert [(block.heads, block.neurons) for block in blocks(loaded)] == [(1, 32), (1, 32)]
    found = {layer.name: layer for layer in inspect(str(tmp_path / "run")).layers}
    assert found["bert.encoder.layer.0.attention.self.query"].shape == (16, 32)
    assert found["bert.encoder.layer.0.intermediate.dense"].weights == "int8"
    summary = sparsekit.export(tmp_path / "run")
    assert summary is not None
    deployment = tmp_path / "run" / "deployment"
    assert (deployment / "model.onnx").is_file()
    picture = (tmp_path / "run" / "shape.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 5000
    assert (deployment / "shape.png").read_bytes() == picture
    card = (deployment / "README.md").read_text()
    assert "![What is left of each layer](shape.png)" in card
    assert "Of 2 heads and 64 neurons in each layer are left:" in card
    assert "| 2 | 1 | 32 | 0.0% |" in card
    assert check_sums(deployment) > 4


def test_hidden_states_are_learned_while_structures_go(teacher_folder: str, tmp_path: Path) -> None:
    """`hidden_gain` of recipe=shaped: the teacher's layers, at the same depth, by `__LAYERS__`."""
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    variables = {"num_epochs": 2, "qat_epochs": 1, "shape_method": "magnitude", "hidden_gain": 2.0}
    training = api_training.trainer(
        model,
        tokenizer,
        api_training.tokenized(tokenizer),
        tmp_path / "run",
        recipe="shaped",
        recipe_args=variables,
        teacher="self",
        args=api_training.arguments(tmp_path / "run", logging_steps=1),
    )
    names = [name for name, _ in model.named_parameters() if "layer_projections" in name]
    assert len(names) == 2
    training.train()
    logged = [event["layer_loss"] for event in training.state.log_history if "layer_loss" in event]
    assert logged and all(loss > 0 for loss in logged)
    training.save_model()
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert not [name for name in weights if "projection" in name]
    assert training.results["shape"]["neurons"] == [32, 32]


def test_layers_of_other_numbers_are_paired_by_depth(teacher_folder: str) -> None:
    model, teacher = classifier(layers=2), classifier(layers=4)
    modifier = PerLayerDistillation(student_layer_names=["__LAYERS__"])
    modifier.use_teacher(teacher)
    modifier.attach(model)
    assert modifier._pairs == [
        ("bert.encoder.layer.0", "bert.encoder.layer.1"),
        ("bert.encoder.layer.1", "bert.encoder.layer.3"),
    ]


def test_all_layers_stand_alone_in_their_list() -> None:
    for fields in (
        {"student_layer_names": ["__LAYERS__", "bert.encoder.layer.0"]},
        {"student_layer_names": ["__LAYERS__"], "teacher_layer_names": ["bert.encoder.layer.0"]},
    ):
        assert "__LAYERS__ stands alone" in PerLayerDistillation(**fields).problems(1)[0]
