"""Removes structures from a model: its matrices become smaller, its outputs change by what is gone.

Where nothing but zeros is removed, outputs stay the same up to rounding. Quantizers keep their
ranges, so this holds for a model that is trained for int8 too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsekit.errors import UserError
from sparsekit.shape.blocks import MPNET, Block, Constant, NoAttention, blocks, layer_stack
from sparsekit.shape.kept import Kept, hidden_width


def remove(model: PreTrainedModel, kept: Kept) -> None:
    """Leave the structures in `kept` alone in the model, in place; its config is not changed.

    Parameters that become smaller are new ones. Raises UserError where the hidden width cannot be
    narrowed.
    """
    layers = blocks(model)
    for block, heads, neurons in zip(layers, kept.heads, kept.neurons, strict=True):
        _remove_heads(block, heads)
        _remove_neurons(block, neurons)
    if len(kept.hidden) < (width := hidden_width(model)):
        _remove_hidden(model, kept.hidden, width)
    if len(kept.layers) < len(layers):
        _remove_layers(model, kept.layers)


def _remove_heads(block: Block, heads: Tensor) -> None:
    if len(heads) == block.heads:
        return
    layout = block.layout
    if len(heads) == 0:
        _remove_attention(block)
        return
    features, indices = head_features(heads, block.head_size), head_indices(block)
    for path in (layout.query, layout.key, layout.value):
        narrow(block.linear(path), rows=features)
    narrow(block.linear(layout.attention_output), columns=features)
    attention = block.part(layout.attention)
    for name, value in (
        ("num_attention_heads", len(heads)),
        ("n_heads", len(heads)),
        ("all_head_size", len(features)),
        ("dim", len(features)),
    ):
        if hasattr(attention, name):
            setattr(attention, name, value)
    # Not a submodule: attributes of a module that are neither tensors nor modules are kept as such.
    attention.head_indices = [indices[head] for head in heads.tolist()]  # type: ignore[assignment]
    if layout is MPNET:
        attention.register_forward_pre_hook(_SelectBiases(heads))


def head_indices(block: Block) -> list[int]:
    """The heads that are left, as indices of those that the model was built with."""
    found = getattr(block.part(block.layout.attention), "head_indices", None)
    return list(range(block.heads)) if found is None else found


@dataclass(frozen=True, eq=False)
class _SelectBiases:
    """Gives MPNet's attention the position biases of the heads that are left.

    The encoder computes the biases [batch, heads, tokens, tokens] once, for all layers.
    """

    heads: Tensor

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, mask, biases, *rest = inputs
        return hidden, mask, biases[:, self.heads.to(biases.device)], *rest


def _remove_attention(block: Block) -> None:
    layout = block.layout
    constant = Constant(_bias(block.linear(layout.attention_output)))
    none = NoAttention()
    block.replace(layout.attention, none)
    parent, _, name = layout.attention_output.rpartition(".")
    if parent == layout.attention:
        none.add_module(name, constant)
    else:
        block.replace(layout.attention_output, constant)


def _remove_neurons(block: Block, neurons: Tensor) -> None:
    if len(neurons) == block.neurons:
        return
    layout = block.layout
    if len(neurons) == 0:
        constant = Constant(_bias(block.linear(layout.output)))
        block.replace(layout.output, constant)
        block.replace(layout.intermediate, nn.Identity())
        return
    narrow(block.linear(layout.intermediate), rows=neurons)
    narrow(block.linear(layout.output), columns=neurons)


def _bias(linear: nn.Linear) -> nn.Parameter:
    """The output of a Linear layer that gets zeros alone."""
    bias = linear.bias
    if bias is None:
        bias = nn.Parameter(linear.weight.new_zeros(linear.out_features))
    if (quantizer := linear._modules.get("output_quantizer")) is not None:
        bias = nn.Parameter(quantizer(bias.detach()))
    return bias


def head_features(heads: Tensor, head_size: int) -> Tensor:
    """The features of the heads, head by head.

    >>> head_features(torch.tensor([0, 2]), 3).tolist()
    [0, 1, 2, 6, 7, 8]
    """
    return (heads[:, None] * head_size + torch.arange(head_size, device=heads.device)).flatten()


def _remove_layers(model: PreTrainedModel, layers: Tensor) -> None:
    stack = layer_stack(model)
    left = [stack[index] for index in layers.tolist()]
    del stack[len(left) :]
    for index, layer in enumerate(left):
        stack[index] = layer
    model.config.num_hidden_layers = len(left)


def _remove_hidden(model: PreTrainedModel, hidden: Tensor, width: int) -> None:
    in_layers = {f"{block.name}." for block in blocks(model)}
    for name, module in list(model.named_modules()):
        if name.startswith(tuple(in_layers)):
            continue
        _narrow_outside(model, name, module, hidden, width)
    for block in blocks(model):
        layout = block.layout
        for path in (layout.query, layout.key, layout.value) if block.heads else ():
            narrow(block.linear(path), columns=hidden)
        if block.neurons:
            narrow(block.linear(layout.intermediate), columns=hidden)
        for path in (layout.attention_output, layout.output):
            part = block.part(path)
            if isinstance(part, nn.Linear):
                narrow(part, rows=hidden)
            else:
                _select(part, "bias", 0, hidden)
        for path in (layout.attention_norm, layout.output_norm):
            _narrow_norm(cast(nn.LayerNorm, block.part(path)), hidden)
    model.tie_weights()


def _narrow_outside(
    model: PreTrainedModel, name: str, module: nn.Module, hidden: Tensor, width: int
) -> None:
    """Narrow a module of embeddings, pooler or head, whose inputs or outputs are hidden states."""
    own = [parameter for _, parameter in module.named_parameters(recurse=False)]
    if isinstance(module, nn.Linear):
        reads, writes = module.in_features == width, module.out_features == width
        if (writes and not reads and "embeddings_project" not in name) or (
            writes and module.out_features == model.config.num_labels
        ):
            raise UserError(
                f"the hidden width cannot be narrowed: {name} has as many outputs, {width}; leave "
                "out --hidden"
            )
        narrow(module, hidden if writes else None, hidden if reads else None)
    elif isinstance(module, nn.Embedding):
        if module.embedding_dim == width:
            _select(module, "weight", 1, hidden)
            module.embedding_dim = len(hidden)
    elif isinstance(module, nn.LayerNorm):
        if module.normalized_shape == (width,):
            _narrow_norm(module, hidden)
    elif any(width in parameter.shape for parameter in own):
        raise UserError(
            f"the hidden width cannot be narrowed: what {name or 'the model'} does with it is not "
            "known; leave out --hidden"
        )


def narrow(linear: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    """Leave these outputs and inputs alone in a Linear layer, and in its quantizer's scales."""
    if columns is not None:
        _select(linear, "weight", 1, columns)
        linear.in_features = len(columns)
    if rows is None:
        return
    _select(linear, "weight", 0, rows)
    if linear.bias is not None:
        _select(linear, "bias", 0, rows)
    quantizer = linear._modules.get("weight_quantizer")
    for name, buffer in quantizer.named_buffers() if quantizer is not None else ():
        # A scale for each output channel.
        if buffer.ndim and len(buffer) == linear.out_features:
            setattr(quantizer, name, buffer[rows.to(buffer.device)])
    linear.out_features = len(rows)


def _narrow_norm(norm: nn.LayerNorm, hidden: Tensor) -> None:
    for name in ("weight", "bias"):
        _select(norm, name, 0, hidden)
    norm.normalized_shape = (len(hidden),)


def _select(module: nn.Module, name: str, dimension: int, indices: Tensor) -> None:
    old = module.get_parameter(name)
    values = old.detach().index_select(dimension, indices.to(old.device)).contiguous()
    setattr(module, name, nn.Parameter(values, requires_grad=old.requires_grad))
