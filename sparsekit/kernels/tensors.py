"""Tensors as C takes them."""

from __future__ import annotations

import ctypes

from torch import Tensor


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a contiguous tensor's numbers lie, for a call; None is C's NULL."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
