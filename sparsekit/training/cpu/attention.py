"""Attention that trains with the dropout of `training.dropout`; on a CPU.

torch's fused attention has no dropout on a CPU: there it falls back to single operations, with
checks for rows without any key, and draws one random float after the other. Here a kernel computes
a head at a time; without a compiler, or for operands that it does not take, torch's operations do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from sparsekit.kernels import attention as kernel
from sparsekit.modifiers.quantization.attention import attentions
from sparsekit.training.cpu.dropout import drop, kept_steps, new_seed

NAME = "sparsekit_dropout"


def dropout_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention over query, key, value [batch, heads, tokens, size]; returns [batch, tokens, ...].

    `attention_mask` is added to the scores. Without dropout it is torch's fused attention.
    """
    if not dropout or torch.compiler.is_compiling():
        outputs, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
        return outputs, None
    if _takes_kernel(query, key, value, attention_mask):
        by_token = [operand.transpose(1, 2).contiguous() for operand in (query, key, value)]
        result: Tensor = _Attention.apply(*by_token, attention_mask, scaling, kept_steps(dropout))  # type: ignore[no-untyped-call]
        return result, None
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = drop(scores.softmax(dim=-1), dropout)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), None


def _takes_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    alike = query.shape == key.shape == value.shape and query.shape[-1] % kernel.WIDE == 0
    plain = mask is None or (
        mask.dtype == torch.float32 and mask.shape[1] == 1 and not mask.requires_grad
    )
    floats = all(operand.dtype == torch.float32 for operand in (query, key, value))
    return alike and plain and floats and kernel.available()


class _Attention(torch.autograd.Function):
    """Of [batch, tokens, heads, size]: as BERT's layers give it and take it."""

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
        ctx.call = scaling, new_seed(), steps
        outputs, probabilities = kernel.attention(query, key, value, mask, *ctx.call)
        ctx.save_for_backward(query, key, value, probabilities)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, probabilities = ctx.saved_tensors
        errors = gradient.contiguous()
        found = kernel.gradients(query, key, value, probabilities, errors, *ctx.call)
        return *found, None, None, None


@contextlib.contextmanager
def dropout_attention_in(model: nn.Module) -> Iterator[None]:
    """Let a model that uses torch's fused attention use this one within the context.

    Not one with causal attention.
    """
    if not isinstance(model, PreTrainedModel) or not _takes_fused(model):
        yield
        return
    # transformers makes masks for names of the class's own table only.
    AttentionInterface.register(NAME, dropout_attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    try:
        model.set_attn_implementation(NAME)
        yield
    finally:
        # A modifier may have set one of its own in between.
        if model.config._attn_implementation == NAME:
            model.set_attn_implementation("sdpa")
        for interface in (AttentionInterface, AttentionMaskInterface):
            # What `register` has no counterpart for.
            del interface._global_mapping[NAME]


def _takes_fused(model: PreTrainedModel) -> bool:
    modules = attentions(model).values()
    fused = model.config._attn_implementation == "sdpa"
    return fused and not any(module.is_causal for module in modules)
