"""Which layers of a model its forward pass calls."""

from __future__ import annotations

import inspect

import torch
from torch import nn
from transformers import PreTrainedModel


def called_layers(model: nn.Module) -> set[str]:
    """The names of the Linear and Embedding layers that a forward pass of `model` calls.

    Some architectures have layers that a classifier never uses, such as BigBird's pooler and ESM's
    contact head. They observe no values, and an exported graph has none of them. Of a model that
    takes no token ids, every layer.
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
    called: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
        for name, module in layers.items()
    ]
    training = model.training
    ids = torch.ones((1, 8), dtype=torch.long, device=model.device)
    try:
        with torch.no_grad():
            model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return called
