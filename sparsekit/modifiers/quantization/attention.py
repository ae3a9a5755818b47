"""Attention with int8 operands in both matmuls, as a function that transformers calls by name.

query_quantizer(q) x key_quantizer(k)^T --> softmax --> probabilities_quantizer --> x value
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from sparsekit.modifiers.quantization.fake_quantize import FakeQuantizer
from sparsekit.modifiers.quantization.rounding import INT8, UINT8

NAME = "sparsekit_int8"
# The left operand of a matmul is uint8 and the right one symmetric int8, as int8 units take them.
OPERANDS = {
    "query_quantizer": (UINT8, False),
    "key_quantizer": (INT8, True),
    "probabilities_quantizer": (UINT8, False),
    "value_quantizer": (INT8, True),
}


def int8_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention over query, key and value [batch, heads, tokens, head size].

    Key and value may have fewer heads than the query, each for a group of its heads.

    Returns the output [batch, tokens, heads, head size], and the probabilities or None. A module
    without quantizers, or with disabled ones, uses torch's fused attention.
    """
    found = [module._modules.get(name) for name in OPERANDS]
    quantizers = [each for each in found if isinstance(each, FakeQuantizer) and each.enabled]
    if len(quantizers) < len(OPERANDS):
        outputs, _ = AttentionInterface()["sdpa"](
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
        return outputs, None
    of_query, of_key, of_probabilities, of_value = quantizers
    # Grouped heads: several heads of the query share one of the key and of the value.
    groups = query.shape[1] // key.shape[1]
    key, value = of_key(key), of_value(value)
    if groups > 1:
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    scores = torch.matmul(of_query(query), key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    # Rounded before dropout, as there is none in deployment.
    probabilities = of_probabilities(scores.softmax(dim=-1))
    probabilities = F.dropout(probabilities, dropout, module.training)
    outputs = torch.matmul(probabilities, value).transpose(1, 2).contiguous()
    return outputs, probabilities


def attentions(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of `model` that call an attention function by name.

    They have the attribute `is_causal`, which such functions read.
    """
    return {n: m for n, m in model.named_modules() if isinstance(vars(m).get("is_causal"), bool)}


def register(name: str, attention: Callable[..., Any]) -> None:
    """Let models call `attention` by `name`, with the mask that is added to the scores.

    transformers creates masks only for names that are registered for masks too.
    """
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, eager_mask)


def quantize_attention(
    model: PreTrainedModel, modules: dict[str, nn.Module]
) -> list[FakeQuantizer]:
    """Add quantizers to `modules`, let `model` call `int8_attention`; return the quantizers."""
    register(NAME, int8_attention)
    model.set_attn_implementation(NAME)
    added = []
    for module in modules.values():
        for name, (limits, symmetric) in OPERANDS.items():
            quantizer = FakeQuantizer(limits, symmetric).to(model.device)
            module.add_module(name, quantizer.train(module.training))
            added.append(quantizer)
    return added
