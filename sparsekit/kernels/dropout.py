"""Dropout in one pass over memory, with random bits from a seed; CPU only."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sparsekit.kernels.library import Kernel, is_available, library
from sparsekit.kernels.tensors import address

KERNEL = Kernel("dropout")
# The resolution of the probability that a value is kept: `keep_steps` / STEPS.
STEPS = 2**16


def available() -> bool:
    """Whether the kernel is available on this machine; warns once if not."""
    return is_available(KERNEL, "dropout")


def drop(values: Tensor, seed: int, keep_steps: int) -> Tensor:
    """Float32 values, each kept with probability p = keep_steps / STEPS and divided by p, else 0.

    seed: any int64. The same seed and shape drop the same elements, so the backward pass calls
        this with the gradient.
    """
    values = values.detach().contiguous()
    out = torch.empty_like(values)
    library(KERNEL).drop(
        address(values),
        ctypes.c_long(values.numel()),
        ctypes.c_int64(seed),
        ctypes.c_uint16(keep_steps),
        ctypes.c_float(STEPS / keep_steps),
        address(out),
        torch.get_num_threads(),
    )
    return out
