"""Checks an ONNX file, which may come from anywhere, before a runtime loads it.

The file is read as protobuf, whose fields are a key (number << 3 | wire type) and a value:
importing the package onnx would take longer than a prediction. Source of the field numbers:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError

# Wire types of protobuf.
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_GRAPH = 7  # of ModelProto
# Where each message holds others, down to every tensor: field number and kind of message.
_TENSOR = "tensor"
_PARTS: dict[str, dict[int, str]] = {
    "model": {_GRAPH: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
}
# Fields of TensorProto.
_ELEMENTS, _FLOATS, _NAME, _RAW, _DOUBLES, _LOCATION = 2, 4, 8, 9, 10, 14
_FLOAT_TYPES: dict[int, np.dtype[np.floating]] = {
    1: np.dtype("<f4"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
}
# The element type of fields that always have the same one.
_OWN_TYPE = {_FLOATS: 1, _DOUBLES: 11}

_Fields = Iterator[tuple[int, int | memoryview]]


def check_file(file: Path) -> None:
    """Raise UserError unless `file` is a complete ONNX file with finite weights inside.

    Weights in other files are refused, since their path could lead anywhere; so are NaN and
    infinity, which rounding to int8 would turn into plausible logits. A single -inf is allowed: it
    belongs to a mask.
    """
    if not file.is_file():
        raise UserError(f"there is no {file}; export the run first: sparsekit export RUN")
    try:
        for tensor in _tensors(memoryview(file.read_bytes())):
            _check_tensor(tensor, file)
    except (IndexError, ValueError) as error:
        raise UserError(
            f"{file} is not a valid ONNX file: {error}; it may be truncated: export the run "
            "again: sparsekit export RUN"
        ) from error


def _tensors(model: memoryview) -> Iterator[memoryview]:
    """Every tensor: in initializers and attributes, also of subgraphs and functions."""
    graphs = sum(number == _GRAPH for number, _ in _fields(model))
    if graphs != 1:
        raise ValueError(f"it holds {graphs} graphs")
    # Not by recursion: a file may nest its graphs as deeply as it likes.
    left = [("model", model)]
    while left:
        kind, message = left.pop()
        if kind == _TENSOR:
            yield message
            continue
        parts = _PARTS[kind]
        left += [
            (parts[number], value)
            for number, value in _fields(message)
            if number in parts and isinstance(value, memoryview)
        ]


def _check_tensor(tensor: memoryview, file: Path) -> None:
    name, elements, location = "", 0, 0
    stored: list[tuple[int, memoryview]] = []
    for number, value in _fields(tensor):
        if isinstance(value, memoryview):
            if number == _NAME:
                name = bytes(value).decode(errors="replace")
            elif number in (_FLOATS, _RAW, _DOUBLES):
                stored.append((number, value))
        elif number == _ELEMENTS:
            elements = value
        elif number == _LOCATION:
            location = value
    if location:
        raise UserError(
            f"{file}: {name!r} is stored in another file; save the model with its weights inside "
            "(onnx.save with save_as_external_data=False)"
        )
    for number, data in stored:
        dtype = _FLOAT_TYPES.get(elements if number == _RAW else _OWN_TYPE[number])
        if dtype is not None:
            _check_values(np.frombuffer(data, dtype), name, file)


def _check_values(values: npt.NDArray[np.floating], name: str, file: Path) -> None:
    wrong = np.count_nonzero(~np.isfinite(values))
    if wrong and not (values.size == 1 and values[0] == -np.inf):
        raise UserError(
            f"{file}: {name!r} holds {wrong} values that are NaN or infinite; the weights are "
            "damaged: train or export the run again"
        )


def _fields(message: memoryview) -> _Fields:
    """The number and value of each field: an integer, or the bytes of any other type.

    Raises IndexError or ValueError where the message ends within a field.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        size = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind)
        if kind == _BYTES:
            size, position = _varint(message, position)
        if size is None or position + size > len(message):
            raise ValueError(f"field {number} at byte {position} is damaged")
        yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """The integer at byte `position`, seven bits per byte, and the position after it."""
    value = shift = 0
    while message[position] & 128 and shift < 63:
        value |= (message[position] & 127) << shift
        position, shift = position + 1, shift + 7
    return value | (message[position] & 127) << shift, position + 1
