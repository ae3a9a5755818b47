"""The precision of matmuls: bf16 units may multiply, but not in the fused attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_training import load_student, trainer
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sparsekit.recipe.recipe import Recipe
from sparsekit.training.cpu import precision
from sparsekit.training.cpu.precision import float32_attention, matmul_precision


class _Recorded(torch.autograd.Function):
    """The identity, which records the precision of matmuls in both passes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, seen: list[str]) -> Tensor:
        ctx.seen = seen
        seen.append(torch.get_float32_matmul_precision())
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        ctx.seen.append(torch.get_float32_matmul_precision())
        return grad_output, None


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precision in each forward and backward pass of torch's fused attention."""
    found: list[str] = []

    def attention(module: nn.Module, query: Tensor, *rest: Any, **options: Any) -> Any:
        recorded = _Recorded.apply(query, found)  # type: ignore[no-untyped-call]
        return sdpa_attention_forward(module, recorded, *rest, **options)

    monkeypatch.setattr(precision, "sdpa_attention_forward", attention)
    return found


def module() -> nn.Module:
    made = nn.Module()
    made.is_causal = False
    return made


def operands() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, 40, 16, requires_grad=True) for _ in range(3)]


def test_the_fused_attention_is_float32_in_both_passes(seen: list[str]) -> None:
    mask = torch.randn(2, 1, 40, 40, requires_grad=True)
    results = []
    for function in (sdpa_attention_forward, float32_attention):
        query, key, value = operands()
        mask.grad = None
        torch.set_float32_matmul_precision(
            "highest" if function is not float32_attention else "medium"
        )
        try:
            outputs, _ = function(module(), query, key, value, mask, scaling=0.5)
            outputs.square().sum().backward()
        finally:
            torch.set_float32_matmul_precision("highest")
        results.append([outputs, query.grad, key.grad, value.grad, mask.grad])
    assert seen == ["highest", "highest"]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_only_what_needs_a_gradient_gets_one() -> None:
    query, key, value = operands()
    key.requires_grad_(False)
    outputs, _ = float32_attention(module(), query, key, value, None)
    outputs.sum().backward()
    assert key.grad is None and query.grad is not None and value.grad is not None
    with torch.no_grad():
        outputs, _ = float32_attention(module(), query, key, value, None)
    assert not outputs.requires_grad


def test_models_use_it_within_the_context(seen: list[str], student_folder: str) -> None:
    model = load_student(student_folder).model.train()
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 3]])}
    before = AttentionInterface()["sdpa"]
    with matmul_precision("medium"):
        with matmul_precision("medium"):
            model(**inputs)
        assert torch.get_float32_matmul_precision() == "medium"
        model(**inputs).logits.sum().backward()
    assert torch.get_float32_matmul_precision() == "highest"
    layers = model.config.num_hidden_layers
    assert seen == ["highest"] * 3 * layers
    assert AttentionInterface()["sdpa"] is precision.sdpa_attention_forward
    AttentionInterface.register("sdpa", before)
    with matmul_precision("highest"):
        assert AttentionInterface()["sdpa"] is before


def test_training_multiplies_no_attention_in_bf16(
    seen: list[str],
    tmp_path: Path,
    student_folder: str,
    rows: dict[str, Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With checkpointing of activations, which computes the forward pass twice."""
    monkeypatch.setattr("sparsekit.training.cpu.attention.kernel.available", lambda: False)
    recipe = Recipe.build({"num_epochs": 1, "modifiers": {}})
    made = trainer(
        tmp_path,
        load_student(student_folder),
        rows,
        recipe,
        precision="bf16",
        activation_checkpointing=True,
    )
    result = made.train()
    assert result.training_loss < 1
    assert len(seen) > 2 and set(seen) == {"highest"}
