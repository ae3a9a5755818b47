"""Checks the shapes of an encoder's arrays, which the C kernels do not check.

The kernels read and write as many values as the encoder's sizes say, so a bias that is too short
would be read beyond its end.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sparsekit.errors import UserError
from sparsekit.runtime.sparse.embeddings import Embedding
from sparsekit.runtime.sparse.graph import Array
from sparsekit.runtime.sparse.inference import BATCH, LENGTH, Shapes
from sparsekit.runtime.sparse.structure import Attention, Encoder, Layer, Linear, Norm


def check_dimensions(encoder: Encoder, embedding: Embedding | None) -> None:
    """Raise UserError naming the first array whose shape does not fit the encoder's sizes.

    The sizes are the features of the first layer's attention output and the outputs of each
    layer's intermediate Linear layer. All arrays must be float32 except weights, whose type
    `matching` checks.
    """
    features = len(encoder.layers[0].attention_output.weight)
    heads = [x.attention.head_features for x in encoder.layers if x.attention is not None]
    for layer in encoder.layers:
        query, head = _query(layer)
        if query is not None and (len(query.weight) % head or head != heads[0]):
            raise UserError(
                f"runtime=sparse cannot run {query.name!r}: heads of {head} features do not divide "
                f"the width {len(query.weight)}, or differ from the {heads[0]} of another layer; "
                "export the run again"
            )
        if layer.attention is not None:
            _check_positions(layer.attention)
        for name, array, shape in _weights(layer, features):
            _check(name, array, shape)
        _check_norm(layer.attention_norm, features)
        _check_norm(layer.output_norm, features)
    if encoder.input_norm is not None:
        _check_norm(encoder.input_norm, features)
    if embedding is not None:
        for table in embedding.tables:
            if table.rows.shape[1] != features or not len(table.rows):
                raise _mismatch(table.name, table.rows.shape, ("rows", features))
        _check_norm(embedding.norm, features)


def check_shapes(
    encoder: Encoder, embedding: Embedding | None, outputs: list[str], shapes: Shapes
) -> None:
    """Raise UserError unless the graph's tensors have the shapes that the kernels compute.

    shapes: the shapes of the graph's tensors for BATCH sequences of LENGTH tokens.
    """
    features = len(encoder.layers[0].attention_output.weight)
    # The last one with heads.
    last = max(i for i, layer in enumerate(encoder.layers) if layer.attention is not None)
    for index, layer in enumerate(encoder.layers):
        projection, head = _query(layer)
        names, context = encoder.heads[index], encoder.context[index]
        if projection is None or names is None or context is None:
            continue
        width, (query, *others) = len(projection.weight), names
        # An exported graph computes the last layer for the first token only.
        first_only = index == last and not encoder.all_tokens and shapes.get(query, ())[1:2] == (1,)
        length = 1 if first_only else LENGTH
        _expect(query, shapes, (BATCH, length, width // head, head))
        # Or it selects that token behind attention.
        if index == last and not encoder.all_tokens and shapes.get(context, ())[1:2] == (1,):
            length = 1
        _expect(context, shapes, (BATCH, length, width))
        for name in others:
            _expect(name, shapes, (BATCH, LENGTH, width // head, head))
    for name, shape in encoder.shapes.items():
        _expect(name, shapes, shape)
    read = (BATCH, LENGTH) if encoder.all_tokens else (BATCH,)
    _expect(encoder.output, shapes, (*read, features))
    if embedding is None:
        _expect(encoder.source, shapes, (BATCH, LENGTH, features))
    for output in outputs:
        found = shapes.get(output, ())
        # Of all tokens a head may also make one row, as a mean does, or one value for each token.
        forms = (2, 3) if encoder.all_tokens else (2,)
        if (
            found[:1] != (BATCH,)
            or len(found) not in forms
            or found[1:-1] != read[1 : len(found) - 1]
        ):
            raise _mismatch(output, found or None, (*read, "labels"))


def _check_positions(attention: Attention) -> None:
    positions, head = attention.positions, attention.head_features
    if positions is None:
        return
    for name, array in (("keys", positions.keys), ("queries", positions.queries)):
        if array is not None:
            shape = (len(attention.query.bias) // head, *array.shape[1:2], head)
            _check(f"the position {name} of {attention.query.name!r}", array, shape)


def _weights(layer: Layer, features: int) -> Iterator[tuple[str, Array, tuple[int, ...]]]:
    attention, query, width = layer.attention, _query(layer)[0], 0
    linears = []
    if attention is not None and query is not None:
        width = len(query.weight)
        linears = [(x, (width, features)) for x in (query, attention.key, attention.value)]
    linears.append((layer.attention_output, (features, width)))
    width = 0
    if layer.intermediate is not None:
        rows = len(layer.intermediate.weight)
        width = rows // 2 if layer.gated else rows
        linears.append((layer.intermediate, (rows, features)))
    linears.append((layer.output, (features, width)))
    for linear, shape in linears:
        yield f"the weight of {linear.name!r}, as [out, in],", linear.weight, shape


def _query(layer: Layer) -> tuple[Linear | None, int]:
    """The query's Linear layer, and the features of a head; None and 0 without heads."""
    attention = layer.attention
    return (None, 0) if attention is None else (attention.query, attention.head_features)


def _check(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise _mismatch(name, array.shape, shape)


def _check_norm(norm: Norm, features: int) -> None:
    for name, array in (("weight", norm.weight), ("bias", norm.bias)):
        _check(f"the {name} of {norm.name!r}", array, (features,))
        if array.dtype != np.float32:
            raise UserError(
                f"runtime=sparse: the {name} of {norm.name!r} is {array.dtype}, expected float32; "
                "the graph was changed: export the run again"
            )


def _expect(name: str, shapes: Shapes, shape: tuple[int, ...]) -> None:
    if shapes.get(name) != shape:
        raise _mismatch(name, shapes.get(name), shape)


def _mismatch(name: str, shape: tuple[int, ...] | None, expected: tuple[object, ...]) -> UserError:
    names: dict[object, str] = {BATCH: "batch", LENGTH: "length"}

    def shown(sizes: tuple[object, ...]) -> str:
        return f"[{', '.join(names.get(size, str(size)) for size in sizes)}]"

    return UserError(
        f"runtime=sparse: {name} has shape {'unknown' if shape is None else shown(shape)}, "
        f"expected {shown(expected)}; the graph was changed: export the run again"
    )
