"""Masks that set structures to zero in a model of full size."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsekit.shape.blocks import Block, blocks
from sparsekit.shape.kept import MULTIPLE, Kept
from sparsekit.shape.removal import head_features


def structure_masks(model: PreTrainedModel, kept: Kept) -> dict[str, Tensor]:
    """Masks by parameter name, False for all weights and biases of heads and neurons not in `kept`.

    With them the model computes what it computes without these structures. Layers and hidden
    features are not masked: a LayerNorm depends on how many features there are.
    """
    masks: dict[str, Tensor] = {}
    for block, heads, neurons in zip(blocks(model), kept.heads, kept.neurons, strict=True):
        layout = block.layout
        if block.heads:
            readers = (layout.query, layout.key, layout.value)
            units = _mask(head_features(heads, block.head_size), block.heads * block.head_size)
            masks |= _of_units(block, readers, layout.attention_output, units)
        if block.neurons:
            units = _mask(neurons, block.neurons)
            masks |= _of_units(block, (layout.intermediate,), layout.output, units)
    return masks


def kept_by_zeros(model: PreTrainedModel) -> Kept:
    """All structures but the heads and neurons that no weight reads."""
    everything = Kept.all(model)
    heads, neurons = [], []
    for block, own in zip(blocks(model), everything.heads, strict=True):
        read = own
        if block.heads:
            weight = block.linear(block.layout.attention_output).weight.detach()
            read = weight.ne(0).any(0).view(-1, block.head_size).any(1).nonzero()[:, 0].cpu()
        heads.append(read)
    for block, own in zip(blocks(model), everything.neurons, strict=True):
        read = own
        if block.neurons:
            weight = block.linear(block.layout.output).weight.detach()
            read = _in_multiples(weight.ne(0).any(0).nonzero()[:, 0].cpu(), block.neurons)
        neurons.append(read)
    return Kept(everything.layers, tuple(heads), tuple(neurons), everything.hidden)


def _in_multiples(kept: Tensor, size: int) -> Tensor:
    """`kept`, and as many others of `size` as make it a multiple of MULTIPLE if there are any."""
    missing = min(-len(kept) % MULTIPLE, size - len(kept))
    if not missing:
        return kept
    others = (~_mask(kept, size)).nonzero()[:missing, 0]
    return torch.cat([kept, others]).sort().values


def _mask(indices: Tensor, size: int) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[indices] = True
    return mask


def _of_units(
    block: Block, producers: tuple[str, ...], consumer: str, units: Tensor
) -> dict[str, Tensor]:
    """Masks of the rows of the layers that produce the units, and of the columns that read them."""
    masks = {}
    for path in producers:
        linear = block.linear(path)
        masks[f"{block.name}.{path}.weight"] = units[:, None].expand(linear.weight.shape)
        if linear.bias is not None:
            masks[f"{block.name}.{path}.bias"] = units
    weight = block.linear(consumer).weight
    masks[f"{block.name}.{consumer}.weight"] = units.expand(weight.shape)
    return masks
