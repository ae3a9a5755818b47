"""Movement pruning: which weights go, and gradients that are not finite, as of fp16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsekit.errors import UserError
from sparsekit.modifiers.pruning.movement import MovementPruning


@pytest.fixture
def pruning() -> tuple[MovementPruning, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4))
    modifier = MovementPruning(
        end=1.0, init_sparsity=0.0, final_sparsity=0.5, params=["0.weight", "1.weight"]
    )
    modifier.attach(model)
    modifier.update(0.0)
    return modifier, model


def test_weights_that_gradient_descent_shrinks_are_pruned() -> None:
    """Of two equal magnitudes: weight * gradient > 0 shrinks a weight, < 0 makes it grow."""
    layer = nn.Linear(4, 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[0.5, 0.5, -0.5, -0.5]]))
    modifier = MovementPruning(end=1.0, init_sparsity=0.0, final_sparsity=0.5, params=["0.weight"])
    modifier.attach(nn.Sequential(layer))
    modifier.update(0.0)
    layer.weight.grad = torch.tensor([[0.1, -0.1, -0.1, 0.1]])
    modifier.before_step()
    modifier.update(1.0)
    assert layer.weight.tolist() == [[0.0, 0.5, 0.0, -0.5]]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_step_whose_gradients_are_not_finite_does_not_count(
    pruning: tuple[MovementPruning, nn.Module], value: float
) -> None:
    modifier, model = pruning
    weights = list(model.parameters())
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    modifier.before_step()
    before = {name: score.clone() for name, score in modifier.scores().items()}
    assert all(bool(score.any()) for score in before.values())
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    # In one layer alone: the optimizer skips the step of all.
    assert weights[0].grad is not None
    weights[0].grad[0, 0] = value
    modifier.before_step()
    for name, score in modifier.scores().items():
        torch.testing.assert_close(score, before[name], rtol=0, atol=0)
    modifier.update(1.0)
    for weight in (weights[0], weights[2]):
        assert float((weight == 0).float().mean()) == 0.5


def test_weights_that_are_not_numbers_are_not_pruned(
    pruning: tuple[MovementPruning, nn.Module],
) -> None:
    modifier, model = pruning
    with torch.no_grad():
        model.get_parameter("1.weight")[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"1\.weight would be pruned .*NaN.* lower the learning"):
        modifier.update(1.0)
