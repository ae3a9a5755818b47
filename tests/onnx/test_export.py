"""Export: the content of the deployment, and its agreement with torch."""

from __future__ import annotations

import collections
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from exported import LOOSE, logits_and_recorded
from golden_names import ours
from onnx import TensorProto, numpy_helper
from project import GOLDEN
from run_folder import ALL, LINEARS, quantization, write_run
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from sparsekit.errors import UserError
from sparsekit.onnx.export import ExportConfig, export
from sparsekit.onnx.layers import read_layers
from sparsekit.onnx.write import write_graphs
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.tasks.text_classification import TextClassification

KEYS = {
    "path",
    "verified",
    "max_abs_diff",
    "metrics",
    "int8_matmuls",
    "fp32_matmuls",
    "zero_fraction",
    "bytes",
    "bytes_compressed",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), student_folder, quantization())


@pytest.fixture(scope="module")
def result(run: Path) -> dict[str, Any]:
    return export(run, LOOSE)


@pytest.fixture(scope="module")
def graph(run: Path, result: dict[str, Any]) -> onnx.GraphProto:
    return onnx.load(run / result["path"]).graph


def test_result_is_the_summary(run: Path, result: dict[str, Any]) -> None:
    assert result.keys() == KEYS
    assert json.loads(json.dumps(result)) == result
    assert result["verified"] is True
    assert (result["int8_matmuls"], result["fp32_matmuls"]) == (LINEARS, 0)
    assert 0.90 <= result["zero_fraction"] < 0.95
    assert result["bytes"] == (run / result["path"]).stat().st_size
    assert 0 < result["bytes_compressed"] < result["bytes"]
    assert result["metrics"].keys() == {"accuracy"}
    assert 0.8 < result["metrics"]["accuracy"] < 0.95


def test_deployment_folder(run: Path, result: dict[str, Any]) -> None:
    files = {file.name for file in (run / "deployment").iterdir()}
    assert files == {
        "model.onnx",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "SHA256SUMS",
        "task.json",
    }
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_each_quantized_weight_is_int8(graph: onnx.GraphProto) -> None:
    types = collections.Counter(
        value.data_type for value in graph.initializer if value.name.endswith("weight_quantized")
    )
    assert types == {TensorProto.INT8: LINEARS, TensorProto.UINT8: 3}
    floats = [v for v in graph.initializer if v.data_type == TensorProto.FLOAT]
    assert [value.name for value in floats if len(value.dims) > 1] == []


def test_consumers_of_one_tensor_share_one_pair(graph: onnx.GraphProto) -> None:
    # A layer: attention input, attention output, intermediate, output; the last query's own token;
    # pooler; classifier; tables.
    types = collections.Counter(node.op_type for node in graph.node)
    assert types["QuantizeLinear"] == 2 * 4 + 3
    assert types["DequantizeLinear"] == types["QuantizeLinear"] + LINEARS + 3


def test_deepsparse_form(run: Path, result: dict[str, Any], tmp_path: Path) -> None:
    """MatMulInteger for every matmul, with the logits of the other form in onnxruntime."""
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("deployment"))
    other = export(tmp_path / "run", ExportConfig(form="deepsparse", max_metric_drop=0.1))
    assert (other["int8_matmuls"], other["fp32_matmuls"]) == (LINEARS, 0)
    assert other["zero_fraction"] == result["zero_fraction"]
    graph = onnx.load(tmp_path / "run" / other["path"]).graph
    ops = collections.Counter(node.op_type for node in graph.node)
    assert ops["MatMulInteger"] == LINEARS
    assert (ops["QuantizeLinear"], ops["DequantizeLinear"]) == (2 * 4 + 3, 3)
    assert (ops["MatMul"], ops["Gemm"]) == (2 * 2, 0)  # attention's own matmuls
    assert ops.keys().isdisjoint({"LayerNormalization", "Gelu", "Sum"})
    assert (ops["Erf"], ops["Sqrt"]) == (2, 5)
    logits, _ = logits_and_recorded(tmp_path / "run", 16)
    others, _ = logits_and_recorded(run, 16)
    assert np.median(np.abs(logits - others).max(axis=1)) < 1e-5


def test_slow_fusions_do_not_happen(run: Path, result: dict[str, Any], tmp_path: Path) -> None:
    OnnxRuntime(run / result["path"], threads=1, optimized=tmp_path / "optimized.onnx")
    ops = collections.Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert ops["LayerNormalization"] == 5
    assert ops["Gelu"] == 2
    assert ops.keys().isdisjoint({"SkipLayerNormalization", "BiasGelu"})


def test_inputs_are_dynamic_and_named(graph: onnx.GraphProto) -> None:
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    axes = ["batch", "sequence"]
    assert shapes == {
        "input_ids": axes,
        "attention_mask": axes,
        "token_type_ids": axes,
        "logits": ["batch", 2],
    }


def test_file_names_no_path_of_this_machine(run: Path, result: dict[str, Any]) -> None:
    data = (run / result["path"]).read_bytes()
    assert b"site-packages" not in data
    assert str(Path.home()).encode() not in data
    assert str(run) not in (run / "deployment" / "README.md").read_text()


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_logits_are_torchs(run: Path, result: dict[str, Any], batch: int) -> None:
    logits, recorded = logits_and_recorded(run, batch)
    diff = np.abs(logits - recorded).max(axis=1)
    assert np.median(diff) < 1e-5
    assert diff.max() <= result["max_abs_diff"] + 1e-6
    assert (logits.argmax(1) == recorded.argmax(1)).mean() > 0.95
    assert recorded.std(axis=0).min() > 0.01  # equal logits would agree trivially


def test_padding_does_not_matter(run: Path, result: dict[str, Any]) -> None:
    runtime = OnnxRuntime(run / "deployment" / "model.onnx", threads=1)
    ids = np.array([[2, 7, 9, 11, 3]])
    bare = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    padded = {name: np.pad(value, ((0, 0), (0, 20))) for name, value in bare.items()}
    padded["input_ids"][:, 5:] = 17  # any values
    np.testing.assert_allclose(runtime.run(bare), runtime.run(padded), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 512)])
def test_axes_are_dynamic(run: Path, result: dict[str, Any], shape: tuple[int, int]) -> None:
    ids = np.ones(shape, dtype=np.int64)
    inputs = {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids * 0}
    logits = OnnxRuntime(run / "deployment" / "model.onnx", threads=1).run(inputs)
    assert logits.shape == (shape[0], 2)
    assert np.isfinite(logits).all()


def test_weights_of_each_channel(tmp_path: Path, student_folder: str) -> None:
    run = write_run(tmp_path, student_folder, quantization(per_channel=True))
    result = export(run, LOOSE)
    assert result["int8_matmuls"] == LINEARS
    graph = onnx.load(run / result["path"]).graph
    arrays = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    scale = arrays["bert.encoder.layer.1.intermediate.dense.weight_scale"]
    assert scale.shape == (64,)
    assert len(np.unique(scale)) > 32


def test_a_layer_left_out_stays_float32(tmp_path: Path, student_folder: str) -> None:
    run = write_run(tmp_path, student_folder, quantization(ALL[1:3]))
    result = export(run, LOOSE)
    assert (result["int8_matmuls"], result["fp32_matmuls"]) == (LINEARS - 1, 1)
    graph = onnx.load(run / result["path"]).graph
    names = {value.name for value in graph.initializer if value.data_type == TensorProto.FLOAT}
    assert "classifier.weight_transposed" in names
    assert "bert.embeddings.word_embeddings.weight" in names


def test_a_model_without_quantizers(tmp_path: Path, student_folder: str) -> None:
    run = write_run(tmp_path, student_folder, None)
    result = export(run, ExportConfig())
    assert (result["int8_matmuls"], result["fp32_matmuls"]) == (0, LINEARS)
    assert result["max_abs_diff"] < 1e-5
    assert 0.89 < result["zero_fraction"] < 0.91
    ops = {node.op_type for node in onnx.load(run / result["path"]).graph.node}
    assert ops.isdisjoint({"QuantizeLinear", "DequantizeLinear"})


def test_a_layer_of_zeros(tmp_path: Path, student_folder: str) -> None:
    """torch's exporter omits a bias of zeros; a weight of zeros has the smallest scale."""

    def change(model: BertForSequenceClassification) -> None:
        with torch.no_grad():
            model.bert.pooler.dense.bias.zero_()
            model.bert.encoder.layer[1].intermediate.dense.weight.zero_()

    run = write_run(tmp_path, student_folder, quantization(), change=change)
    assert export(run, LOOSE)["int8_matmuls"] == LINEARS


def test_two_texts(tmp_path: Path, student_folder: str) -> None:
    run = write_run(tmp_path, student_folder, quantization(), pairs=True)
    assert export(run, LOOSE)["verified"]
    rows = pq.read_table(run / "evaluation" / "validation.parquet").to_pydict()
    encoder = TextEncoder(run / "deployment")
    batch = encoder.batch(encoder.encode(rows["text"], rows["text_pair"]))
    assert batch["token_type_ids"].any()


def test_unverified_export_needs_no_evaluation(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "model")
    shutil.copyfile(run / "config.yaml", tmp_path / "config.yaml")
    result = export(tmp_path, ExportConfig(verify=False))
    assert result["verified"] is False
    assert result["max_abs_diff"] is None
    assert result["int8_matmuls"] == LINEARS
    assert "**not** compared" in (tmp_path / "deployment" / "README.md").read_text()


def test_sparseml_logits(golden: dict[str, Any], tmp_path: Path) -> None:
    """The golden model with SparseML's own scales, exported, gives SparseML's logits."""
    recorded = golden["qat"]
    config = {k: v for k, v in recorded["config"].items() if k != "model_type"}
    model = BertForSequenceClassification(BertConfig(**config, attn_implementation="eager")).eval()
    state = load_file(GOLDEN / "tiny_bert.safetensors")
    model.load_state_dict(state)
    for name, value in recorded["scales_and_zero_points"].items():
        state[ours(name)] = torch.tensor(value).squeeze()
    layers = read_layers(model, state)
    assert sum(layer.int8_matmul for layer in layers.values()) == LINEARS
    task = TextClassification()
    write_graphs(model, task, layers, tmp_path / "model.onnx", tmp_path / "float32.onnx")
    ids = np.array(recorded["inputs"][0])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    logits = OnnxRuntime(tmp_path / "model.onnx", threads=1).run(inputs)
    np.testing.assert_allclose(logits, recorded["final_eval_logits_inputs0"], atol=1e-5)


def test_config_is_checked() -> None:
    with pytest.raises(UserError, match=r"export.check_rows is 0.*export.verify=false"):
        ExportConfig(check_rows=0)
    with pytest.raises(UserError, match=r"export.form is 'int4'.*one of qdq, deepsparse"):
        ExportConfig(form="int4")
