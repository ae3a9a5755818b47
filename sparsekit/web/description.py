"""An encoder and its head as the header and the tensors of a page's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsekit.errors import UserError
from sparsekit.runtime.sparse import operators
from sparsekit.runtime.sparse.embeddings import Embedding
from sparsekit.runtime.sparse.encoder_input import TABLES
from sparsekit.runtime.sparse.graph import Array, Node
from sparsekit.runtime.sparse.loading import LoadedGraph
from sparsekit.runtime.sparse.native import ACTIVATIONS, quantizer_struct
from sparsekit.runtime.sparse.structure import Layer, Linear, Norm, Quantizer
from sparsekit.runtime.sparse.weights import (
    Format,
    fastest_format,
    float_weight,
    operand_formats,
    pack,
)
from sparsekit.web.packed import Tensors

# What page/head.js computes, with the attributes that it knows.
HEAD: dict[str, Mapping[str, Sequence[Any]]] = {
    "Add": {},
    "DequantizeLinear": {"axis": (0, 1, -1)},
    "Gelu": {"approximate": (b"none", b"tanh")},
    "Gemm": {"alpha": (1.0,), "beta": (1.0,), "transA": (0,), "transB": (0, 1)},
    "MatMul": {},
    "QuantizeLinear": {"axis": (0, 1, -1)},
    "Relu": {},
    "Sum": {},
    "Tanh": {},
}
_LENGTHS = (5, 12)


def refused(reason: str) -> UserError:
    """The error for a model that a page cannot run."""
    return UserError(
        f"a page cannot run this model: {reason}; it takes text classifiers of the BERT and "
        "DistilBERT kind with a WordPiece tokenizer: serve this one with `sparsekit serve`"
    )


def describe(loaded: LoadedGraph, tensors: Tensors) -> dict[str, Any]:
    """The part of the header that describes a graph, whose arrays are added to `tensors`.

    Raises UserError for a graph that a page cannot run.
    """
    encoder, embedding = loaded.encoder, loaded.embedding
    if encoder.all_tokens:
        raise refused("its head reads all tokens, not the first alone")
    if encoder.pre_norm or any(layer.gated for layer in encoder.layers):
        raise refused("its layers normalize their inputs, or have gates")
    norms = [norm for each in encoder.layers for norm in (each.attention_norm, each.output_norm)]
    if not all(norm.centered for norm in norms):
        raise refused("its norms divide by the root mean square alone")
    if embedding is None:
        raise refused("its embeddings are not a sum of tables, normalized")
    _check_terms(loaded)
    first = encoder.layers[0]
    return {
        "features": len(first.attention_output.bias),
        "embedding": _embedding(loaded, embedding, tensors),
        "layers": [_layer(i, layer, tensors) for i, layer in enumerate(encoder.layers)],
        "head": _head(loaded, tensors),
    }


def _before(loaded: LoadedGraph, length: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """The inputs of one unpadded text of any tokens, and all that is computed before the encoder.

    Without an order, so that inputs and positions differ.
    """
    table = loaded.embedding.tables[0].rows if loaded.embedding else np.zeros((length, 1))
    ids = (np.arange(length) * 7 + 3) % len(table)
    types = np.arange(length) % 3 % 2
    inputs = {
        "input_ids": ids[None].astype(np.int64),
        "attention_mask": np.ones((1, length), np.int64),
        "token_type_ids": types[None].astype(np.int64),
    }
    values = loaded.graph.constants | inputs
    operators.run(loaded.before, values)
    return inputs, values


def _check_terms(loaded: LoadedGraph) -> None:
    """Refuse what attention reads besides a mask, which is zero for a text without padding."""
    attentions = [x.attention for x in loaded.encoder.layers if x.attention is not None]
    if any(each.positions for each in attentions):
        raise refused("its attention compares tokens with relative positions")
    if any(each.has_value_apart for each in attentions):
        raise refused("its values are quantized differently from queries and keys")
    terms = [layer.terms for layer in loaded.encoder.layers if layer.terms is not None]
    if any(each.excluded for each in terms):
        raise refused("its attention replaces the scores of padding, instead of adding a mask")
    if any(each.rotation for each in terms):
        raise refused("it rotates query and key by their positions")
    for length in _LENGTHS:
        _, values = _before(loaded, length)
        if any(values[name].any() for each in terms for name in each.added):
            raise refused("it adds more to the scores of attention than a mask")


def _embedding(loaded: LoadedGraph, embedding: Embedding, tensors: Tensors) -> dict[str, Any]:
    return {
        "tables": [
            {
                "rows": tensors.add(f"table{i}", table.rows),
                "type": TABLES[table.rows.dtype.type],
                "scale": table.scale,
                "zero_point": table.zero_point,
                **_ids(loaded, table.ids),
            }
            for i, table in enumerate(embedding.tables)
        ],
        "norm": _norm("embedding", embedding.norm, tensors),
    }


def _ids(loaded: LoadedGraph, name: str) -> dict[str, Any]:
    """What indexes a table: an input, or the positions from `first` on."""
    found = set()
    for length in _LENGTHS:
        inputs, values = _before(loaded, length)
        ids = values[name].reshape(-1)
        same = [key for key, given in inputs.items() if np.array_equal(ids, given[0])]
        if len(ids) == length and np.array_equal(ids - ids[0], np.arange(length)):
            found.add(("positions", int(ids[0])))
        elif same and same[0] != "attention_mask":
            found.add((same[0], 0))
    if len(found) != 1:
        raise refused(f"{name!r} is neither the tokens, nor their types, nor positions")
    ((ids_of, first),) = found
    return {"ids": ids_of, "first": first}


def _layer(index: int, layer: Layer, tensors: Tensors) -> dict[str, Any]:
    prefix, a = f"layer{index}.", layer.attention
    parts: dict[str, Any] = {"projection": None, "intermediate": None, "attention": None}
    if a is not None:
        parts["projection"] = _weight(f"{prefix}projection", (a.query, a.key, a.value), tensors)
        formats = operand_formats(a.operands, layer.terms, int8=True)
        names = ("query", "key", "probabilities", "value")
        parts["attention"] = {
            "heads": len(a.query.bias) // a.head_features,
            "features": a.head_features,
            "scale": a.scale,
            **{
                name: _quantizer(quantizer, format)
                for name, quantizer, format in zip(names, a.operands, formats, strict=True)
            },
        }
    if layer.intermediate is not None:
        parts["intermediate"] = _weight(f"{prefix}intermediate", (layer.intermediate,), tensors)
    return parts | {
        "attention_output": _weight(
            f"{prefix}attention_output", (layer.attention_output,), tensors
        ),
        "output": _weight(f"{prefix}output", (layer.output,), tensors),
        "attention_norm": _norm(f"{prefix}attention_norm", layer.attention_norm, tensors),
        "output_norm": _norm(f"{prefix}output_norm", layer.output_norm, tensors),
        "activation": ACTIVATIONS[layer.activation],
    }


def _weight(name: str, linears: Sequence[Linear], tensors: Tensors) -> dict[str, Any]:
    """Linear layers with the same input, concatenated along their outputs, and its quantizer.

    Four values, whatever their inputs, make a step also where most are not zero: the kernels of a
    browser gain nothing from values that are adjacent.
    """
    format = Format.PLANES
    if fastest_format(linears) == Format.FLOAT32:
        format = Format.FLOAT32
    packed = pack(linears, format)
    if format == Format.PLANES:
        values = np.concatenate([linear.weight for linear in linears])
    else:
        values = np.concatenate([float_weight(linear) for linear in linears])
    arrays = {"biases": packed.biases, "scales": packed.scales, "sums": packed.initial_sums}
    return {
        "weight": tensors.add(name, values),
        "format": int(format),
        **{key: tensors.add(f"{name}.{key}", array) for key, array in arrays.items()},
        "quantizer": _quantizer(
            linears[0].inputs, Format.ROUNDED if format == Format.FLOAT32 else format
        ),
    }


def _quantizer(quantizer: Quantizer | None, format: Format) -> dict[str, Any]:
    struct = quantizer_struct(quantizer, format)
    return {name: getattr(struct, name) for name, _ in struct._fields_}


def _norm(name: str, norm: Norm, tensors: Tensors) -> dict[str, Any]:
    return {
        "weight": tensors.add(f"{name}.weight", norm.weight),
        "bias": tensors.add(f"{name}.bias", norm.bias),
        "epsilon": norm.epsilon,
    }


def _head(loaded: LoadedGraph, tensors: Tensors) -> dict[str, Any]:
    """The nodes behind the encoder, with their constants."""
    computed = {loaded.encoder.output}
    nodes = []
    for node in loaded.after:
        _check_node(node)
        for name in node.inputs:
            if name in loaded.graph.constants:
                tensors.add(name, _constant(loaded.graph.constants[name]))
            elif name not in computed:
                raise refused(f"{node.op} {node.name!r} reads {name!r}, not the first token alone")
        computed.update(node.outputs)
        attributes = {
            key: value.decode() if isinstance(value, bytes) else value
            for key, value in node.attributes.items()
        }
        nodes.append(
            {"op": node.op, "inputs": node.inputs, "output": node.outputs[0], **attributes}
        )
    return {"input": loaded.encoder.output, "output": loaded.graph.outputs[0], "nodes": nodes}


def _check_node(node: Node) -> None:
    if node.op not in HEAD:
        raise refused(f"its head has the operator {node.op}")
    for name, value in node.attributes.items():
        if value not in HEAD[node.op].get(name, ()):
            raise refused(f"{node.op} {node.name!r} has the option {name}={value}")


def _constant(array: Array) -> Array:
    if array.dtype.name not in ("float32", "int8", "uint8"):
        raise refused(f"a constant of its head is {array.dtype}")
    return array
