"""Attention with our dropout against torch's, and that only training takes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny_training import LABELS, trainer
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sparsekit.models.loading import Classifier, Student
from sparsekit.recipe.recipe import Recipe
from sparsekit.training.cpu import attention
from sparsekit.training.cpu.attention import dropout_attention, dropout_attention_in

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler, as cc"
)


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


def masks(tokens: int) -> dict[str, Tensor | None]:
    lowest = torch.finfo(torch.float32).min
    padded = torch.zeros(3, 1, 1, tokens)
    padded[1, ..., tokens // 2 :] = lowest
    return {
        "none": None,
        "padding": padded,
        "expanded": padded.expand(3, 1, tokens, tokens),
        "by row": torch.full((1, 1, tokens, tokens), lowest).triu(1),
    }


@needs_compiler
@pytest.mark.parametrize("mask", masks(1))
@pytest.mark.parametrize(("tokens", "size"), [(21, 32), (16, 16), (1, 16), (45, 48)])
def test_the_kernel_computes_what_torchs_operations_do(tokens: int, size: int, mask: str) -> None:
    torch.manual_seed(0)
    query, key, value, errors = (torch.randn(3, 2, tokens, size) * 2 for _ in range(4))
    added = masks(tokens)[mask]

    def ours(value: Tensor) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(1)
        operands = [each.clone().requires_grad_() for each in (query, key, value)]
        outputs, _ = dropout_attention(nn.Module(), *operands, added, scaling=0.3, dropout=0.25)
        outputs.backward(errors.transpose(1, 2))
        return outputs.detach().transpose(1, 2), [each.grad for each in operands]  # type: ignore[misc]

    # One-hot values show which probabilities the seed drops.
    shown, _ = ours(torch.eye(tokens, size).expand(3, 2, tokens, size))
    kept = shown[..., :tokens] != 0
    operands = [each.clone().requires_grad_() for each in (query, key, value)]
    scores = operands[0] @ operands[1].transpose(2, 3) * 0.3
    probabilities = (scores if added is None else scores + added).softmax(dim=-1)
    expected = probabilities * kept / 0.75 @ operands[2]
    expected.backward(errors)
    outputs, gradients = ours(value)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    for gradient, operand in zip(gradients, operands, strict=True):
        largest = float(operand.grad.abs().max())  # type: ignore[union-attr]
        torch.testing.assert_close(gradient, operand.grad, rtol=1e-5, atol=3e-6 * largest)
    if mask == "none" and tokens > 1:
        assert 0.68 < kept.float().mean() < 0.82
        # Other bits for each batch, head and row.
        assert len(kept.flatten(0, 2).unique(dim=0)) > 3 * tokens


@needs_compiler
def test_the_number_of_threads_changes_no_bit() -> None:
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            operands = [torch.randn(3, 2, 9, 16, requires_grad=True) for _ in range(3)]
            outputs, _ = dropout_attention(nn.Module(), *operands, None, scaling=1.0, dropout=0.1)
            outputs.square().sum().backward()
            found.append([outputs, *(each.grad for each in operands)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_training_takes_it_and_leaves_the_model_as_it_was(
    tmp_path: Path, student_folder: str, rows: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropouts, masks = [], []

    def spy(*arguments: Tensor, dropout: float = 0.0, **options: object) -> tuple[Tensor, None]:
        dropouts.append(dropout)
        masks.append(arguments[4])
        return dropout_attention(*arguments, dropout=dropout, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "dropout_attention", spy)
    loaded = loaded_from(student_folder)
    recipe = Recipe.build({"num_epochs": 1, "modifiers": {}})
    trainer(tmp_path, loaded, rows, recipe).train()
    assert 0.1 in dropouts
    # Rows differ in length, so each batch has padding, which gets no attention.
    lowest = torch.finfo(torch.float32).min
    assert all(mask is not None and mask.min() == lowest for mask in masks)
    assert loaded.model.config._attn_implementation == "sdpa"


def test_what_it_is_not_made_for_keeps_its_own(student_folder: str) -> None:
    model = loaded_from(student_folder).model
    with dropout_attention_in(model):
        assert model.config._attn_implementation == attention.NAME
    assert model.config._attn_implementation == "sdpa"
    with dropout_attention_in(model):
        model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    with dropout_attention_in(model):
        assert model.config._attn_implementation == "eager"
    model.set_attn_implementation("sdpa")
    model.bert.encoder.layer[0].attention.self.is_causal = True
    with dropout_attention_in(model):
        assert model.config._attn_implementation == "sdpa"
