"""Finds the encoder in a graph by how its nodes are connected, whatever their names.

    x -> Linear (query, key, value) -> attention -> Linear -> + x -> norm -> y
    y -> Linear -> activation -> Linear -> + y -> norm -> the next layer's x

or, where layers normalize their inputs (pre-norm),

    x -> norm -> Linear (query, key, value) -> attention -> Linear -> + x -> y
    y -> norm -> Linear -> activation -> Linear -> + y -> the next layer's x

A layer without heads adds a constant in place of attention, one without neurons in place of the
feed-forward layers.

The search goes backwards from the last layer's output, of which the head reads the first token, or
every token.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from sparsekit.errors import UserError
from sparsekit.runtime.sparse.activations import ACTIVATIONS, find_activation
from sparsekit.runtime.sparse.attention_matching import FoundAttention
from sparsekit.runtime.sparse.disentangled_matching import DisentangledReader
from sparsekit.runtime.sparse.first_token import every_token
from sparsekit.runtime.sparse.graph import Graph, Node, refused
from sparsekit.runtime.sparse.structure import Encoder, Layer, Linear


def find_encoder(graph: Graph) -> Encoder:
    """The graph's encoder; raises UserError that names the first node that is not supported."""
    return _Matcher(every_token(graph)).encoder()


@dataclass(frozen=True, eq=False)
class _Found:
    """A layer, and names of tensors of the graph.

    hidden: the hidden state before it, which attention's result is added to; context: the
    concatenated heads. attention and context are None where the layer has no heads.
    """

    layer: Layer
    pre_norm: bool
    hidden: str
    attention: FoundAttention | None
    context: str | None


@dataclass(frozen=True, eq=False)
class _FeedForward:
    """The Linear layers around an activation; `source` is their input, `other` what is added.

    Without neurons output is a bias alone, and there is no intermediate.
    """

    intermediate: Linear | None
    activation: str | None
    gated: bool
    output: Linear
    source: str
    other: str


class _Matcher(DisentangledReader):
    def encoder(self) -> Encoder:
        selects = [node for node in self.graph.nodes if self.is_first_token(node)]
        if len(selects) > 1:
            raise _no_encoder()
        if selects:
            return self.encoder_before(selects[0].inputs[0], selects[0].outputs[0], False)
        # Without a selection the head reads every token of what the last layer computes, with
        # norms of its own after it, perhaps.
        norms = [node for node in self.graph.nodes if self.is_norm(node.outputs[0])]
        problem = _no_encoder()
        for node in reversed(norms):
            try:
                return self.encoder_before(node.outputs[0], node.outputs[0], True)
            except UserError as error:
                problem = error if node is norms[-1] else problem
        raise problem

    def encoder_before(self, name: str, output: str, all_tokens: bool) -> Encoder:
        """The encoder whose last norm has the output `name`."""
        count = sum(node.op == "Softmax" for node in self.graph.nodes)
        found: list[_Found] = []
        while count or self.has_no_attention(name):
            layer = self.layer(name, found[0].hidden if found and found[0].pre_norm else None)
            found.insert(0, layer)
            count -= layer.attention is not None
            name = layer.hidden if layer.attention is None else layer.attention.source
        if not any(x.attention for x in found) or len({x.pre_norm for x in found}) != 1:
            raise _no_encoder()
        first = found[0]
        input_norm = self.norm(name)[0] if first.hidden != name else None
        return Encoder(
            layers=[each.layer for each in found],
            pre_norm=first.pre_norm,
            input_norm=input_norm,
            source=first.hidden,
            output=output,
            all_tokens=all_tokens,
            heads=[None if x.attention is None else x.attention.heads for x in found],
            context=[each.context for each in found],
            shapes=dict(ChainMap(*[x.attention.shapes for x in found if x.attention])),
            repeated=dict(ChainMap(*[x.attention.repeated for x in found if x.attention])),
        )

    def is_first_token(self, node: Node) -> bool:
        if node.op != "Gather" or node.attributes.get("axis", 0) != 1:
            return False
        index = self.graph.constants.get(node.inputs[1])
        return index is not None and index.ndim == 0 and int(index) == 0

    def layer(self, name: str, hidden: str | None) -> _Found:
        """The layer before the norm with the output `name`, which reads `hidden`, where known."""
        output_norm, summed = self.norm(name)
        if hidden not in (None, summed):
            raise _no_encoder()
        added = self.expect(summed, "Add", "Sum")
        feed_forward = self.feed_forward(added)
        pre_norm = feed_forward.source != feed_forward.other
        attention_norm, summed = self.norm(feed_forward.source)
        if pre_norm and summed != feed_forward.other:
            raise refused(added, "it does not add the input of the Linear layers before it")
        added, attention, context = self.expect(summed, "Add", "Sum"), None, None
        if constant := self.constant_summand(added):
            attention_output, residual = constant
        else:
            attention_output, context, residual = self.attention_residual(added)
            attention = self.attention(context)
            self.check_residual(added, attention.source, residual, pre_norm)
            if pre_norm and attention.attention.has_value_apart:
                raise refused(added, "the value is quantized differently from query and key")
        layer = Layer(
            None if attention is None else attention.attention,
            attention_output,
            attention_norm,
            feed_forward.intermediate,
            feed_forward.activation,
            feed_forward.gated,
            feed_forward.output,
            output_norm,
            None if attention is None else attention.terms,
        )
        name_of_context = None if context is None else context.outputs[0]
        return _Found(layer, pre_norm, residual, attention, name_of_context)

    def check_residual(self, added: Node, read: str, residual: str, pre_norm: bool) -> None:
        """Refuse `added` unless attention, which reads `read`, is added to the layer's input."""
        if read != residual and not (pre_norm and self.norm(read)[1] == residual):
            raise refused(added, "it does not add the input of query, key and value")

    def has_no_attention(self, name: str) -> bool:
        """Whether `name` is the output of a layer that adds a constant in place of attention."""
        feed_forward = self.branch(name)
        attention = None if feed_forward is None else self.branch(feed_forward[1])
        return attention is not None and attention[0] is None

    def branch(self, name: str) -> tuple[str | None, str] | None:
        """Of the norm with the output `name`, which sums a branch and its input.

        The Linear layer of the branch, None if it is a constant, and the name of the input. None
        where there is no such sum.
        """
        if not self.is_norm(name):
            return None
        added = self.graph.producers.get(self.norm(name)[1])
        if added is None or added.op not in ("Add", "Sum") or len(added.inputs) != 2:
            return None
        if constant := self.constant_summand(added):
            return None, constant[1]
        for linear, other in permutations(added.inputs):
            if self.is_linear(linear):
                return linear, other
        return None

    def constant_summand(self, added: Node) -> tuple[Linear, str] | None:
        """The summands of `added` if one is a constant [features]: it, and the other's name."""
        for name, other in permutations(added.inputs) if len(added.inputs) == 2 else ():
            bias = self.graph.constants.get(name)
            if bias is not None and bias.ndim == 1 and other not in self.graph.constants:
                self.check_array(added, name, bias, bias.shape)
                weight = np.zeros((len(bias), 0), np.float32)
                return Linear(weight, None, bias, None, added.name), other
        return None

    def feed_forward(self, added: Node) -> _FeedForward:
        """The two Linear layers whose result `added` adds to another tensor."""
        if constant := self.constant_summand(added):
            output, other = constant
            return _FeedForward(None, None, False, output, other, other)
        for output, source, other in self.residuals(added):
            if found := find_activation(self.graph, source):
                intermediate, read = self.linear(found[1])
                return _FeedForward(intermediate, found[0], False, output, read, other)
            if gated := self.gated(source):
                return _FeedForward(*gated[:2], True, output, gated[2], other)
        raise refused(
            added, f"no summand is a Linear layer after an activation: {', '.join(ACTIVATIONS)}"
        )

    def gated(self, name: str) -> tuple[Linear, str, str] | None:
        """The Linear layer of a gate and what its activation is multiplied by (GLU Variants,
        arXiv:2002.05202), the activation, and the input; None where `name` is no such product."""
        node = self.graph.producers.get(name)
        if node is None or node.op != "Mul":
            return None
        for activated, factor in permutations(node.inputs):
            found = find_activation(self.graph, activated)
            if found is None:
                continue
            (gate, read), (factors, other) = self.half(found[1]), self.half(factor)
            if read != other or gate.inputs != factors.inputs or len(gate.bias) % 4:
                raise refused(node, "the gate and its factor have different inputs")
            if gate.weight.shape != factors.weight.shape:
                raise refused(node, "the gate and its factor have different sizes")
            if (gate.scale is None) != (factors.scale is None):
                raise refused(node, "the gate and its factor are quantized differently")
            return _interleaved(gate, factors), found[0], read
        return None

    def half(self, name: str) -> tuple[Linear, str]:
        """The Linear layer with the output `name`, or the half of one, and its input."""
        node = self.graph.producers.get(name)
        if node is None or node.op != "Split":
            return self.linear(name)
        linear, read = self.linear(node.inputs[0])
        if len(node.outputs) != 2 or node.attributes.get("axis", 0) not in (2, -1):
            raise refused(node, "it does not halve the features")
        if len(node.inputs) > 1 and len({*self.constant(node, node.inputs[1]).tolist()}) != 1:
            raise refused(node, "it does not halve the features")
        first, count = node.outputs.index(name), len(linear.bias) // 2
        rows = slice(first * count, (first + 1) * count)
        scale = None if linear.scale is None else linear.scale[rows]
        return replace(
            linear, weight=linear.weight[rows], scale=scale, bias=linear.bias[rows]
        ), read

    def attention_residual(self, added: Node) -> tuple[Linear, Node, str]:
        """The summands of `added`: a Linear layer, with the node that concatenates the heads that
        it reads, and the name of the other."""
        for linear, source, other in self.residuals(added):
            node = self.graph.producers.get(source)
            if node is not None and node.op == "Reshape":
                return linear, node, other
        raise refused(added, "no summand is a Linear layer after the heads of attention")

    def residuals(self, added: Node) -> Iterator[tuple[Linear, str, str]]:
        """Each summand of `added` that is a Linear layer, its input, and the other summand."""
        for name, other in permutations(added.inputs):
            if self.is_linear(name):
                yield *self.linear(name), other


def _interleaved(gate: Linear, factors: Linear) -> Linear:
    """Rows of both in turns, four at a time."""

    def turns(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        blocks = [x.reshape(-1, 4, *x.shape[1:]) for x in (first, second)]
        return np.stack(blocks, axis=1).reshape(-1, *first.shape[1:])

    scale = None
    if gate.scale is not None and factors.scale is not None:
        scale = turns(gate.scale, factors.scale)
    return replace(
        gate,
        weight=turns(gate.weight, factors.weight),
        scale=scale,
        bias=turns(gate.bias, factors.bias),
    )


def _no_encoder() -> UserError:
    return UserError(
        "runtime=sparse cannot run this graph: its head reads neither the first token of an "
        "encoder's output nor all of them; run this model with runtime=onnxruntime"
    )
