"""Attention of the kernel against torch's operations, and its use in training only."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch
from compiler import needs_compiler
from datasets import Dataset
from tiny_training import LABELS, trainer
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparsekit.kernels import attention as kernel
from sparsekit.models.loading import LoadedModel, Student
from sparsekit.recipe.recipe import Recipe
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.training.cpu import attention
from sparsekit.training.cpu.attention import training_attention, training_attention_in


def operands() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3)]


def loaded_from(folder: str) -> LoadedModel:
    """A classifier with dropout, which that of tiny_training lacks."""
    return Student(checkpoint=folder).load(TextClassification(max_length=64), LABELS)


def padding() -> Tensor:
    mask = torch.zeros(2, 1, 1, 5)
    mask[1, ..., 3:] = torch.finfo(torch.float32).min
    return mask


@pytest.mark.parametrize("mask", [None, padding()])
def test_with_almost_no_dropout_it_equals_torchs_attention(mask: Tensor | None) -> None:
    results = []
    for function in (sdpa_attention_forward, training_attention):
        query, key, value = operands()
        module = nn.Module()
        module.is_causal = False
        outputs, _ = function(module, query, key, value, mask, scaling=0.5, dropout=1e-9)
        outputs.square().sum().backward()
        results.append([outputs.detach(), query.grad, key.grad, value.grad])
    for expected, result in zip(*results, strict=True):
        # Values are kept with probability 65535/65536, the largest below 1.
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_dropout_keeps_the_mean_of_the_probabilities() -> None:
    torch.manual_seed(0)
    query = torch.zeros(64, 2, 6, 4)
    value = torch.eye(6).expand(64, 2, 6, 6)
    module = nn.Module()
    module.is_causal = False
    outputs, _ = training_attention(module, query, query, value, None, scaling=1.0, dropout=0.25)
    # With equal scores and one-hot values the outputs are the probabilities, 1/6 before dropout.
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
def test_the_kernel_equals_torchs_operations(tokens: int, size: int, mask: str) -> None:
    torch.manual_seed(0)
    query, key, value, grad_output = (torch.randn(3, 2, tokens, size) * 2 for _ in range(4))
    additive_mask = masks(tokens)[mask]

    def by_kernel(value: Tensor) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(1)
        operands = [each.clone().requires_grad_() for each in (query, key, value)]
        outputs, _ = training_attention(
            nn.Module(), *operands, additive_mask, scaling=0.3, dropout=0.25
        )
        outputs.backward(grad_output.transpose(1, 2))
        return outputs.detach().transpose(1, 2), [each.grad for each in operands]  # type: ignore[misc]

    # With one-hot values the outputs show which probabilities the seed drops.
    one_hot, _ = by_kernel(torch.eye(tokens, size).expand(3, 2, tokens, size))
    keep_mask = one_hot[..., :tokens] != 0
    operands = [each.clone().requires_grad_() for each in (query, key, value)]
    scores = operands[0] @ operands[1].transpose(2, 3) * 0.3
    if additive_mask is not None:
        scores = scores + additive_mask
    expected = scores.softmax(dim=-1) * keep_mask / 0.75 @ operands[2]
    expected.backward(grad_output)
    outputs, gradients = by_kernel(value)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    for gradient, operand in zip(gradients, operands, strict=True):
        largest = float(operand.grad.abs().max())  # type: ignore[union-attr]
        torch.testing.assert_close(gradient, operand.grad, rtol=1e-5, atol=3e-6 * largest)
    if mask == "none" and tokens > 1:
        assert 0.68 < keep_mask.float().mean() < 0.82
        # Random bits differ between batches, heads and rows.
        assert len(keep_mask.flatten(0, 2).unique(dim=0)) > 3 * tokens


@needs_compiler
@pytest.mark.parametrize("mask", masks(1))
@pytest.mark.parametrize(("tokens", "size"), [(21, 32), (1, 16), (64, 48)])
def test_without_dropout_the_kernel_equals_torchs_attention(
    tokens: int, size: int, mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention.kernel, "attention", spy := mock.Mock(wraps=kernel.attention))
    torch.manual_seed(0)
    drawn = [torch.randn(3, tokens, 2, size) * 2 for _ in range(4)]
    results = []
    for function in (sdpa_attention_forward, training_attention):
        *operands, grad_output = (each.clone().transpose(1, 2) for each in drawn)
        module = nn.Module()
        module.is_causal = False
        needing = [each.requires_grad_() for each in operands]
        outputs, _ = function(module, *needing, masks(tokens)[mask], scaling=0.3)
        outputs.backward(grad_output.transpose(1, 2))
        results.append([outputs.detach(), *(each.grad for each in needing)])
    assert spy.call_count == 1
    for expected, result in zip(*results, strict=True):
        assert expected is not None
        largest = max(float(expected.abs().max()), 1.0)  # One token's scores have no gradient.
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5 * largest)


@needs_compiler
def test_torchs_attention_computes_long_rows_and_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention.kernel, "attention", spy := mock.Mock(wraps=kernel.attention))
    module = nn.Module()
    module.is_causal = False
    for tokens, training, calls in ((65, True, 0), (64, False, 0), (64, True, 1)):
        query, key, value = (torch.randn(1, 1, tokens, 16, requires_grad=True) for _ in range(3))
        module.train(training)
        training_attention(module, query, key, value, None, scaling=0.3)
        assert spy.call_count == calls


@pytest.mark.filterwarnings(
    "default::DeprecationWarning"
)  # torch's compiler calls its own old parts
@pytest.mark.parametrize("tokens", [8, 65])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_torchs_compiler_traces_it_whole(dropout: float, tokens: int) -> None:
    module = nn.Module()
    module.is_causal = False

    @torch.compile(backend="eager", fullgraph=True)
    def attend(*operands: Tensor) -> Tensor:
        outputs, _ = training_attention(module, *operands, None, scaling=0.3, dropout=dropout)
        return outputs

    operands = [torch.randn(2, 3, tokens, 16, requires_grad=True) for _ in range(3)]
    attend(*operands).sum().backward()
    assert all(each.grad is not None for each in operands)


@needs_compiler
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_results_do_not_depend_on_the_number_of_threads(dropout: float) -> None:
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            operands = [torch.randn(3, 2, 9, 16, requires_grad=True) for _ in range(3)]
            outputs, _ = training_attention(
                nn.Module(), *operands, None, scaling=1.0, dropout=dropout
            )
            outputs.square().sum().backward()
            results.append([outputs, *(each.grad for each in operands)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_training_uses_it_and_restores_the_model(
    tmp_path: Path, student_folder: str, rows: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropouts, masks = [], []

    def spy(*arguments: Tensor, dropout: float = 0.0, **options: object) -> tuple[Tensor, None]:
        dropouts.append(dropout)
        masks.append(arguments[4])
        return training_attention(*arguments, dropout=dropout, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "training_attention", spy)
    loaded = loaded_from(student_folder)
    recipe = Recipe.build({"num_epochs": 1, "modifiers": {}})
    trainer(tmp_path, loaded, rows, recipe).train()
    assert 0.1 in dropouts
    # Rows differ in length, so each batch has padding, which is masked.
    lowest = torch.finfo(torch.float32).min
    assert all(mask is not None and mask.min() == lowest for mask in masks)
    assert loaded.model.config._attn_implementation == "sdpa"


def test_other_implementations_and_causal_attention_stay(student_folder: str) -> None:
    model = loaded_from(student_folder).model
    with training_attention_in(model):
        assert model.config._attn_implementation == attention.NAME
    assert model.config._attn_implementation == "sdpa"
    with training_attention_in(model):
        model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    with training_attention_in(model):
        assert model.config._attn_implementation == "eager"
    model.set_attn_implementation("sdpa")
    model.bert.encoder.layer[0].attention.self.is_causal = True
    with training_attention_in(model):
        assert model.config._attn_implementation == "sdpa"


def test_contexts_of_two_models_may_overlap(student_folder: str) -> None:
    first, second = (loaded_from(student_folder).model for _ in range(2))
    ids = torch.tensor([[2, 5, 3]])
    with training_attention_in(first):
        with training_attention_in(second):
            second.train()(input_ids=ids)
        first.train()(input_ids=ids)
        assert attention.NAME in ALL_ATTENTION_FUNCTIONS
    assert attention.NAME not in ALL_ATTENTION_FUNCTIONS


@pytest.mark.parametrize("compiled", [True, False])
def test_heads_of_the_query_may_share_one_of_key_and_value(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(attention.kernel, "available", lambda: False)
    torch.manual_seed(0)
    query = torch.randn(2, 4, 5, 16, requires_grad=True)
    key, value = (torch.randn(2, 2, 5, 16, requires_grad=True) for _ in range(2))
    repeated = [one.repeat_interleave(2, dim=1) for one in (key, value)]
    module = nn.Module()
    module.is_causal = False
    expected, _ = sdpa_attention_forward(module, query, *repeated, None, 0.0, 0.5)
    found, _ = training_attention(module, query, key, value, None, 0.5, dropout=1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    operands = query, key, value
    gradients = (torch.autograd.grad(one.square().sum(), operands) for one in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
