"""What a pass over calibration data tells about the structures of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsekit.shape.blocks import blocks
from sparsekit.shape.kept import hidden_width
from sparsekit.sparsity.gradients import checked_loss, loss_factors, recorded
from sparsekit.sparsity.items import items_of_rows


class Gates:
    """Gradients of the loss by factors of 1 that stand before units, one for each example.

    magnitude [units]: the mean of their absolute values; square [units]: the mean of their squares.
    """

    def __init__(self, units: int) -> None:
        self._magnitudes, self._squares = torch.zeros(units), torch.zeros(units)
        self._count = 0

    def add(self, gradients: Tensor) -> None:
        """Add the gradients [examples, units] of some examples."""
        gradients = gradients.float().cpu()
        self._magnitudes += gradients.abs().sum(0)
        self._squares += gradients.square().sum(0)
        self._count += len(gradients)

    @property
    def magnitude(self) -> Tensor:
        return self._magnitudes / max(self._count, 1)

    @property
    def square(self) -> Tensor:
        return self._squares / max(self._count, 1)


class LinearStatistics:
    """The inputs of a Linear layer, and the Fisher information of its outputs.

    The Fisher information of the weight is approximated by the Kronecker product of both (Martens
    and Grosse, 2015), of tokens that the loss depends on.
    """

    def __init__(self, linear: nn.Linear, group: int) -> None:
        self._group = group
        self.gates = Gates(linear.in_features // group)
        self._products = torch.zeros(linear.in_features, linear.in_features, dtype=torch.float64)
        self._grad_squares = torch.zeros(linear.out_features, dtype=torch.float64)
        self._tokens = self._examples = 0

    def add(self, inputs: Tensor, grad_output: Tensor, grad_input: Tensor) -> None:
        """Add examples: inputs and gradients [examples, tokens, features]."""
        gates = (inputs * grad_input).sum(1)
        self.gates.add(gates.view(len(gates), -1, self._group).sum(-1))
        matter = grad_output.abs().sum(-1) > 0
        tokens = inputs[matter]
        self._products += (tokens.T @ tokens).double().cpu()
        self._grad_squares += grad_output.double().square().sum((0, 1)).cpu()
        self._tokens += len(tokens)
        self._examples += len(inputs)

    @property
    def moments(self) -> Tensor:
        """The second moments of the inputs, float64 [in, in], the mean over tokens."""
        return self._products / max(self._tokens, 1)

    @property
    def output_fisher(self) -> Tensor:
        """The Fisher information of each output, float64 [out], the sum over a text's tokens."""
        return self._grad_squares / max(self._examples, 1)


@dataclass(frozen=True)
class Statistics:
    """Of each layer's attention output (None without heads) and output (None without neurons).

    Beside them the gates of the hidden features, before every Linear layer that reads them.
    """

    heads: list[LinearStatistics | None]
    neurons: list[LinearStatistics | None]
    hidden: Gates


def measure(model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> Statistics:
    """The statistics of `model` on batches with labels, without dropout.

    The model returns a `loss` that is the mean over the rows, or over the labelled tokens where
    `labels` has one for each token. Raises UserError for a loss that is not finite.
    """
    writers: dict[str, LinearStatistics] = {}
    readers: list[str] = []
    for block in blocks(model):
        layout = block.layout
        if block.heads:
            readers += [f"{block.name}.{path}" for path in (layout.query, layout.key, layout.value)]
            linear = block.linear(layout.attention_output)
            name = f"{block.name}.{layout.attention_output}"
            writers[name] = LinearStatistics(linear, block.head_size)
        if block.neurons:
            readers.append(f"{block.name}.{layout.intermediate}")
            linear = block.linear(layout.output)
            writers[f"{block.name}.{layout.output}"] = LinearStatistics(linear, 1)
    hidden = Gates(hidden_width(model))
    training = model.training
    model.eval()
    try:
        for batch in batches:
            _add(model, batch, writers, readers, hidden)
    finally:
        model.train(training)
    found = [(block.name, block.layout) for block in blocks(model)]
    return Statistics(
        heads=[writers.get(f"{name}.{layout.attention_output}") for name, layout in found],
        neurons=[writers.get(f"{name}.{layout.output}") for name, layout in found],
        hidden=hidden,
    )


def _add(
    model: PreTrainedModel,
    batch: Mapping[str, Tensor],
    writers: Mapping[str, LinearStatistics],
    readers: list[str],
    hidden: Gates,
) -> None:
    layers = {name: model.get_submodule(name) for name in (*writers, *readers)}
    linears = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    with recorded(linears) as calls, torch.enable_grad():
        loss = model(**batch).loss
    items = items_of_rows(batch)
    # Wanted is the gradient of each row's own loss, [rows, 1, 1].
    loss, factors = checked_loss(loss, items), loss_factors(items)[:, None, None]
    (names, pairs) = zip(*((name, pair) for name in calls for pair in calls[name]), strict=True)
    gradients = torch.autograd.grad(loss, [output for _, output in pairs])
    read = torch.zeros(0)
    for name, (inputs, _), gradient in zip(names, pairs, gradients, strict=True):
        inputs, grad_output = inputs.float(), gradient.float() * factors
        grad_input = grad_output @ linears[name].weight.detach().float()
        if name in writers:
            writers[name].add(inputs, grad_output, grad_input)
        else:
            gates = (inputs * grad_input).sum(1)
            read = gates if len(read) == 0 else read + gates
    if len(read):
        hidden.add(read)
