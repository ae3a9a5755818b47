"""The mean of losses, summed on the device that computes them."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekit.modifiers.processes import shared_sum


class LossMean:
    """The mean of scalar tensors, summed on their device: no synchronization until `take`."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, value: Tensor) -> None:
        value = value.detach().float()
        self._sum = value if self._sum is None else self._sum + value
        self._count += 1

    def take(self) -> float | None:
        """The mean since the last call over all processes, or None if nothing was added."""
        if self._sum is None:
            return None
        count = torch.tensor(float(self._count), device=self._sum.device)
        total, count = shared_sum(torch.stack([self._sum, count])).tolist()
        mean: float = total / count
        self._sum, self._count = None, 0
        return mean


def weighted(loss: Tensor, weight: Tensor | float) -> Tensor:
    """`loss` times `weight`; 0 where that is 0: the loss of no items is a mean of nothing, NaN."""
    factor = torch.as_tensor(weight, dtype=torch.float32, device=loss.device)
    return torch.where(factor == 0, torch.zeros_like(loss), loss * factor)
