"""Which layers of a model its outputs depend on."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Outputs beside those of a model's task: a pooler may be there for them alone.
_BESIDE = ("pooler_output", "hidden_states", "attentions", "past_key_values")


def used_layers(model: nn.Module) -> set[str]:
    """The names of the Linear and Embedding layers that the outputs of `model` depend on.

    Some architectures have layers that a classifier never calls, such as ESM's contact head, or
    whose result it discards, such as BigBird's pooler. They learn nothing, and an exported graph
    has none of them. Of a model that takes no token ids, every layer.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }
    if not isinstance(model, PreTrainedModel):
        return set(layers)
    if "input_ids" not in inspect.signature(model.forward).parameters:
        return set(layers)
    results: list[tuple[str, Tensor]] = []

    def recorder(name: str) -> Any:
        def record(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            if not output.requires_grad:
                output.requires_grad_()
            results.append((name, output))
            # The model may change what it gets in place.
            return output.clone()

        return record

    hooks = [module.register_forward_hook(recorder(name)) for name, module in layers.items()]
    training = model.training
    ids = torch.ones((1, 8), dtype=torch.long, device=model.device)
    try:
        with torch.enable_grad():
            outputs = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
            sums = [
                value.sum()
                for name, value in outputs.items()
                if name not in _BESIDE and isinstance(value, Tensor)
            ]
            tensors = [tensor for _, tensor in results]
            gradients = torch.autograd.grad(sums, tensors, allow_unused=True)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    used = zip(results, gradients, strict=True)
    return {name for (name, _), gradient in used if gradient is not None}
