"""Weights in other files, and values that are no numbers, are refused wherever a file has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsekit.errors import UserError
from sparsekit.runtime.onnx_file import check_file

Place = Callable[[onnx.ModelProto, TensorProto], None]


def initializer(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.initializer.append(tensor)


def sparse_initializer(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)


def constant(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def tensors(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Own", [], ["c"], domain="own", many=[tensor]))


def sparse_constant(model: onnx.ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["c"])
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.indices.CopyFrom(tensor)
    model.graph.node.append(node)


def branch(model: onnx.ModelProto, tensor: TensorProto) -> None:
    inner = helper.make_graph([], "inner", [], [], initializer=[tensor])
    outer = helper.make_graph(
        [helper.make_node("If", ["c"], ["x"], then_branch=inner)], "outer", [], []
    )
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=outer))


def graphs(model: onnx.ModelProto, tensor: TensorProto) -> None:
    inner = helper.make_graph([], "inner", [], [], initializer=[tensor])
    model.graph.node.append(helper.make_node("Own", [], ["c"], domain="own", many=[inner]))


def function(model: onnx.ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    opset = helper.make_opsetid("", 20)
    model.functions.append(helper.make_function("own", "F", [], ["c"], [node], [opset]))


PLACES = [
    *(initializer, sparse_initializer, constant, tensors),
    *(sparse_constant, branch, graphs, function),
]


def written(folder: Path, place: Place, tensor: TensorProto) -> Path:
    model = helper.make_model(helper.make_graph([], "graph", [], []))
    place(model, tensor)
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    return file


@pytest.mark.parametrize("place", PLACES)
def test_weights_in_other_files_are_refused(tmp_path: Path, place: Place) -> None:
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../secret.bin")
    with pytest.raises(UserError, match="'w' is stored in another file"):
        check_file(written(tmp_path, place, outside))


@pytest.mark.parametrize("place", PLACES)
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, place: Place) -> None:
    wrong = numpy_helper.from_array(np.array([1, np.nan], np.float32), "w")
    with pytest.raises(UserError, match="'w' holds 1 values that are NaN"):
        check_file(written(tmp_path, place, wrong))
    check_file(written(tmp_path, place, numpy_helper.from_array(np.ones(2, np.float32), "w")))
