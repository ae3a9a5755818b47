"""A run that prunes structures and quantizes ends in a smaller model, file and summary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import api_training
import pytest
import torch
from safetensors.torch import load_file
from shaped import batch, classifier
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import sparsekit
from sparsekit.errors import ConfigError
from sparsekit.models.inspection import inspect
from sparsekit.modifiers.base import Modifier
from sparsekit.modifiers.pruning.magnitude import MagnitudePruning
from sparsekit.modifiers.pruning.structured import StructuredPruning
from sparsekit.onnx.sums import check_sums
from sparsekit.onnx.trace import load_model
from sparsekit.recipe.recipe import Recipe
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


@pytest.mark.parametrize("method", ["first_order", "obs"])
def test_each_mask_is_measured_on_as_many_rows_as_are_asked_for(method: str) -> None:
    model, asked = classifier(), list[tuple[int, int]]()

    def draw(count: int, seed: int, multiple: int) -> Iterator[dict[str, Tensor]]:
        asked.append((count, multiple))
        yield batch() | {"labels": torch.tensor([0, 1])}

    modifier = StructuredPruning(end=1.0, heads=0.5, method=method, rows=24, update_frequency=0.5)
    modifier.attach(model)
    modifier.use_rows(draw)
    for epoch in (0.0, 0.25, 0.5, 1.0):
        modifier.update(epoch)
    assert asked == [(24, 1)] * 3


@pytest.mark.parametrize("structured_first", [True, False])
def test_another_modifier_beside_structured_pruning_is_refused(structured_first: bool) -> None:
    structured = StructuredPruning(start=1.0, end=2.0, heads=0.5, method="magnitude")

    def recipe(other: Modifier) -> Recipe:
        modifiers = [structured, other] if structured_first else [other, structured]
        return Recipe(3, {str(i): modifier for i, modifier in enumerate(modifiers)}, {})

    fields: dict[str, Any] = {
        "init_sparsity": 0.0,
        "final_sparsity": 0.5,
        "params": ["__ENCODER__"],
    }
    with pytest.raises(ConfigError, match=r"as its own zeros; set sparsity of the Structured"):
        recipe(MagnitudePruning(start=2.0, end=3.0, **fields)).attach(classifier())
    recipe(MagnitudePruning(start=0.0, end=1.0, **fields)).attach(classifier())
