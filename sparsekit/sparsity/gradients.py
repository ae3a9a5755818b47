"""Per-example gradients of the loss for the weights of Linear layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.sparsity.items import items_of_rows

Calls = dict[str, list[tuple[Tensor, Tensor]]]


@contextmanager
def recorded(layers: Mapping[str, nn.Linear]) -> Iterator[Calls]:
    """The (input, output) pairs of each layer's calls within the context, by name.

    The model goes on with a copy of each output, which it may change in place.
    """
    calls: Calls = {name: [] for name in layers}

    def recorder(name: str) -> Any:
        def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # All parameters before the layer may be frozen.
            if torch.is_grad_enabled() and not output.requires_grad:
                output.requires_grad_()
            calls[name].append((inputs[0].detach(), output))
            return output.clone()

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
    """Yields each layer's name with the gradients [rows / examples, out * in] of its weight.

    A gradient is that of the mean loss over `examples` consecutive rows. One backward pass through
    the activations suffices: a weight's gradient is the matmul of the layer's input and the
    gradient of its output, which can be computed for each group of rows.

    Args:
        model: returns a `loss` that is the mean over the rows, or over the labelled tokens where
            `labels` has one for each token.
        batch: its number of rows is a multiple of `examples`.
        memory: an empty list at the first call; it holds one tensor that all gradients are written
            to, since allocating memory of this size takes as long as computing them. Each gradient
            is overwritten by the next.
    """
    rows = len(batch["labels"])
    with recorded(layers) as calls, torch.enable_grad():
        loss = model(**batch).loss
    if any(len(inputs) != rows for pairs in calls.values() for inputs, _ in pairs):
        yield from _gradients_by_group(model, batch, layers, examples)
        return
    # The loss is the mean over all items, a gradient that over those of `examples` rows.
    items = items_of_rows(batch).view(-1, examples).sum(1)
    factors = items.sum() / items.clamp(min=1)
    outputs = [output for pairs in calls.values() for _, output in pairs]
    grad_outputs = iter(torch.autograd.grad(loss, outputs))
    for name, pairs in calls.items():
        layer = layers[name]
        flat = _scratch(memory, rows // examples, layer.weight)
        gradient = flat.view(-1, layer.out_features, layer.in_features)
        for call, (inputs, _) in enumerate(pairs):
            grad_output = next(grad_outputs).float().reshape(len(factors), -1, layer.out_features)
            grad_output = (grad_output * factors[:, None, None]).transpose(1, 2)
            inputs = inputs.float().reshape(rows // examples, -1, layer.in_features)
            torch.baddbmm(gradient, grad_output, inputs, beta=float(call > 0), out=gradient)
        if pairs:
            yield name, flat


def _gradients_by_group(
    model: nn.Module, batch: Mapping[str, Tensor], layers: Mapping[str, nn.Linear], examples: int
) -> Iterator[tuple[str, Tensor]]:
    """`example_gradients` by one backward pass for each group of `examples` rows.

    For models with a layer whose input belongs to no single row, such as DeBERTa's projections of
    relative positions.
    """
    weights = [layer.weight for layer in layers.values()]
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    groups = []
    for start in range(0, len(batch["labels"]), examples):
        group = {name: values[start : start + examples] for name, values in batch.items()}
        with torch.enable_grad():
            loss = model(**group).loss
        if not items_of_rows(group).any():  # the loss is a mean of nothing
            loss = torch.where(torch.zeros_like(loss, dtype=torch.bool), loss, 0.0)
        groups.append(torch.autograd.grad(loss, weights, allow_unused=True))
    for weight in frozen:
        weight.requires_grad_(False)
    for name, gradients in zip(layers, zip(*groups, strict=True), strict=True):
        # A layer that is not called has no gradient.
        if all(gradient is not None for gradient in gradients):
            yield name, torch.stack(gradients).float().flatten(1)


def _scratch(memory: list[Tensor], rows: int, weight: Tensor) -> Tensor:
    """Uninitialized float32 [rows, weight.numel()], in the tensor of `memory` if it suffices."""
    size = rows * weight.numel()
    if not memory or len(memory[0]) < size:
        memory[:] = [torch.empty(size, device=weight.device)]
    return memory[0][:size].view(rows, -1)
