"""Gradients of the loss, example by example, for the weights of Linear layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Calls = dict[str, list[tuple[Tensor, Tensor]]]


@contextmanager
def recorded(layers: Mapping[str, nn.Linear]) -> Iterator[Calls]:
    """The (input, output) pairs of each layer's calls within the context, by name."""
    calls: Calls = {name: [] for name in layers}

    def recorder(name: str) -> Any:
        def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # Below it everything may be frozen.
            if torch.is_grad_enabled() and not output.requires_grad:
                output.requires_grad_()
            calls[name].append((inputs[0].detach(), output))

        return record

    hooks = [layer.register_forward_hook(recorder(name)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def example_gradients(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    layers: Mapping[str, nn.Linear],
    examples: int,
    memory: list[Tensor],
) -> Iterator[tuple[str, Tensor]]:
    """Each layer's name with gradients [rows / examples, out * in] of its weight.

    A gradient is that of the mean loss over `examples` consecutive rows of the batch, which must be
    a multiple of them. The model's `loss` must be the mean over the rows. One backward pass through
    the activations serves all: the weight's gradient is the product of a layer's input and its
    output's gradient, so rows are told apart at no cost. What was given is overwritten by the next:
    all lies in one tensor kept in `memory` from call to call, an empty list at first, since fresh
    memory for gradients of this size costs as much as computing them.
    """
    rows = len(batch["labels"])
    with recorded(layers) as calls, torch.enable_grad():
        loss = model(**batch).loss
    outputs = [output for pairs in calls.values() for _, output in pairs]
    errors = iter(torch.autograd.grad(loss, outputs))
    for name, pairs in calls.items():
        layer = layers[name]
        flat = _scratch(memory, rows // examples, layer.weight)
        gradient = flat.view(-1, layer.out_features, layer.in_features)
        for call, (inputs, _) in enumerate(pairs):
            # The loss divides by all rows, the loss of one gradient's rows by `examples`.
            error = next(errors).float() * (rows / examples)
            error = error.reshape(rows // examples, -1, layer.out_features).transpose(1, 2)
            seen = inputs.float().reshape(rows // examples, -1, layer.in_features)
            torch.baddbmm(gradient, error, seen, beta=float(call > 0), out=gradient)
        if pairs:
            yield name, flat


def _scratch(memory: list[Tensor], rows: int, weight: Tensor) -> Tensor:
    """Uninitialized float32 [rows, numbers in `weight`], in what `memory` holds if it suffices."""
    size = rows * weight.numel()
    if not memory or len(memory[0]) < size:
        memory[:] = [torch.empty(size, device=weight.device)]
    return memory[0][:size].view(rows, -1)
