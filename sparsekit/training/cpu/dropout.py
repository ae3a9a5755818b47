"""Dropout on a CPU at a tenth of its cost: 16 random bits an element, instead of a float."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparsekit.kernels import dropout as kernel
from sparsekit.kernels.dropout import STEPS


def drop(values: Tensor, p: float) -> Tensor:
    """`F.dropout` of `values` on a CPU; p is right to 1/65536, and the scale exact for it.

    It draws from torch's own generator, so seeds and saved generator states hold.
    """
    if not 0 < p < 1:
        return nn.functional.dropout(values, p)
    result: Tensor = _Drop.apply(values, kept_steps(p))  # type: ignore[no-untyped-call]
    return result


def kept(shape: torch.Size, steps: int) -> Tensor:
    """A random boolean mask, each element True with the probability steps / 65536."""
    count = shape.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[:count].view(shape)
    return bits < steps - STEPS // 2


def kept_steps(p: float) -> int:
    """In how many of 65536 cases dropout with the probability p keeps a number."""
    # Neither none nor all of the values that 16 bits can have: the comparison is one of int16.
    return min(max(round((1 - p) * STEPS), 1), STEPS - 1)


def new_seed() -> int:
    """What the random bits of one call follow from, drawn from torch's own generator."""
    return int(torch.empty((), dtype=torch.int64).random_(-(2**63), None))


class BitDropout(nn.Dropout):
    """`nn.Dropout` that takes `drop` on a CPU."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or values.device.type != "cpu":
            return super().forward(values)
        return drop(values, self.p)


class _Drop(torch.autograd.Function):
    """By the kernel, which keeps no mask; by torch's operations under its compiler, or without."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, steps: int) -> Tensor:
        ctx.steps = steps
        ctx.seed = None
        by_kernel = values.dtype == torch.float32 and not torch.compiler.is_compiling()
        if by_kernel and kernel.available():
            ctx.seed = new_seed()
            return kernel.drop(values, ctx.seed, steps)
        mask = kept(values.shape, steps)
        ctx.save_for_backward(mask)
        return _keep(values, mask, steps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.seed is not None:
            return kernel.drop(gradient, ctx.seed, ctx.steps), None
        (mask,) = ctx.saved_tensors
        return _keep(gradient, mask, ctx.steps), None


def _keep(values: Tensor, mask: Tensor, steps: int) -> Tensor:
    return mask.to(values.dtype).mul_(STEPS / steps).mul_(values)


@contextlib.contextmanager
def bit_dropout_in(model: nn.Module) -> Iterator[None]:
    """Make every `nn.Dropout` of `model` a `BitDropout` within the context."""
    changed = [module for module in model.modules() if type(module) is nn.Dropout]
    # In place: hooks and references to the modules stay.
    for module in changed:
        module.__class__ = BitDropout
    try:
        yield
    finally:
        for module in changed:
            module.__class__ = nn.Dropout
