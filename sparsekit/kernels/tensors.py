"""Tensors as arguments of C functions."""

from __future__ import annotations

import ctypes

from torch import Tensor


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of a contiguous tensor's data; None becomes NULL."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
