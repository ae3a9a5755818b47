"""Zeros shared out over layers."""

from __future__ import annotations

import pytest

from sparsekit.errors import UserError
from sparsekit.oneshot.allocation import allocate
from sparsekit.oneshot.sensitivity import LayerSensitivity


@pytest.mark.parametrize("layers", [1, 3, 7, 24])
@pytest.mark.parametrize("sparsity", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_the_largest_measured_share_is_possible(layers: int, sparsity: float) -> None:
    measured = [
        LayerSensitivity(name=f"{i}.{j}", weights=weights, pruned={sparsity: 0.1}, int8=0.0)
        for i in range(layers)
        for j, weights in enumerate([589824] * 4 + [2359296] * 2)
    ]
    assert set(allocate(measured, sparsity).values()) == {sparsity}
    with pytest.raises(UserError, match="must lie above 0 and be at most"):
        allocate(measured, sparsity + 0.001)
