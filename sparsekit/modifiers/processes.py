"""Values that the processes which train one model, as torchrun starts them, share at a step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def several() -> bool:
    """Whether this process trains together with others. Then all must call what is below."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def shared_range(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest `low` and the highest `high` of all processes, both scalars."""
    if not several():
        return low, high
    extremes = low.new_empty(2)
    extremes[0], extremes[1] = -low, high
    dist.all_reduce(extremes, dist.ReduceOp.MAX)
    return -extremes[0], extremes[1]


def share_first(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Write the first process's values of `tensors` into those of all processes.

    device: that of the model, through which processes exchange values.
    """
    if several():
        for tensor in tensors:
            shared = tensor.to(device)
            dist.broadcast(shared, 0)
            tensor.copy_(shared)


def shared_sum(value: Tensor) -> Tensor:
    """The sum of `value` over all processes."""
    if several():
        value = value.clone()
        dist.all_reduce(value)
    return value
