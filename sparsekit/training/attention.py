"""Attention that trains with the dropout of `training.dropout`; on a CPU.

torch's fused attention has no dropout on a CPU: there it falls back to single operations, with
checks for rows without any key, and draws one random float after the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from sparsekit.modifiers.attention import attentions
from sparsekit.training.dropout import drop

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
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = drop(scores.softmax(dim=-1), dropout)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), None


@contextlib.contextmanager
def used_by(model: nn.Module) -> Iterator[None]:
    """Let a model that takes torch's fused attention, both ways, take this one meanwhile."""
    if not isinstance(model, PreTrainedModel) or not _takes_fused(model):
        yield
        return
    AttentionInterface.register(NAME, dropout_attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        # A modifier may have given it one of its own in between.
        if model.config._attn_implementation == NAME:
            model.set_attn_implementation("sdpa")


def _takes_fused(model: PreTrainedModel) -> bool:
    modules = attentions(model).values()
    fused = model.config._attn_implementation == "sdpa"
    return fused and not any(module.is_causal for module in modules)
