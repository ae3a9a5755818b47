"""The scale and the zero point of a range of values."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = float(torch.finfo(torch.float32).eps)


def quantization_parameters(
    low: Tensor, high: Tensor, limits: tuple[int, int], symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Scale (float32) and zero point (int32) that map the range [low, high] onto `limits`.

    The range is first extended to include 0, so that zero is represented exactly.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if symmetric:
        scale = torch.maximum(-low, high) / ((limits[1] - limits[0]) / 2)
        middle = (limits[0] + limits[1] + 1) // 2
        return scale.clamp(min=EPSILON), torch.full_like(scale, middle, dtype=torch.int32)
    scale = ((high - low) / (limits[1] - limits[0])).clamp(min=EPSILON)
    zero_point = (limits[0] - torch.round(low / scale)).clamp(*limits)
    return scale, zero_point.to(torch.int32)
