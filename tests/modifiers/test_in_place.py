"""A model may change the result of a layer in place, as DeBERTa and Longformer do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsekit.kernels.sparse_linear import SparsePattern
from sparsekit.modifiers.quantization.fake_quantize import (
    FakeQuantizer,
    QuantEmbedding,
    QuantLinear,
)
from sparsekit.modifiers.quantization.scheme import Activations, Scheme
from sparsekit.training.cpu.dropout import drop
from sparsekit.training.cpu.sparse_linear import MaskedLinear

VALUES = torch.linspace(-1, 1, 2 * 3 * 8).view(2, 3, 8)


def scaled_in_place(result: torch.Tensor) -> torch.Tensor:
    result /= 4.0
    result += 1.0
    return result


def quantized(sparse: bool) -> QuantLinear:
    torch.manual_seed(0)
    layer = QuantLinear(nn.Linear(8, 8), Scheme(outputs=Activations()))
    for module in layer.modules():
        if isinstance(module, FakeQuantizer):
            module.enabled = module.observing = True
    if sparse:
        layer.pattern = SparsePattern(torch.eye(8).bool())
    return layer


def masked() -> MaskedLinear:
    torch.manual_seed(0)
    layer = MaskedLinear(8, 8)
    mask = torch.eye(8).bool()
    layer.weight.data[~mask] = 0.0
    layer.pattern = SparsePattern(mask)
    return layer


@pytest.mark.parametrize("kind", ["quantized", "sparse quantized", "masked"])
def test_gradients_are_those_of_a_copy(kind: str) -> None:
    gradients = []
    for copied in (False, True):
        layer = masked() if kind == "masked" else quantized(kind == "sparse quantized")
        values = VALUES.clone().requires_grad_()
        result = layer(values)
        changed = scaled_in_place(result.clone() if copied else result)
        assert changed.shape == (2, 3, 8)
        changed.square().sum().backward()
        assert values.grad is not None and layer.weight.grad is not None
        gradients.append((values.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_embeddings_and_dropout_too() -> None:
    torch.manual_seed(0)
    table = QuantEmbedding(nn.Embedding(5, 8), Scheme(outputs=Activations()))
    rows = table(torch.tensor([[0, 3]]))
    scaled_in_place(drop(scaled_in_place(rows), 0.5)).sum().backward()
    assert table.weight.grad is not None and table.weight.grad[3].any()
