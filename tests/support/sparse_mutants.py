"""Graphs with one constant changed, and what a runtime makes of them.

As a script it runs a sample of them on runtime=sparse, to be watched by the address sanitizer:
`python sparse_mutants.py GRAPH FOLDER`
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from sparsekit.errors import UserError
from sparsekit.runtime.base import Inputs, Runtime
from sparsekit.runtime.sparse.runtime import SparseRuntime

DTYPES = (np.float64, np.float16, np.int32, np.int64, np.uint8, np.int8, np.bool_)


def changed(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The array cut, repeated, reshaped, of other types, and with other values."""
    flat = array.reshape(-1)
    yield "flat", flat
    yield "empty", flat[:0]
    yield "first four", flat[:4]
    yield "scalar", flat[0].reshape(())
    yield "axis in front", array[None]
    yield "axis behind", array[..., None]
    yield "transposed", array.T
    if array.ndim:
        yield "first half", array[: len(array) // 2]
        yield "without its last", array[:-1]
        yield "twice", np.concatenate([array, array])
        yield "half as wide", array[..., : array.shape[-1] // 2]
        yield "twice as wide", np.concatenate([array, array], axis=-1)
    for dtype in DTYPES:
        if array.dtype != dtype:
            with np.errstate(all="ignore"):
                converted = array.astype(dtype)
            yield np.dtype(dtype).name, converted
    if array.dtype.kind == "f":
        yield "NaN", np.where(np.arange(array.size).reshape(array.shape) == 0, np.nan, array)
        yield "infinite", np.full_like(array, np.inf)
        yield "zero", np.zeros_like(array)
        yield "negative", -array
    elif array.dtype.kind == "b":
        yield "opposite", ~array
    else:
        limits = np.iinfo(array.dtype)
        yield "one more", array + np.ones_like(array)
        for value in (limits.min, limits.max, 7):
            yield f"all {value}", np.full_like(array, value)


def mutants(file: Path) -> list[tuple[str, str, np.ndarray]]:
    """The constant, the change and the changed array of each mutant of the graph in `file`."""
    return [
        (tensor.name, change, array)
        for tensor in onnx.load(file).graph.initializer
        for change, array in changed(numpy_helper.to_array(tensor))
    ]


def write_mutant(file: Path, name: str, array: np.ndarray, target: Path) -> None:
    """The graph in `file` with another array as the constant `name`."""
    model = onnx.load(file)
    [tensor] = [each for each in model.graph.initializer if each.name == name]
    # ascontiguousarray would make a vector of a scalar.
    tensor.CopyFrom(numpy_helper.from_array(np.array(array, order="C"), name))
    onnx.save(model, target)


def requests(vocabulary: int) -> list[Inputs]:
    """One row, and a batch with padding."""
    random = np.random.default_rng(0)
    made = []
    for batch, length in ((1, 9), (3, 17)):
        ids = random.integers(5, vocabulary, (batch, length))
        mask = np.ones_like(ids)
        mask[1:, length - 5 :] = 0
        types = np.zeros_like(ids)
        types[:, length // 2 :] = 1
        made.append({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
    return made


def answers(kind: type[Runtime], file: Path, inputs: list[Inputs]) -> list[np.ndarray] | UserError:
    """The runtime's logits for each of `inputs`, or its refusal; any other error is raised."""
    try:
        runtime = kind(file, 1)
        return [runtime.run(each) for each in inputs]
    except UserError as error:
        return error


if __name__ == "__main__":
    graph, folder = Path(sys.argv[1]), Path(sys.argv[2])
    run = 0
    for name, _, array in random.Random(1).sample(mutants(graph), 600):
        write_mutant(graph, name, array, folder / "mutant.onnx")
        run += isinstance(answers(SparseRuntime, folder / "mutant.onnx", requests(100)), list)
    sys.stdout.write(str(run))
