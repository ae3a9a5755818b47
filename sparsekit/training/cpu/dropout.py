"""Dropout on a CPU from 16 random bits per element, at a tenth of the cost of torch's."""

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
    """`F.dropout` of `values` on a CPU, with p rounded to a multiple of 1/65536.

    The seed comes from torch's default generator, so seeding it and restoring its state apply.
    """
    if not 0 < p < 1:
        return nn.functional.dropout(values, p)
    result: Tensor = _Drop.apply(values, keep_steps(p))  # type: ignore[no-untyped-call]
    return result


def random_mask(shape: torch.Size, steps: int) -> Tensor:
    """A random boolean mask, each element True with probability steps / 65536."""
    count = shape.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[:count].view(shape)
    return bits < steps - STEPS // 2


def keep_steps(p: float) -> int:
    """The probability 1 - p that dropout keeps a value, in steps of 1/65536."""
    # From 1 to 65535: `random_mask` compares as int16, which cannot represent the ends.
    return min(max(round((1 - p) * STEPS), 1), STEPS - 1)


def new_seed() -> int:
    """The seed of one call's random bits, an int64 from torch's default generator."""
    return int(torch.empty((), dtype=torch.int64).random_(-(2**63), None))


class BitDropout(nn.Dropout):
    """`nn.Dropout` that uses `drop` on a CPU."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or values.device.type != "cpu":
            return super().forward(values)
        return drop(values, self.p)


class _Drop(torch.autograd.Function):
    """Dropout by the kernel, which stores no mask, or else by torch's operations.

    The kernel takes float32, and is not called under torch.compile or where it cannot be compiled.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, steps: int) -> Tensor:
        ctx.steps = steps
        ctx.seed = None
        by_kernel = values.dtype == torch.float32 and not torch.compiler.is_compiling()
        if by_kernel and kernel.available():
            ctx.seed = new_seed()
            return kernel.drop(values, ctx.seed, steps)
        mask = random_mask(values.shape, steps)
        ctx.save_for_backward(mask)
        return _masked(values, mask, steps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.seed is not None:
            return kernel.drop(grad_output, ctx.seed, ctx.steps), None
        (mask,) = ctx.saved_tensors
        return _masked(grad_output, mask, ctx.steps), None


def _masked(values: Tensor, mask: Tensor, steps: int) -> Tensor:
    return mask.to(values.dtype).mul_(STEPS / steps).mul_(values)


@contextlib.contextmanager
def bit_dropout_in(model: nn.Module) -> Iterator[None]:
    """Make every `nn.Dropout` of `model` a `BitDropout` within the context."""
    changed = [module for module in model.modules() if type(module) is nn.Dropout]
    # In place, so that hooks and references to the modules stay valid.
    for module in changed:
        module.__class__ = BitDropout
    try:
        yield
    finally:
        for module in changed:
            module.__class__ = nn.Dropout
