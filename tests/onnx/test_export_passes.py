"""Each graph rewrite alone, on a graph of one embedding, two layers that share it, and a head."""

from __future__ import annotations

import collections
import logging
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from sparse_graphs import texts, write_graph

from sparsekit.errors import UserError
from sparsekit.onnx.check import int8_operands
from sparsekit.onnx.forms import FORMS, Pass
from sparsekit.onnx.layers import Layer, Layers, Quantizer
from sparsekit.onnx.passes.activations import input_activations, output_activations
from sparsekit.onnx.passes.embeddings import embeddings
from sparsekit.onnx.passes.linears import linears
from sparsekit.onnx.passes.matmul_integer import matmul_integer
from sparsekit.onnx.passes.older_operators import older_operators
from sparsekit.onnx.passes.separate_sums import separate_sums
from sparsekit.onnx.passes.weights import weights
from sparsekit.runtime.onnxruntime import OnnxRuntime

IDS = np.array([[1, 4, 2], [0, 3, 3]])
RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "table": RANDOM.normal(size=(5, 4)).astype(np.float32),
    "query": RANDOM.normal(size=(4, 4)).astype(np.float32),
    "key": RANDOM.normal(size=(4, 4)).astype(np.float32),
    "head": RANDOM.normal(size=(2, 4)).astype(np.float32),
}
BIAS = np.array([0.25, -0.5], dtype=np.float32)
INT8 = Quantizer(scale=np.array(0.02, np.float32), zero_point=np.array(0, np.int8))
UINT8 = Quantizer(scale=np.array(0.03, np.float32), zero_point=np.array(120, np.uint8))


def layers(
    weights: Quantizer | None = None,
    inputs: Quantizer | None = None,
    outputs: Quantizer | None = None,
    key_inputs: Quantizer | None = None,
) -> Layers:
    return Layers(
        Layer(
            name=name,
            weight=weight,
            embedding=name == "table",
            weights=weights,
            inputs=None if name == "table" else (key_inputs or inputs if name == "key" else inputs),
            outputs=outputs if name in ("table", "head") else None,
        )
        for name, weight in WEIGHTS.items()
    )


def graph() -> ir.Model:
    """ids -> Gather -> MatMul (query) + MatMul (key) -> first token -> Gemm with bias -> logits."""
    constants = {
        "table.weight": WEIGHTS["table"],
        "query_as_traced": WEIGHTS["query"].T.copy(),
        "key_as_traced": WEIGHTS["key"].T.copy(),
        "head.weight": WEIGHTS["head"],
        "head.bias": BIAS,
        "zero": np.array(0),
    }
    values = {
        name: ir.val(name, const_value=ir.tensor(a, name=name)) for name, a in constants.items()
    }
    ids = ir.val("input_ids", dtype=ir.DataType.INT64, shape=ir.Shape(["batch", "sequence"]))
    values["ids"] = ids
    nodes = []

    def add(module: str, op: str, inputs: list[str], output: str, **attributes: int) -> None:
        value = ir.val(output, dtype=ir.DataType.FLOAT)
        node = ir.node(op, [values[i] for i in inputs], attributes, outputs=[value], name=output)
        node.meta["module"] = module
        nodes.append(node)
        values[output] = value

    add("table", "Gather", ["table.weight", "ids"], "rows", axis=0)
    add("query", "MatMul", ["rows", "query_as_traced"], "queries")
    add("key", "MatMul", ["rows", "key_as_traced"], "keys")
    add("", "Mul", ["queries", "keys"], "product")
    add("", "Gather", ["product", "zero"], "first", axis=1)
    add("head", "Gemm", ["first", "head.weight", "head.bias"], "logits", transB=1)
    values["logits"].shape = ir.Shape(["batch", 2])
    made = ir.Graph(
        [ids],
        [values["logits"]],
        nodes=nodes,
        initializers=[values[name] for name in constants],
        opset_imports={"": 20},
        name="test",
    )
    return ir.Model(made, ir_version=10)


def run(model: ir.Model, path: Path) -> tuple[np.ndarray, collections.Counter[str]]:
    """Logits, and how many nodes of each type there are."""
    ir.save(model, path / "model.onnx")
    onnx.checker.check_model(path / "model.onnx", full_check=True)
    logits = OnnxRuntime(path / "model.onnx", threads=1).run({"input_ids": IDS})
    return logits, collections.Counter(node.op_type for node in model.graph)


def expected(model_layers: Layers) -> np.ndarray:
    """The same in torch, with fake quantization where there are quantizers.

    In float64 but for what is rounded: float32 sums here would be as far from the exact ones as
    those that are tested.
    """

    def fake(values: torch.Tensor, quantizer: Quantizer | None) -> torch.Tensor:
        if quantizer is None:
            return values.double()
        values = values.float()
        limits = np.iinfo(quantizer.dtype)
        scale, zero = torch.from_numpy(quantizer.scale), torch.from_numpy(quantizer.zero_point)
        if scale.ndim:
            return torch.fake_quantize_per_channel_affine(
                values, scale, zero.int(), 0, limits.min, limits.max
            ).double()
        return torch.fake_quantize_per_tensor_affine(
            values, float(scale), int(zero), limits.min, limits.max
        ).double()

    weight = {
        n: fake(torch.from_numpy(layer.weight), layer.weights) for n, layer in model_layers.items()
    }
    rows = fake(weight["table"][torch.from_numpy(IDS)], model_layers["table"].outputs)
    queries = fake(rows, model_layers["query"].inputs) @ weight["query"].T
    keys = fake(rows, model_layers["key"].inputs) @ weight["key"].T
    first = fake((queries * keys)[:, 0], model_layers["head"].inputs)
    return fake(
        first @ weight["head"].T + torch.from_numpy(BIAS), model_layers["head"].outputs
    ).numpy()


def test_linears(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, model_layers = graph(), layers()
    with caplog.at_level(logging.INFO, "sparsekit"):
        assert linears(model, model_layers) == 3
    assert caplog.messages == ["linears: 3 written as one matmul and one sum"]
    logits, ops = run(model, tmp_path)
    np.testing.assert_allclose(logits, expected(model_layers), atol=1e-6)
    assert (ops["MatMul"], ops["Gemm"], ops["Add"]) == (2, 1, 1)
    names = {"query.weight_transposed", "key.weight_transposed", "head.weight_transposed"}
    assert names | {"table.weight", "head.bias", "zero"} == set(model.graph.initializers)


def test_embeddings(tmp_path: Path) -> None:
    model, model_layers = graph(), layers(weights=INT8)
    model_layers = {
        name: model_layers[name] if name == "table" else layers()[name] for name in model_layers
    }
    assert embeddings(model, model_layers) == 1
    logits, ops = run(model, tmp_path)
    np.testing.assert_allclose(logits, expected(model_layers), atol=1e-6)
    assert ops["DequantizeLinear"] == 1
    assert model.graph.initializers["table.weight_quantized"].dtype == ir.DataType.INT8
    assert "table.weight" not in model.graph.initializers


CHANNELS = Quantizer(
    scale=np.array([0.01, 0.02, 0.03, 0.04], np.float32), zero_point=np.zeros(4, np.int8)
)


@pytest.mark.parametrize("quantizer", [INT8, CHANNELS], ids=["tensor", "channel"])
def test_weights(tmp_path: Path, quantizer: Quantizer) -> None:
    model, plain = graph(), layers()
    model_layers = {**plain, "query": layers(weights=quantizer)["query"]}
    linears(model, model_layers)
    assert weights(model, model_layers) == 1
    logits, ops = run(model, tmp_path)
    np.testing.assert_allclose(logits, expected(model_layers), atol=1e-5)
    assert ops["DequantizeLinear"] == 1
    assert "query.weight_transposed" not in model.graph.initializers


def test_input_activations_are_shared(tmp_path: Path) -> None:
    model, model_layers = graph(), layers(inputs=UINT8)
    assert (
        input_activations(model, model_layers) == 2
    )  # query and key share one, the head has another
    logits, ops = run(model, tmp_path)
    np.testing.assert_allclose(logits, expected(model_layers), atol=1e-5)
    assert ops["QuantizeLinear"] == ops["DequantizeLinear"] == 2


def test_input_activations_of_unlike_quantizers_are_not_shared(tmp_path: Path) -> None:
    other = Quantizer(scale=UINT8.scale, zero_point=np.array(100, np.uint8))
    model, model_layers = graph(), layers(inputs=UINT8, key_inputs=other)
    assert input_activations(model, model_layers) == 3
    np.testing.assert_allclose(run(model, tmp_path)[0], expected(model_layers), atol=1e-5)


def test_output_activations(tmp_path: Path) -> None:
    """Also after the layer whose output is the graph's."""
    model, model_layers = graph(), layers(outputs=UINT8)
    assert output_activations(model, model_layers) == 2
    logits, ops = run(model, tmp_path)
    np.testing.assert_allclose(logits, expected(model_layers), atol=1e-5)
    assert ops["QuantizeLinear"] == 2
    assert [value.name for value in model.graph.outputs] == ["logits"]


def test_nothing_to_quantize_changes_nothing(tmp_path: Path) -> None:
    model, model_layers = graph(), layers()
    before = run(graph(), tmp_path)
    counts = [
        p(model, model_layers) for p in (embeddings, weights, input_activations, output_activations)
    ]
    assert counts == [0, 0, 0, 0]
    after = run(model, tmp_path)
    np.testing.assert_array_equal(before[0], after[0])
    assert before[1] == after[1]


@pytest.mark.parametrize("quantizer", [INT8, CHANNELS], ids=["tensor", "channel"])
def test_matmul_integer(tmp_path: Path, quantizer: Quantizer) -> None:
    plain, model = layers(weights=INT8, inputs=UINT8), graph()
    model_layers = {**plain, "query": layers(weights=quantizer, inputs=UINT8)["query"]}
    linears(model, model_layers)
    assert matmul_integer(model, model_layers) == 3
    logits, ops = run(model, tmp_path)
    table_as_it_is = {**model_layers, "table": layers()["table"]}
    np.testing.assert_allclose(logits, expected(table_as_it_is), atol=1e-5)
    assert ops["QuantizeLinear"] == 2  # query and key share one
    assert ops["MatMulInteger"] == ops["Cast"] == 3
    assert ops["MatMul"] == ops["Gemm"] == ops["DequantizeLinear"] == 0


def test_matmul_integer_needs_both_operands(tmp_path: Path) -> None:
    model, model_layers = graph(), layers(inputs=UINT8)
    linears(model, model_layers)
    assert matmul_integer(model, model_layers) == 0


def test_a_table_stores_its_quantized_outputs(tmp_path: Path) -> None:
    model, model_layers = graph(), layers(weights=INT8, outputs=UINT8)
    model_layers = {
        name: model_layers[name] if name == "table" else layers()[name] for name in model_layers
    }
    assert embeddings(model, model_layers) == 1
    assert output_activations(model, model_layers) == 0
    logits, ops = run(model, tmp_path)
    np.testing.assert_allclose(logits, expected(model_layers), atol=1e-6)
    assert (ops["QuantizeLinear"], ops["DequantizeLinear"]) == (0, 1)
    assert model.graph.initializers["table.weight_quantized"].dtype == ir.DataType.UINT8


@pytest.mark.parametrize("form", FORMS)
def test_all_of_them_run_on_integers(tmp_path: Path, form: str) -> None:
    model, model_layers = graph(), layers(weights=INT8, inputs=UINT8, outputs=UINT8)
    for rewrite in FORMS[form]:
        rewrite(model, model_layers)
    np.testing.assert_allclose(run(model, tmp_path)[0], expected(model_layers), atol=0.031)
    names = {"query.weight_quantized", "key.weight_quantized", "head.weight_quantized"}
    assert int8_operands(tmp_path / "model.onnx") & names == names


def normalized(approximate: str = "none") -> ir.Model:
    """x [2, 4] -> Add -> LayerNormalization -> Add -> Gelu -> logits."""
    scale, bias = np.array([1.0, 2, 3, 4], np.float32), np.array([0.5, 0, -1, 2], np.float32)
    value, x = {}, ir.val("input_ids", dtype=ir.DataType.FLOAT, shape=ir.Shape([2, 4]))
    for name, array in (("scale", scale), ("bias", bias)):
        value[name] = ir.val(name, const_value=ir.tensor(array, name=name))
    nodes = []
    for op, inputs, attributes in (
        ("Add", ["bias"], {}),
        ("LayerNormalization", ["scale", "bias"], {"epsilon": 1e-12}),
        ("Add", ["bias"], {}),
        ("Gelu", [], {"approximate": approximate}),
    ):
        before = nodes[-1].outputs[0] if nodes else x
        out = ir.val(f"{op}{len(nodes)}", dtype=ir.DataType.FLOAT, shape=ir.Shape([2, 4]))
        inputs = [before, *(value[i] for i in inputs)]
        nodes.append(ir.node(op, inputs, attributes, outputs=[out], name=out.name))
        nodes[-1].meta["module"] = "layer"
    made = ir.Graph(
        [x],
        [nodes[-1].outputs[0]],
        nodes=nodes,
        initializers=list(value.values()),
        opset_imports={"": 20},
        name="test",
    )
    return ir.Model(made, ir_version=10)


@pytest.mark.parametrize(("rewrite", "count"), [(older_operators, 2), (separate_sums, 2)])
def test_norms_and_gelus(tmp_path: Path, rewrite: Pass, count: int) -> None:
    model = normalized()
    assert rewrite(model, {}) == count
    ir.save(model, tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    values = torch.from_numpy(RANDOM.normal(size=(2, 4)).astype(np.float32))
    scale, bias = (v.const_value.numpy() for v in normalized().graph.initializers.values())
    bias, scale = torch.from_numpy(bias), torch.from_numpy(scale)
    norm = torch.nn.functional.layer_norm(values + bias, (4,), scale, bias, 1e-12)
    # OnnxRuntime takes token ids only.
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    [answer] = session.run(None, {"input_ids": values.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer), torch.nn.functional.gelu(norm + bias))


@pytest.mark.parametrize("model", ["eurobert", pytest.param("modernbert", marks=pytest.mark.slow)])
def test_older_means_and_splits(tmp_path: Path, model: str) -> None:
    """Of norms by the root mean square, and of gates that are the half of a Linear layer."""
    file = write_graph(tmp_path, model, quantized=False, form="deepsparse")
    onnx.checker.check_model(file, full_check=True)
    inputs = texts(3, 17)
    actual = OnnxRuntime(file, threads=1).run(inputs)
    expected = OnnxRuntime(tmp_path / "traced.onnx", threads=1).run(inputs)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_older_operators_refuse_the_tanh_gelu() -> None:
    with pytest.raises(UserError, match=r"tanh approximation.*export.form=qdq"):
        older_operators(normalized("tanh"), {})


@pytest.mark.parametrize("channels", [False, True])
def test_integers_equal_torchs(channels: bool) -> None:
    """Also at ties, where dividing by the scale would round differently, and where it clips."""
    scale = np.full(64 if channels else (), 0.0035437, np.float32)
    quantizer = Quantizer(scale=scale, zero_point=np.zeros_like(scale, dtype=np.int8))
    steps = RANDOM.integers(-280, 280, size=(64, 512)) / 2
    weight = (steps * np.float32(0.0035437)).astype(np.float32)
    stored = quantizer.quantize(weight)
    assert (stored.min(), stored.max()) == (-128, 127)
    tensor = torch.from_numpy(weight)
    fake = torch.fake_quantize_per_tensor_affine(tensor, 0.0035437, 0, -128, 127)
    np.testing.assert_array_equal(stored * np.float32(0.0035437), fake.numpy())
    divided = np.clip(np.rint(weight / np.float32(0.0035437)), -128, 127)
    assert (divided != stored).any()
