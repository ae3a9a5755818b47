"""Attention with or without dropout, one head at a time; CPU only.

Tensors are float32 [batch, tokens, heads, size], contiguous, `size` a multiple of `VECTOR_LANES`.
"""

from __future__ import annotations

import ctypes
import dataclasses

import torch
from torch import Tensor

from sparsekit.kernels import dropout
from sparsekit.kernels.dropout import STEPS
from sparsekit.kernels.library import is_available, library
from sparsekit.kernels.tensors import address

# As in the C files: values per vector, and values whose random bits are drawn together.
VECTOR_LANES = 16
VALUES_PER_DRAW = 128


class AttentionCall(ctypes.Structure):
    """Sizes, constants and scratch memory of one call; mirrors `attention_call` in C."""

    _fields_ = (
        ("batches", ctypes.c_long),
        ("heads", ctypes.c_long),
        ("tokens", ctypes.c_long),
        ("size", ctypes.c_long),
        ("padded", ctypes.c_long),
        ("scale", ctypes.c_float),
        ("seed", ctypes.c_int64),
        ("keep_steps", ctypes.c_uint16),
        ("keep_scale", ctypes.c_float),
        ("scratch", ctypes.c_void_p),
        ("scratch_per_thread", ctypes.c_long),
    )

    def __init__(self, shape: torch.Size, scale: float, seed: int, keep_steps: int) -> None:
        batches, tokens, heads, size = shape
        padded = -(-tokens // VECTOR_LANES) * VECTOR_LANES
        bits = -(-tokens * padded // VALUES_PER_DRAW) * VALUES_PER_DRAW // 2
        per_thread = size * padded + 2 * tokens * padded + bits
        # The structure stores an address only: the tensor must live as long.
        self.scratch_tensor = torch.empty(torch.get_num_threads(), per_thread)
        keep_scale = STEPS / keep_steps if keep_steps else 1.0
        super().__init__(
            batches, heads, tokens, size, padded, scale, seed, keep_steps, keep_scale,
            self.scratch_tensor.data_ptr(), per_thread,
        )  # fmt: skip


# One library has both, since probabilities are dropped as `dropout.drop` does.
KERNEL = dataclasses.replace(
    dropout.KERNEL,
    structures={"attention_call": AttentionCall},
    constants={"vector_lanes": VECTOR_LANES, "values_per_draw": VALUES_PER_DRAW},
)


def available() -> bool:
    """Whether the kernel is available on this machine; warns once if not."""
    return is_available(KERNEL, "attention")


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    seed: int,
    keep_steps: int,
) -> tuple[Tensor, Tensor]:
    """dropout(softmax(query @ key.T * scale + mask)) @ value, and the probabilities before dropout.

    query, key, value: contiguous float32 [batch, tokens, heads, size], `size` a multiple of
        VECTOR_LANES.
    mask: float32, [batch or 1, 1, tokens or 1, tokens].
    seed, keep_steps: as for `dropout.drop`; with keep_steps=0 there is no dropout.
    """
    call = AttentionCall(query.shape, scale, seed, keep_steps)
    probabilities = torch.empty(call.batches, call.heads, call.tokens, call.padded)
    out = torch.empty_like(query)
    if mask is not None:
        mask = mask.expand(call.batches, 1, call.tokens, call.tokens)
        mask = mask if mask.stride(3) == 1 else mask.contiguous()
    library(KERNEL).attention(
        ctypes.byref(call),
        address(query),
        address(key),
        address(value),
        address(mask),
        ctypes.c_long(0 if mask is None else mask.stride(0)),
        ctypes.c_long(0 if mask is None else mask.stride(2)),
        address(probabilities),
        address(out),
        torch.get_num_threads(),
    )
    return out, probabilities


def gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    probabilities: Tensor,
    grad_output: Tensor,
    scale: float,
    seed: int,
    keep_steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value; `grad_output` is that of the attention output.

    probabilities: the second result of `attention`, called with the same other arguments.
    """
    call = AttentionCall(query.shape, scale, seed, keep_steps)
    grads = (torch.empty_like(query), torch.empty_like(query), torch.empty_like(query))
    library(KERNEL).attention_gradient(
        ctypes.byref(call),
        *(address(tensor) for tensor in (query, key, value, probabilities, grad_output, *grads)),
        torch.get_num_threads(),
    )
    return grads
