"""Shaped models in every runtime: layers of different sizes, layers without heads or neurons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from shaped import batch, classifier, some
from transformers import PreTrainedModel

from sparsekit.errors import UserError
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.onnx.check import check_structure
from sparsekit.onnx.layers import other_bytes, read_layers
from sparsekit.onnx.write import write_graphs
from sparsekit.runtime.base import Runtime
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.openvino import OpenVinoRuntime
from sparsekit.runtime.sparse.runtime import SparseRuntime
from sparsekit.shape.config import describe, shaped
from sparsekit.shape.kept import Kept
from sparsekit.shape.removal import remove
from sparsekit.sparsity.prunable import prunable
from sparsekit.tasks.text_classification import TextClassification

TASK = TextClassification(max_length=64)
pytestmark = pytest.mark.usefixtures("openvino_in_float32")
RUNTIMES: list[type[Runtime]] = [OnnxRuntime, OpenVinoRuntime, SparseRuntime]
MADE = ["bert-mixed", "bert-last", pytest.param("distilbert-mixed", marks=pytest.mark.slow)]
NONE = torch.arange(0)


def without_the_last_layer(model: PreTrainedModel) -> Kept:
    """Everything but the heads and neurons of the last layer, which keeps its norms."""
    kept = Kept.all(model)
    heads, neurons = (*kept.heads[:-1], NONE), (*kept.neurons[:-1], NONE)
    return Kept(kept.layers, heads, neurons, kept.hidden)


def export(model: PreTrainedModel, file: Path) -> None:
    model.set_attn_implementation("eager")
    state = model.state_dict()
    layers = read_layers(model, state)
    write_graphs(model, TASK, layers, file, file.with_name("traced.onnx"))
    check_structure(file, layers, other_bytes(state, layers), prunable(model))


@pytest.fixture(scope="module", params=MADE)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model_type, what = request.param.split("-")
    model = classifier(model_type)
    remove(model, without_the_last_layer(model) if what == "last" else some(model, what))
    describe(model)
    folder = tmp_path_factory.mktemp(request.param)
    export(model, folder / "model.onnx")
    with torch.no_grad():
        np.save(folder / "logits.npy", model(**inputs(folder, torch.from_numpy)).logits.numpy())
    return folder


def inputs(folder: Path, make=lambda array: array):  # type: ignore[no-untyped-def]
    import onnx

    names = [value.name for value in onnx.load(folder / "model.onnx").graph.input]
    values = {**{k: v.numpy() for k, v in batch().items()}, "token_type_ids": np.zeros((2, 9), int)}
    return {name: make(values[name]) for name in names}


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_every_runtime_computes_the_logits(made: Path, runtime: type[Runtime]) -> None:
    outputs = runtime(made / "model.onnx", 1).run(inputs(made))
    np.testing.assert_allclose(outputs, np.load(made / "logits.npy"), rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("width", [4, 6, 13])
def test_a_width_that_a_kernel_does_not_take_is_refused_by_it_alone(
    tmp_path: Path, width: int
) -> None:
    """Sparsekit removes in multiples of 8; a checkpoint of another tool has any width."""
    model, kept = classifier(), Kept.all(classifier())
    neurons = (*kept.neurons[:1], torch.arange(width), *kept.neurons[2:])
    remove(model, Kept(kept.layers, kept.heads, neurons, kept.hidden))
    file = tmp_path / "model.onnx"
    export(model, file)
    with torch.no_grad():
        expected = model(**inputs(tmp_path, torch.from_numpy)).logits.numpy()
    for runtime in RUNTIMES:
        if runtime is SparseRuntime and width % 4:
            with pytest.raises(UserError, match=rf"shape \[{width}, 32\], not multiples of 4; run"):
                runtime(file, 1)
            continue
        np.testing.assert_allclose(
            runtime(file, 1).run(inputs(tmp_path)), expected, rtol=0, atol=2e-5
        )


def test_no_heads_in_any_layer(tmp_path: Path) -> None:
    """Onnxruntime and OpenVINO run it; a shape found by sparsekit keeps one head of all."""
    model, kept = classifier(layers=2), Kept.all(classifier(layers=2))
    remove(model, Kept(kept.layers, (NONE, NONE), kept.neurons, kept.hidden))
    export(model, tmp_path / "model.onnx")
    with torch.no_grad():
        expected = model(**inputs(tmp_path, torch.from_numpy)).logits.numpy()
    for runtime in (OnnxRuntime, OpenVinoRuntime):
        outputs = runtime(tmp_path / "model.onnx", 1).run(inputs(tmp_path))
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=2e-5)
    with pytest.raises(UserError, match="runtime=sparse cannot run"):
        SparseRuntime(tmp_path / "model.onnx", 1)


def test_int8_runs_alike_in_all_runtimes(tmp_path: Path) -> None:
    model = classifier()
    remove(model, some(model, "mixed"))
    quantization = Quantization(quantize_attention=True)
    quantization.attach(model)
    quantization.update(0)
    model.train()
    with torch.no_grad():
        model(**batch())
    model.eval()
    with torch.no_grad():
        expected = model(**batch()).logits.numpy()
    describe(model)
    plain = shaped(type(model), model.config)(model.config)
    plain.load_state_dict(model.state_dict(), strict=False)
    plain.set_attn_implementation("eager")
    state = model.state_dict()
    layers = read_layers(plain.eval(), state)
    assert sum(layer.int8_matmul for layer in layers.values()) == 2 + 6 + 2
    write_graphs(plain, TASK, layers, tmp_path / "model.onnx", tmp_path / "traced.onnx")
    check_structure(tmp_path / "model.onnx", layers, other_bytes(state, layers), prunable(plain))
    for runtime in RUNTIMES:
        outputs = runtime(tmp_path / "model.onnx", 1).run(inputs(tmp_path))
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=0.15 * np.abs(expected).max())
