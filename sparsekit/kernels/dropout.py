"""Dropout in one pass over memory, whose random bits follow from a seed; on a CPU."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sparsekit.kernels.library import Kernel, is_available, library
from sparsekit.kernels.tensors import address

# Neither flag changes a result here; they allow vector instructions.
KERNEL = Kernel("dropout", ("-fno-math-errno", "-fno-trapping-math"))
# The probability to keep a number comes in so many steps.
STEPS = 2**16


def available() -> bool:
    """Whether the kernel can be compiled here; warns once if not."""
    return is_available(KERNEL, "dropout")


def drop(values: Tensor, seed: int, kept: int) -> Tensor:
    """float32 values, each kept with the probability kept / STEPS and divided by it, else 0.

    `seed` is any int64; the same one keeps the same places of a shape, so a gradient takes it too.
    """
    values = values.detach().contiguous()
    out = torch.empty_like(values)
    library(KERNEL).drop(
        address(values),
        ctypes.c_long(values.numel()),
        ctypes.c_int64(seed),
        ctypes.c_uint16(kept),
        ctypes.c_float(STEPS / kept),
        address(out),
        torch.get_num_threads(),
    )
    return out
