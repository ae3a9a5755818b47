"""The precision of float32 matmuls on a CPU, where bf16 units may multiply them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sparsekit.system import cpu_units

# transformers' name of torch's fused attention.
_SDPA = "sdpa"
# The number of open contexts: trainers in several threads share the registration.
_open = 0
_lock = threading.Lock()


def cpu_has_bf16_units() -> bool:
    """Whether the CPU has AMX tiles for bf16.

    AVX512-BF16 alone is not enough: with it bf16 matmuls were slower than float32 ones
    (167 against 318 GFLOP/s on two cores of a Xeon, torch 2.13).
    """
    return (cpu_units() or {}).get("amx_bf16", False)


@contextlib.contextmanager
def matmul_precision(precision: Literal["medium", "highest"]) -> Iterator[None]:
    """Set torch's precision of float32 matmuls within the context.

    With "medium", bf16 units may multiply them, except in the fused attention of transformers'
    models.
    """
    with contextlib.ExitStack() as stack:
        if precision == "medium":
            stack.enter_context(_attention_replaced())
        stack.enter_context(_set(precision))
        yield


@contextlib.contextmanager
def _set(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def _attention_replaced() -> Iterator[None]:
    """Replace transformers' fused attention by `float32_attention` until the last context ends."""
    global _open
    with _lock:
        _open += 1
        AttentionInterface.register(_SDPA, float32_attention)
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if not _open:
                AttentionInterface.register(_SDPA, sdpa_attention_forward)


def float32_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """torch's fused attention, whose matmuls no bf16 units multiply; as transformers calls it.

    On a CPU the fused attention multiplies small blocks of each head one by one. For each of them
    oneDNN would prepare its bf16 units anew, which takes seven to ten times as long as the float32
    products themselves (`benchmarks/training_attention.py`).
    """

    def attend(*operands: Tensor | None) -> Tensor:
        outputs: Tensor
        outputs, _ = sdpa_attention_forward(module, *operands, dropout, scaling, **options)  # type: ignore[arg-type, call-arg]
        return outputs

    operands = (query, key, value, attention_mask)
    # With dropout torch multiplies all heads at once; position_bias may need a gradient, too.
    if dropout or options.get("position_bias") is not None or torch.compiler.is_compiling():
        return attend(*operands), None
    if torch.is_grad_enabled():
        result: Tensor = _Float32.apply(attend, *operands)  # type: ignore[no-untyped-call]
        return result, None
    with _set("highest"):
        return attend(*operands), None


class _Float32(torch.autograd.Function):
    """A function of tensors, in float32 in both passes."""

    @staticmethod
    def forward(ctx: Any, attend: Callable[..., Tensor], *operands: Tensor | None) -> Tensor:
        with torch.enable_grad(), _set("highest"):
            own = [
                None if each is None else each.detach().requires_grad_(needed)
                for each, needed in zip(operands, ctx.needs_input_grad[1:], strict=True)
            ]
            output = attend(*own)
        ctx.graph = own, output
        return output.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        own, output = ctx.graph
        del ctx.graph  # A second pass fails, as it does for torch's own functions.
        needed = [each for each in own if each is not None and each.requires_grad]
        with _set("highest"):
            found = iter(torch.autograd.grad(output, needed, grad_output))
        return None, *(
            next(found) if each is not None and each.requires_grad else None for each in own
        )
