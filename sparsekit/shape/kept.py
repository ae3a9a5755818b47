"""Which structures of a model stay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsekit.shape.blocks import blocks

# Widths are multiples of this: of 4 for the kernels of runtime=sparse, and half a vector of floats.
MULTIPLE = 8


@dataclass(frozen=True, eq=False)
class Kept:
    """The structures that stay, as increasing indices of those that there are.

    layers: of the layers. heads, neurons: of each layer that there is, also of those that go.
    hidden: of the features of the hidden states, the same in all layers.
    """

    layers: Tensor
    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]
    hidden: Tensor

    @classmethod
    def all(cls, model: PreTrainedModel) -> Kept:
        """Everything that `model` has."""
        layers = blocks(model)
        return cls(
            layers=torch.arange(len(layers)),
            heads=tuple(torch.arange(block.heads) for block in layers),
            neurons=tuple(torch.arange(block.neurons) for block in layers),
            hidden=torch.arange(hidden_width(model)),
        )


def hidden_width(model: PreTrainedModel) -> int:
    """The number of features of the model's hidden states."""
    first = blocks(model)[0]
    norm = first.part(first.layout.output_norm)
    return len(norm.weight)  # type: ignore[arg-type]


def largest_sizes(model: PreTrainedModel) -> dict[str, int]:
    """The number of layers, the most heads and neurons that a layer has, and the hidden width."""
    layers = blocks(model)
    return {
        "layers": len(layers),
        "heads": max(block.heads for block in layers),
        "neurons": max(block.neurons for block in layers),
        "hidden": hidden_width(model),
    }
