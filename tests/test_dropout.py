"""Dropout from random bits against what dropout is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsekit.training.dropout import BitDropout, kept, use_bit_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 1e-5])
def test_masks_keep_their_share_everywhere(p: float) -> None:
    torch.manual_seed(0)
    mask = kept(torch.Size((999, 1001)), p)
    # Four standard errors; the four elements that share a word are alike.
    for part in (mask, *(mask.flatten()[i::4] for i in range(4))):
        error = (p * (1 - p) / part.numel()) ** 0.5
        assert abs(part.float().mean() - (1 - p)) < 4 * error + 1e-6
    first, second = (mask.flatten()[i:999_000:4].float() for i in range(2))
    assert abs(((first - first.mean()) * (second - second.mean())).mean()) < 4 * p / 500


def test_values_keep_their_mean_and_gradients_follow_the_mask() -> None:
    torch.manual_seed(0)
    values = torch.ones(64, 500, requires_grad=True)
    result = BitDropout(0.25)(values)
    assert abs(result.mean() - 1) < 0.02
    assert result.unique().tolist() == pytest.approx([0.0, 1 / 0.75], rel=1e-4)
    result.backward(torch.full_like(result, 3.0))
    assert values.grad is not None
    torch.testing.assert_close(values.grad, result.detach() * 3)


def test_seeds_repeat_a_mask() -> None:
    torch.manual_seed(3)
    first, other = kept(torch.Size((50, 3)), 0.5), kept(torch.Size((50, 3)), 0.5)
    torch.manual_seed(3)
    assert torch.equal(kept(torch.Size((50, 3)), 0.5), first) and not torch.equal(first, other)


def test_evaluation_and_p_of_0_change_nothing() -> None:
    values = torch.randn(3, 4)
    assert torch.equal(BitDropout(0.5).eval()(values), values)
    assert torch.equal(BitDropout(0.0).train()(values), values)
    assert torch.equal(BitDropout(1.0).train()(values), torch.zeros(3, 4))


def test_a_model_gets_it_wherever_it_drops() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.3)), nn.Dropout(0.1)).eval()
    use_bit_dropout(model)
    found = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    assert [type(m) for m in found] == [BitDropout, BitDropout]
    assert [m.p for m in found] == [0.3, 0.1]
    assert not any(m.training for m in found)
