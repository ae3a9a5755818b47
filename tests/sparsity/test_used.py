"""The layers that a model's outputs depend on."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import family, write_checkpoint
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.sparsity.used import used_layers


def model_of(name: str, folder: Path) -> PreTrainedModel:
    write_checkpoint(family(name), folder / "checkpoint")
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        folder / "checkpoint"
    )
    return model


@pytest.mark.parametrize(
    ("name", "unused"),
    [
        ("BERT", set()),
        # Called, and its result discarded.
        ("BigBird (full)", {"bert.pooler"}),
        # Never called.
        ("ESM", {"esm.contact_head.regression"}),
        ("ALBERT", set()),
    ],
)
def test_what_is_not_used(tmp_path: Path, name: str, unused: set[str]) -> None:
    model = model_of(name, tmp_path).requires_grad_(False)
    layers = {n for n, m in model.named_modules() if hasattr(m, "weight") and m.weight.ndim == 2}
    assert layers - used_layers(model) == unused
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_it_is_not_quantized(tmp_path: Path) -> None:
    model = model_of("BigBird (full)", tmp_path)
    modifier = Quantization()
    modifier.attach(model)
    assert "bert.pooler" not in modifier.modules and "classifier.dense" in modifier.modules
    assert modifier.note == "14 of 14 Linear layers"


def test_a_scaled_embedding_keeps_its_scale(tmp_path: Path) -> None:
    model = model_of("Gemma 3", tmp_path)
    kind = type(model.get_input_embeddings())
    modifier = Quantization()
    modifier.attach(model)
    assert type(model.get_input_embeddings()) is kind and modifier.modules
