"""How sensitive each layer is: the loss with one layer at a time pruned, or in int8.

Layers differ: a sparsity that costs nothing in one ruins another. `oneshot.allocation` chooses a
sparsity for each from what is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsekit.errors import UserError
from sparsekit.modifiers.quantization.rounding import INT8, UINT8, fake_quantize
from sparsekit.modifiers.quantization.scales import quantization_parameters
from sparsekit.sparsity.items import items_of_rows
from sparsekit.sparsity.masks import magnitude_mask
from sparsekit.sparsity.surgeon import Batch, Layers


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """How much the mean loss grows when one layer alone is compressed; negative where it falls.

    weights: the number of weights.
    pruned: the growth by the share of the smallest magnitudes that is set to zero, ascending.
    int8: the growth with weights and inputs rounded to int8, without training.
    """

    name: str
    weights: int
    pruned: dict[float, float]
    int8: float


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[Batch]) -> float:
    """The mean loss of the rows (or labelled tokens) of `batches`, in eval mode.

    Raises UserError for one that is not finite: no order of layers follows from it.
    """
    model.eval()
    total, items = 0.0, 0
    for batch in batches:
        # Without any the loss is a mean of nothing.
        if size := int(items_of_rows(batch).sum()):
            total += size * float(model(**batch).loss)
            items += size
    if not math.isfinite(total):
        raise UserError(
            f"the loss of the rows is {total}: the model's weights or its labels are not finite; "
            "measure a model that answers with finite numbers"
        )
    return total / items


def sensitivities(
    model: nn.Module, layers: Layers, batches: Sequence[Batch], shares: Sequence[float]
) -> Iterator[LayerSensitivity]:
    """The sensitivity of each of `layers`, modules of `model`, which stays as it is.

    It takes `len(shares) + 1` evaluations of `batches` for each layer.
    """
    ranges = input_ranges(model, layers, batches)
    dense = mean_loss(model, batches)
    for name, layer in layers.items():
        pruned = {}
        for share in sorted(shares):
            with pruned_layers({name: layer}, {name: share}):
                pruned[share] = mean_loss(model, batches) - dense
        with _int8_layer(layer, *ranges[name]):
            int8 = mean_loss(model, batches) - dense
        yield LayerSensitivity(name=name, weights=layer.weight.numel(), pruned=pruned, int8=int8)


@contextmanager
def pruned_layers(layers: Layers, shares: Mapping[str, float]) -> Iterator[None]:
    """Within the block the smallest magnitudes of each layer are zero, a share of its own."""
    with ExitStack() as restored, torch.no_grad():
        for name, layer in layers.items():
            mask = magnitude_mask(layer.weight, shares[name], name=f"{name}.weight")
            restored.enter_context(_weight(layer, layer.weight * mask))
        yield


@torch.no_grad()
def input_ranges(
    model: nn.Module, layers: Layers, batches: Sequence[Batch]
) -> dict[str, tuple[Tensor, Tensor]]:
    """The smallest and the largest input value of each layer, as scalars."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def observe(name: str, values: Tensor) -> None:
        low, high = torch.aminmax(values)
        if name in found:
            low, high = torch.minimum(found[name][0], low), torch.maximum(found[name][1], high)
        found[name] = low, high

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(
                lambda _, inputs, name=name: observe(name, inputs[0])
            )
            hooks.callback(hook.remove)
        mean_loss(model, batches)
    return found


@contextmanager
def _int8_layer(layer: nn.Linear, low: Tensor, high: Tensor) -> Iterator[None]:
    """Within the block the layer computes as if quantized, by the scheme of our recipes."""
    inputs = quantization_parameters(low, high, UINT8, symmetric=False)
    weight = layer.weight.detach()
    rounded = fake_quantize(
        weight, *quantization_parameters(*torch.aminmax(weight), INT8, symmetric=True), INT8
    )
    hook = layer.register_forward_pre_hook(
        lambda _, values: (fake_quantize(values[0], *inputs, UINT8), *values[1:])
    )
    try:
        with _weight(layer, rounded):
            yield
    finally:
        hook.remove()


@contextmanager
def _weight(layer: nn.Linear, values: Tensor) -> Iterator[None]:
    """Within the block the layer has other weights."""
    kept = layer.weight.data
    layer.weight.data = values.detach()
    try:
        yield
    finally:
        layer.weight.data = kept
