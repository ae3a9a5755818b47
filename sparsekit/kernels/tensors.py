"""Tensors as arguments of C functions."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor


def float32_on_cpu(*tensors: Tensor | None) -> bool:
    """Whether a kernel of float32 may read these tensors; None is one that is not there."""
    return all(
        each is None or (each.dtype == torch.float32 and each.device.type == "cpu")
        for each in tensors
    )


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of a tensor's first value; None becomes NULL.

    The tensor must be contiguous, unless the C function takes its strides.
    """
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
