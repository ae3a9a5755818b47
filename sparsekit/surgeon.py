"""Optimal Brain Surgeon on the Linear layers of a model: what each weight is worth, and the repair.

Takes any `Fisher`; oBERT and M-FAC differ in which one they make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from sparsekit.fisher import Fisher
from sparsekit.gradients import example_gradients
from sparsekit.masks import Blocks, Pattern, score_masks

Batch = Mapping[str, Tensor]
# Batches of so many rows in all, with a seed; their rows are a multiple of the third number.
Draw = Callable[[int, int, int], Iterator[Batch]]


def measure(
    model: nn.Module,
    layers: Mapping[str, nn.Linear],
    batches: Iterable[Batch],
    make: Callable[[int], Fisher],
    examples: int = 1,
) -> dict[str, Fisher]:
    """The Fisher of each layer's weight by name, from gradients of `examples` rows, dropout off.

    `make` gives an empty one for a number of weights.
    """
    fishers = {name: make(layer.weight.numel()) for name, layer in layers.items()}
    training = model.training
    model.eval()
    try:
        for batch in batches:
            for name, gradients in example_gradients(model, batch, layers, examples):
                fishers[name].add(gradients)
    finally:
        model.train(training)
    return fishers


@torch.no_grad()
def saliencies(
    layers: Mapping[str, nn.Linear],
    fishers: Mapping[str, Fisher],
    kept: Mapping[str, Tensor],
    damp: float,
    pattern: Pattern,
) -> dict[str, Tensor]:
    """What the loss loses with each weight (each block), by name and of the weight's shape."""
    group = pattern.columns if isinstance(pattern, Blocks) else 1
    return {
        name: fishers[name]
        .saliency(layer.weight.detach().flatten(), kept[name].flatten(), damp, group)
        .view_as(layer.weight)
        for name, layer in layers.items()
    }


@torch.no_grad()
def repair(
    layers: Mapping[str, nn.Linear],
    fishers: Mapping[str, Fisher],
    masks: Mapping[str, Tensor],
    damp: float,
) -> None:
    """Set what `masks` drop to zero and move what they keep to where the loss is least."""
    for name, layer in layers.items():
        weight, mask = layer.weight.detach().flatten(), masks[name].flatten()
        layer.weight.copy_(fishers[name].compensate(weight, mask, damp).view_as(layer.weight))


def masks_of(
    scores: Mapping[str, Tensor],
    sparsity: float,
    pattern: Pattern,
    kept: Mapping[str, Tensor],
    ranks_globally: bool,
) -> dict[str, Tensor]:
    """Masks by name that reach `sparsity` over all scores together or in each by itself."""
    groups: Sequence[list[str]] = [list(scores)] if ranks_globally else [[name] for name in scores]
    masks: dict[str, Tensor] = {}
    for names in groups:
        chosen = score_masks(
            [scores[n] for n in names], sparsity, pattern, [kept[n] for n in names]
        )
        masks |= zip(names, chosen, strict=True)
    return masks
