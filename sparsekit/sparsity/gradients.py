"""Per-example gradients of the loss for the weights of Linear layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.errors import UserError
from sparsekit.sparsity.items import items_of_rows

Calls = dict[str, list[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Products:
    """The gradients of a Linear layer's weight, each a product that is not computed yet.

    The gradient of example n is grad_outputs[n] @ inputs[n], the sum over its tokens.

    inputs: float32 [examples, tokens, in], contiguous.
    grad_outputs: float32 [examples, out, tokens], contiguous.
    memory: a list of one tensor that `dense` writes to, since allocating memory of this size takes
        as long as computing them; empty at first.
    """

    inputs: Tensor
    grad_outputs: Tensor
    memory: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, gradients: Tensor) -> Products:
        """Gradients that are there already, [examples, weights]."""
        ones = gradients.new_ones(len(gradients), 1, 1)
        return cls(gradients.float().contiguous()[:, None], ones)

    def __len__(self) -> int:
        return len(self.inputs)

    def dense(self) -> Tensor:
        """The gradients [examples, out * in]; the next ones with this memory overwrite them."""
        shape = (len(self), self.grad_outputs.shape[1], self.inputs.shape[2])
        size = shape[0] * shape[1] * shape[2]
        if not self.memory or len(self.memory[0]) < size:
            self.memory[:] = [torch.empty(size, device=self.inputs.device)]
        out = self.memory[0][:size].view(shape)
        return torch.bmm(self.grad_outputs, self.inputs, out=out).flatten(1)


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
) -> Iterator[tuple[str, Products]]:
    """Yields each layer's name with the gradients of its weight, rows / examples of them.

    A gradient is that of the mean loss over `examples` consecutive rows. One backward pass through
    the activations suffices: a weight's gradient is the matmul of the layer's input and the
    gradient of its output, which can be computed for each group of rows. The products of a batch
    share their memory.

    Args:
        model: returns a `loss` that is the mean over the rows, or over the labelled tokens where
            `labels` has one for each token.
        batch: its number of rows is a multiple of `examples`.
    """
    rows = len(batch["labels"])
    with recorded(layers) as calls, torch.enable_grad():
        loss = model(**batch).loss
    if any(len(inputs) != rows for pairs in calls.values() for inputs, _ in pairs):
        yield from _gradients_by_group(model, batch, layers, examples)
        return
    items = items_of_rows(batch).view(-1, examples).sum(1)
    loss, factors = checked_loss(loss, items), loss_factors(items)
    outputs = [output for pairs in calls.values() for _, output in pairs]
    grad_outputs = iter(torch.autograd.grad(loss, outputs))
    memory: list[Tensor] = []
    for name, pairs in calls.items():
        layer, groups = layers[name], len(factors)
        lefts, rights = [], []
        for inputs, _ in pairs:
            grad_output = next(grad_outputs).float().reshape(groups, -1, layer.out_features)
            lefts.append((grad_output * factors[:, None, None]).transpose(1, 2))
            rights.append(inputs.float().reshape(groups, -1, layer.in_features))
        if pairs:
            # The gradient of a layer that is called several times is a sum over all its tokens.
            yield name, Products(torch.cat(rights, 1).contiguous(), torch.cat(lefts, 2), memory)


def _gradients_by_group(
    model: nn.Module, batch: Mapping[str, Tensor], layers: Mapping[str, nn.Linear], examples: int
) -> Iterator[tuple[str, Products]]:
    """`example_gradients` by one backward pass for each group of `examples` rows.

    For models with a layer whose input belongs to no single row, such as DeBERTa's projections of
    relative positions.
    """
    weights = [layer.weight for layer in layers.values()]
    frozen = [weight for weight in weights if not weight.requires_grad]
    groups = []
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        for start in range(0, len(batch["labels"]), examples):
            group = {name: values[start : start + examples] for name, values in batch.items()}
            with torch.enable_grad():
                loss = checked_loss(model(**group).loss, items_of_rows(group))
            groups.append(torch.autograd.grad(loss, weights, allow_unused=True))
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    for name, gradients in zip(layers, zip(*groups, strict=True), strict=True):
        # A layer that is not called has no gradient.
        if all(gradient is not None for gradient in gradients):
            yield name, Products.of(torch.stack(gradients).flatten(1))


def loss_factors(items: Tensor) -> Tensor:
    """What makes the gradient of a mean over all items that over the items of each group, [groups].

    items: over how many items of each group the loss is a mean, [groups].
    """
    return items.sum() / items.clamp(min=1)


def checked_loss(loss: Tensor, items: Tensor) -> Tensor:
    """The loss of a batch; 0, with gradients of 0, where it is a mean of nothing.

    items: over how many items the loss is a mean, of any shape. Raises UserError for a loss that is
    not finite: its gradients would rank nothing.
    """
    if not items.any():
        return torch.where(torch.zeros_like(loss, dtype=torch.bool), loss, 0.0)
    if not torch.isfinite(loss):
        raise UserError(
            f"the loss of rows whose gradients are measured is {loss.item()}: training diverged, "
            "or the model's weights are not finite; lower the learning rate or train in fp32"
        )
    return loss
