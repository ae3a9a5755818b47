"""Attention with dropout, in one pass over query, key and value; on a CPU.

Tensors are [batch, tokens, heads, size], float32 and contiguous, `size` a multiple of `WIDE`.
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

# Numbers of a vector, as in the C file, and numbers whose random bits are drawn together.
WIDE = 16
NUMBERS = 128


class AttentionCall(ctypes.Structure):
    """What the C file knows of one call; `scratch` lives as long as this does."""

    _fields_ = (
        ("batches", ctypes.c_long),
        ("heads", ctypes.c_long),
        ("tokens", ctypes.c_long),
        ("size", ctypes.c_long),
        ("padded", ctypes.c_long),
        ("scale", ctypes.c_float),
        ("seed", ctypes.c_int64),
        ("kept", ctypes.c_uint16),
        ("kept_scale", ctypes.c_float),
        ("scratch", ctypes.c_void_p),
        ("of_thread", ctypes.c_long),
    )

    def __init__(self, shape: torch.Size, scale: float, seed: int, kept: int) -> None:
        batches, tokens, heads, size = shape
        padded = -(-tokens // WIDE) * WIDE
        bits = -(-tokens * padded // NUMBERS) * NUMBERS // 2
        of_thread = size * padded + 2 * tokens * padded + bits
        self.scratch_tensor = torch.empty(torch.get_num_threads(), of_thread)
        super().__init__(
            batches, heads, tokens, size, padded, scale, seed, kept, STEPS / kept,
            self.scratch_tensor.data_ptr(), of_thread,
        )  # fmt: skip


# Dropout of probabilities is that of `dropout.drop`: one library holds both.
KERNEL = dataclasses.replace(
    dropout.KERNEL,
    structures={"attention_call": AttentionCall},
    constants={"vector_lanes": WIDE, "values_per_draw": NUMBERS},
)


def available() -> bool:
    """Whether the kernel can be compiled here; warns once if not."""
    return is_available(KERNEL, "attention")


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    seed: int,
    kept: int,
) -> tuple[Tensor, Tensor]:
    """softmax(query key' * scale + mask), dropped as `dropout.drop` does, times value.

    `mask` [batch or 1, 1, tokens or 1, tokens] is float32. Also returns the probabilities as they
    were before dropout, which `gradients` takes.
    """
    call = AttentionCall(query.shape, scale, seed, kept)
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
    errors: Tensor,
    scale: float,
    seed: int,
    kept: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value, from that of what `attention` returned first."""
    call = AttentionCall(query.shape, scale, seed, kept)
    found = (torch.empty_like(query), torch.empty_like(query), torch.empty_like(query))
    library(KERNEL).attention_gradient(
        ctypes.byref(call),
        *(address(tensor) for tensor in (query, key, value, probabilities, errors, *found)),
        torch.get_num_threads(),
    )
    return found
