"""Runtimes where sums of int8 products overflow, as on CPUs without VNNI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from compiler import needs_compiler
from sparse_graphs import texts, write_graph

from sparsekit.runtime import onnxruntime, openvino
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.openvino import OpenVinoRuntime
from sparsekit.runtime.shared_weights import with_own_weights
from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.system import int8_sums_overflow

pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    for runtime in (onnxruntime, openvino):
        monkeypatch.setattr(runtime, "int8_sums_overflow", lambda: True)


@pytest.fixture(scope="module")
def albert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graph(tmp_path_factory.mktemp("albert"), "albert")


def test_layers_that_share_weights(albert: Path) -> None:
    """onnxruntime refuses to convert their int8 weights to uint8 once for each layer."""
    inputs = texts(4, 30)
    actual = OnnxRuntime(albert, threads=1).run(inputs)
    expected = SparseRuntime(albert, threads=1).run(inputs)
    assert np.median(np.abs(actual - expected)) < 1e-5
    assert np.abs(actual - expected).max() < 0.05


def test_each_reader_gets_its_own_copy(albert: Path) -> None:
    before, after = onnx.load(albert).graph, onnx.load_from_string(with_own_weights(albert)).graph
    values = {each.name: onnx.numpy_helper.to_array(each) for each in after.initializer}
    originals = {each.name: onnx.numpy_helper.to_array(each) for each in before.initializer}
    read: list[str] = []
    for node, original in zip(after.node, before.node, strict=True):
        for name, shared in zip(node.input, original.input, strict=True):
            if name in values and values[name].dtype == np.int8:
                read.append(name)
                assert np.array_equal(values[name], originals[shared])
            else:
                assert name == shared
    assert len(read) == len(set(read)) > 40


@pytest.mark.slow
@pytest.mark.skipif(not int8_sums_overflow(), reason="int8 sums do not overflow on this CPU")
def test_openvino_does_not_saturate(tmp_path: Path) -> None:
    """Its int8 matmuls would: logits of this ModernBERT differed by 1.2 without VNNI."""
    pytest.importorskip("openvino")
    file, inputs = write_graph(tmp_path, "modernbert"), texts(8, 40)
    runtime = OpenVinoRuntime(file, threads=1)
    difference = np.abs(runtime.run(inputs) - SparseRuntime(file, threads=1).run(inputs))
    assert np.median(difference) < 1e-5
    assert difference.max() < 0.05
    assert runtime.describe()["int8"] is False
