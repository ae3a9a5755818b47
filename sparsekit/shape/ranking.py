"""In which order structures are removed, and by how much the loss is expected to rise.

magnitude    the norm of what a structure reads times the norm of what it writes; of a layer,
             the size of what it adds to its inputs
first_order  |dL/dm| of a factor m before the structure (Michel et al. 2019)
obs          Optimal Brain Surgeon: the rise of the loss once the weights that remain have
             taken over what they can (Kurtic et al. 2023, ZipLM), by the Kronecker-factored
             Fisher information of the weights that read the structures
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsekit.shape.blocks import Block, blocks
from sparsekit.shape.kept import hidden_width
from sparsekit.shape.statistics import LinearStatistics, Statistics

METHODS = ("magnitude", "first_order", "obs")
# Added to the second moments, relative to the mean of their diagonal.
DAMPING = 1e-3
# A layer's neurons are removed in this many steps, after each of which the others are scored again.
# In one step two neurons that could stand in for each other may both go.
STEPS = 128


@dataclass(frozen=True, eq=False)
class Ranking:
    """The order in which units are removed, and what that costs.

    order [units]: indices, the first to go first. losses [units + 1]: the rise of the loss without
    the first 0, 1, ... of them.
    """

    order: Tensor
    losses: Tensor

    @classmethod
    def by_score(cls, scores: Tensor) -> Ranking:
        """The lowest scores first, each of which is the loss of its unit.

        >>> Ranking.by_score(torch.tensor([3.0, 1.0, 2.0])).losses.tolist()
        [0.0, 1.0, 3.0, 6.0]
        """
        order = torch.argsort(scores, stable=True)
        losses = torch.cat([torch.zeros(1), torch.cumsum(scores[order].float(), 0)])
        return cls(order, losses)

    def kept(self, count: int) -> Tensor:
        """The indices of the `count` units that go last, increasing."""
        return self.order[len(self.order) - count :].sort().values


@dataclass(frozen=True)
class Rankings:
    """Of the heads and neurons of each layer, of the hidden features, and of the layers."""

    heads: list[Ranking]
    neurons: list[Ranking]
    hidden: Ranking
    layers: Ranking


@torch.no_grad()
def rank(model: PreTrainedModel, method: str, statistics: Statistics | None = None) -> Rankings:
    """The rankings of the model's structures.

    method: one of METHODS; statistics: of `measure`, which all but magnitude need.
    """
    layers = blocks(model)
    if statistics is None:
        if method != "magnitude":
            raise ValueError(f"{method} needs statistics")
        heads = [Ranking.by_score(_relative(head_norms(block))) for block in layers]
        neurons = [Ranking.by_score(_relative(neuron_norms(block))) for block in layers]
        hidden = Ranking.by_score(hidden_norms(model))
        whole = torch.tensor([layer_norm(block) for block in layers])
    else:
        heads, neurons = (
            [
                _ranked(block, getattr(block.layout, path), found, method)
                for block, found in zip(layers, each, strict=True)
            ]
            for path, each in (
                ("attention_output", statistics.heads),
                ("output", statistics.neurons),
            )
        )
        gates = statistics.hidden
        hidden = Ranking.by_score(gates.square / 2 if method == "obs" else gates.magnitude)
        each = [a.losses[-1] + b.losses[-1] for a, b in zip(heads, neurons, strict=True)]
        whole = torch.stack(each)
    return Rankings(heads, neurons, hidden, Ranking.by_score(whole))


def _ranked(block: Block, path: str, found: LinearStatistics | None, method: str) -> Ranking:
    if found is None:
        return Ranking.by_score(torch.zeros(0))
    if method == "first_order":
        return Ranking.by_score(found.gates.magnitude)
    weight = block.linear(path).weight.detach()
    return by_surgeon(weight, found, weight.shape[1] // len(found.gates.magnitude))


def _relative(norms: Tensor) -> Tensor:
    # Of heads and neurons that are ranked over all layers: each layer's add up to 1, so that none
    # loses most of its own because its weights are small.
    return norms / norms.sum().clamp(min=torch.finfo(norms.dtype).tiny)


def head_norms(block: Block) -> Tensor:
    """The norm of each head's values times that of its part of the attention output, [heads]."""
    if not block.heads:
        return torch.zeros(0)
    layout, size = block.layout, block.head_size
    value = block.linear(layout.value).weight.float()
    output = block.linear(layout.attention_output).weight.float()
    norms: Tensor = value.square().sum(1).view(-1, size).sum(1).sqrt()
    norms = norms * output.square().sum(0).view(-1, size).sum(1).sqrt()
    return norms.cpu()


def neuron_norms(block: Block) -> Tensor:
    """The norm of the weights into each neuron times that of those out of it, [neurons]."""
    if not block.neurons:
        return torch.zeros(0)
    layout = block.layout
    into = block.linear(layout.intermediate).weight.float()
    out = block.linear(layout.output).weight.float()
    norms: Tensor = into.norm(dim=1) * out.norm(dim=0)
    return norms.cpu()


def layer_norm(block: Block) -> float:
    """The size of what a layer adds to its inputs, relative to theirs.

    The root mean square of the outputs of attention and feed-forward part together, for inputs of
    independent features of variance 1, as norms return them, attention that reads one token and
    neurons that pass all on.
    """
    squares = 0.0
    if block.heads:
        layout, size = block.layout, block.head_size
        value = block.linear(layout.value).weight.detach().float()
        output = block.linear(layout.attention_output).weight.detach().float()
        # The squared norm of the product of both matrices, head by head.
        for first in range(0, len(value), size):
            read, written = value[first : first + size], output[:, first : first + size]
            squares += float(((read @ read.T) * (written.T @ written)).sum())
    if block.neurons:
        squares += float(neuron_norms(block).detach().square().sum())
    return math.sqrt(squares)


def hidden_norms(model: PreTrainedModel) -> Tensor:
    """The norm of all weights of Linear layers that read or write each hidden feature, [hidden]."""
    squares = torch.zeros(hidden_width(model))
    for block in blocks(model):
        layout = block.layout
        readers = [layout.query, layout.key, layout.value] if block.heads else []
        writers = [layout.attention_output] if block.heads else []
        if block.neurons:
            readers.append(layout.intermediate)
            writers.append(layout.output)
        for path in readers:
            squares += block.linear(path).weight.float().square().sum(0).cpu()
        for path in writers:
            squares += block.linear(path).weight.float().square().sum(1).cpu()
    return squares.sqrt()


def by_surgeon(weight: Tensor, statistics: LinearStatistics, group: int) -> Ranking:
    """The order in which Optimal Brain Surgeon removes groups of the inputs of a weight [out, in].

    After each step the other weights are updated, so that a later step knows what they took over.
    """
    units = weight.shape[1] // group
    fisher = statistics.output_fisher
    # Scaled by the Fisher information, the rise of the loss is half a squared norm.
    scaled = weight.detach().double().cpu() * fisher.sqrt()[:, None]
    inverse = torch.linalg.inv(damped(statistics.moments))
    left = torch.arange(units)
    order, rises = [], []
    step = max(1, units // STEPS) if group == 1 else 1
    while len(left):
        scores = _rises(scaled, inverse, group)
        chosen = torch.argsort(scores, stable=True)[:step].sort().values
        gone = _features(chosen, group)
        stay = _complement(gone, scaled.shape[1])
        removed, block = scaled[:, gone], inverse[gone][:, gone]
        solved = torch.linalg.solve(block, inverse[gone])
        # As `_rises` of the whole step: the others take over less of it than of each unit alone.
        together = float((removed * torch.linalg.solve(block, removed.T).T).sum()) / 2
        # What the step costs, divided among its units by their own scores.
        shares = scores[chosen] / scores[chosen].sum().clamp(min=torch.finfo(scores.dtype).tiny)
        ranked = torch.argsort(scores[chosen], stable=True)
        order.append(left[chosen][ranked])
        rises.append(together * shares[ranked])
        scaled = scaled[:, stay] - removed @ solved[:, stay]
        inverse = inverse[stay][:, stay] - inverse[stay][:, gone] @ solved[:, stay]
        left = left[_complement(chosen, len(left))]
    losses = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumsum(torch.cat(rises), 0)])
    return Ranking(torch.cat(order), losses.float())


def _rises(scaled: Tensor, inverse: Tensor, group: int) -> Tensor:
    """½ w ((H⁻¹)_QQ)⁻¹ wᵀ of each group Q of inputs, summed over outputs, float64 [units]."""
    if group == 1:
        return scaled.square().sum(0) / inverse.diagonal().clamp(min=1e-30) / 2
    units = scaled.shape[1] // group
    blocked = inverse.reshape(units, group, units, group)
    squares = torch.stack([blocked[unit, :, unit] for unit in range(units)])
    weights = scaled.view(-1, units, group).permute(1, 2, 0)
    rises: Tensor = (weights * torch.linalg.solve(squares, weights)).sum((1, 2)) / 2
    return rises


def damped(moments: Tensor) -> Tensor:
    """Second moments [in, in] that can be inverted."""
    damping = DAMPING * moments.diagonal().mean().clamp(min=1e-12)
    return moments + damping * torch.eye(len(moments), dtype=moments.dtype)


@torch.no_grad()
def compensate(
    model: PreTrainedModel,
    statistics: Statistics,
    heads: Sequence[Tensor],
    neurons: Sequence[Tensor],
) -> None:
    """Update the weights that read the structures that stay, for those that are removed.

    The outputs of attention output and feed-forward layers change least in the mean square.
    """
    for index, block in enumerate(blocks(model)):
        for path, found, kept, size in (
            (block.layout.attention_output, statistics.heads[index], heads[index], block.head_size),
            (block.layout.output, statistics.neurons[index], neurons[index], 1),
        ):
            if found is not None and len(kept) > 0:
                stay = _features(kept, size)
                weight = block.linear(path).weight
                moments = damped(found.moments)
                target = weight.double().cpu() @ moments[:, stay]
                solved = torch.linalg.solve(moments[stay][:, stay], target.T).T
                weight[:, stay.to(weight.device)] = solved.to(weight)


def _features(units: Tensor, group: int) -> Tensor:
    return (units[:, None] * group + torch.arange(group)).flatten()


def _complement(indices: Tensor, size: int) -> Tensor:
    left = torch.ones(size, dtype=torch.bool)
    left[indices] = False
    return left.nonzero()[:, 0]
