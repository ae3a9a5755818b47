"""Optimal Brain Surgeon on the Linear layers of a model: saliencies, and the update after pruning.

Works with any `Fisher`; oBERT and M-FAC use different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparsekit.errors import UserError
from sparsekit.sparsity.fisher import Fisher, NotInvertible
from sparsekit.sparsity.gradients import example_gradients
from sparsekit.sparsity.masks import Blocks, Pattern

Layers = Mapping[str, nn.Linear]
Batch = Mapping[str, Tensor]
# Called with a total of rows, a seed, and a number that divides the rows of each batch.
Draw = Callable[[int, int, int], Iterator[Batch]]


def measure(
    model: nn.Module,
    layers: Layers,
    batches: Iterable[Batch],
    make: Callable[[int], Fisher],
    examples: int = 1,
) -> dict[str, Fisher]:
    """The Fisher of each layer's weight by name, from gradients of `examples` rows without dropout.

    `make` returns an empty `Fisher` for a number of weights.
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
    layers: Layers,
    fishers: Mapping[str, Fisher],
    masks: Mapping[str, Tensor],
    damp: float,
    pattern: Pattern,
) -> dict[str, Tensor]:
    """The rise of the loss without each weight (or block), by name, in the weight's shape."""
    group = pattern.columns if isinstance(pattern, Blocks) else 1

    def saliency(name: str) -> Tensor:
        weight = layers[name].weight.detach()
        with _named(name, damp):
            rises = fishers[name].saliency(weight.flatten(), masks[name].flatten(), damp, group)
        return rises.view_as(weight)

    return _in_parallel(saliency, layers)


@torch.no_grad()
def repair(
    layers: Layers,
    fishers: Mapping[str, Fisher],
    masks: Mapping[str, Tensor],
    damp: float,
) -> None:
    """Set weights to zero where `masks` are False, and update the others to minimize the loss."""

    def moved(name: str) -> Tensor:
        weight = layers[name].weight.detach()
        with _named(name, damp):
            return fishers[name].compensate(weight.flatten(), masks[name].flatten(), damp)

    for name, weight in _in_parallel(moved, layers).items():
        layers[name].weight.copy_(weight.view_as(layers[name].weight))


@contextmanager
def _named(name: str, damp: float) -> Iterator[None]:
    """Say which layer's Fisher information cannot be inverted, and what to change."""
    try:
        yield
    except NotInvertible as error:
        raise UserError(
            f"the Fisher information of {name} cannot be inverted with damp {damp:g}; raise damp, "
            "such as tenfold"
        ) from error


def _in_parallel(work: Callable[[str], Tensor], layers: Layers) -> dict[str, Tensor]:
    """`work` of each layer by name, on torch's number of threads, each with one thread for torch.

    Solving small matrices with several threads each would take a quarter longer.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return dict(zip(layers, pool.map(work, layers), strict=True))
    finally:
        torch.set_num_threads(threads)
