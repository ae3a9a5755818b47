"""Attention with our dropout against torch's, and that only training takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny_training import LABELS, trainer
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sparsekit.models import Classifier, Student
from sparsekit.recipe import Recipe
from sparsekit.training import attention
from sparsekit.training.attention import dropout_attention, used_by


def operands() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3)]


def loaded_from(folder: str) -> Classifier:
    """With the dropout that tiny_training's takes out."""
    return Student(checkpoint=folder).load(LABELS, 64)


def padding() -> Tensor:
    mask = torch.zeros(2, 1, 1, 5)
    mask[1, ..., 3:] = torch.finfo(torch.float32).min
    return mask


@pytest.mark.parametrize("mask", [None, padding()])
def test_it_is_torchs_attention_where_dropout_is_next_to_none(mask: Tensor | None) -> None:
    results = []
    for function in (sdpa_attention_forward, dropout_attention):
        query, key, value = operands()
        module = nn.Module()
        module.is_causal = False
        outputs, _ = function(module, query, key, value, mask, scaling=0.5, dropout=1e-9)
        outputs.square().sum().backward()
        results.append([outputs.detach(), query.grad, key.grad, value.grad])
    for torchs, ours in zip(*results, strict=True):
        # A probability to keep of 65535/65536 is the nearest there is.
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5)


def test_probabilities_are_dropped_and_keep_their_mean() -> None:
    torch.manual_seed(0)
    query = torch.zeros(64, 2, 6, 4)
    value = torch.eye(6).expand(64, 2, 6, 6)
    module = nn.Module()
    module.is_causal = False
    outputs, _ = dropout_attention(module, query, query, value, None, scaling=1.0, dropout=0.25)
    # With equal scores and one-hot values the outputs are the probabilities: 1/6, dropped.
    assert outputs.unique().tolist() == pytest.approx([0.0, 1 / 6 / 0.75], rel=1e-4)
    assert abs(outputs.mean() * 6 - 1) < 0.03


def test_training_takes_it_and_leaves_the_model_as_it_was(
    tmp_path: Path, student_folder: str, rows: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropouts = []

    def spy(*arguments: Tensor, dropout: float = 0.0, **options: object) -> tuple[Tensor, None]:
        dropouts.append(dropout)
        return dropout_attention(*arguments, dropout=dropout, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "dropout_attention", spy)
    loaded = loaded_from(student_folder)
    recipe = Recipe.build({"num_epochs": 1, "modifiers": {}})
    trainer(tmp_path, loaded, rows, recipe).train()
    assert 0.1 in dropouts
    assert loaded.model.config._attn_implementation == "sdpa"


def test_what_it_is_not_made_for_keeps_its_own(student_folder: str) -> None:
    model = loaded_from(student_folder).model
    with used_by(model):
        assert model.config._attn_implementation == attention.NAME
    assert model.config._attn_implementation == "sdpa"
    with used_by(model):
        model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    with used_by(model):
        assert model.config._attn_implementation == "eager"
    model.set_attn_implementation("sdpa")
    model.bert.encoder.layer[0].attention.self.is_causal = True
    with used_by(model):
        assert model.config._attn_implementation == "sdpa"
