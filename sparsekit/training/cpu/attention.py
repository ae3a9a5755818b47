"""Attention for training on a CPU.

torch's fused attention does not support dropout on a CPU: it falls back to separate operations,
with checks for fully masked rows, and draws one random float per probability. Here a kernel
computes one head at a time. It is also used without dropout where rows are short, as it then
takes less time than the fused attention. Without a compiler, or for operands that the kernel does
not support, torch's operations are used.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from sparsekit.kernels import attention as kernel
from sparsekit.modifiers.quantization.attention import attentions, register
from sparsekit.training.cpu.dropout import drop, keep_steps, new_seed

NAME = "sparsekit_training"
# Up to here the kernel is faster than torch's fused attention (`benchmarks/training_attention.py`),
# although it stores the probabilities for the backward pass.
_SHORT = 64
# The number of open contexts: trainers in several threads share the registration of NAME.
_open = 0
_lock = threading.Lock()


def training_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function for transformers' `AttentionInterface`.

    query, key, value: [batch, heads, tokens, size]; several heads of query may share one of key
        and value.
    attention_mask: added to the scores; None is 0.

    Returns [batch, tokens, heads, size], and None for the attention weights. Without dropout,
    torch's fused attention computes rows of more than 64 tokens, and all rows in evaluation.
    """
    # Not by whether there are gradients: checkpointing computes the same without and with them.
    short = module.training and query.shape[2] <= _SHORT
    # torch's compiler cannot trace the search for the kernel.
    if torch.compiler.is_compiling() or (
        not dropout and not (short and _supports(query, key, value, attention_mask))
    ):
        outputs, _ = AttentionInterface()["sdpa"](
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
        return outputs, None
    if (shared := query.shape[1] // key.shape[1]) > 1:
        key, value = (operand.repeat_interleave(shared, dim=1) for operand in (key, value))
    if _supports(query, key, value, attention_mask):
        by_token = [operand.transpose(1, 2).contiguous() for operand in (query, key, value)]
        steps = keep_steps(dropout) if dropout else 0
        result: Tensor = _Attention.apply(*by_token, attention_mask, scaling, steps)  # type: ignore[no-untyped-call]
        return result, None
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = drop(scores.softmax(dim=-1), dropout)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), None


def _supports(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    same_shape = (
        query.shape == key.shape == value.shape and query.shape[-1] % kernel.VECTOR_LANES == 0
    )
    mask_supported = mask is None or (
        mask.dtype == torch.float32 and mask.shape[1] == 1 and not mask.requires_grad
    )
    float32 = all(operand.dtype == torch.float32 for operand in (query, key, value))
    return same_shape and mask_supported and float32 and kernel.available()


class _Attention(torch.autograd.Function):
    """Attention by the kernel, of tensors [batch, tokens, heads, size]."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float,
        steps: int,
    ) -> Tensor:
        ctx.call = scaling, new_seed() if steps else 0, steps
        outputs, probabilities = kernel.attention(query, key, value, mask, *ctx.call)
        ctx.save_for_backward(query, key, value, probabilities)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, probabilities = ctx.saved_tensors
        grad_output = grad_output.contiguous()
        grads = kernel.gradients(query, key, value, probabilities, grad_output, *ctx.call)
        return *grads, None, None, None


@contextlib.contextmanager
def training_attention_in(model: nn.Module) -> Iterator[None]:
    """Replace torch's fused attention in `model` by `training_attention` within the context.

    Models with causal attention, or with another implementation, are left unchanged.
    """
    if not isinstance(model, PreTrainedModel) or not _uses_fused_attention(model):
        yield
        return
    with _registered():
        try:
            model.set_attn_implementation(NAME)
            yield
        finally:
            # A modifier may have set another implementation within the context.
            if model.config._attn_implementation == NAME:
                model.set_attn_implementation("sdpa")


@contextlib.contextmanager
def _registered() -> Iterator[None]:
    """Register NAME with transformers until the last open context ends."""
    global _open
    with _lock:
        _open += 1
        register(NAME, training_attention)
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if not _open:
                for interface in (AttentionInterface, AttentionMaskInterface):
                    # There is no public counterpart of `register`.
                    del interface._global_mapping[NAME]


def _uses_fused_attention(model: PreTrainedModel) -> bool:
    modules = attentions(model).values()
    fused = model.config._attn_implementation == "sdpa"
    return fused and not any(module.is_causal for module in modules)
