"""`quantize_attention`: attention's products, rounded in training and of integers in the export."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import LOOSE, logits_and_recorded
from run_folder import LINEARS, quantization, write_run
from tiny_training import LABELS
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from sparsekit.errors import ConfigError
from sparsekit.models.loading import load_for_task
from sparsekit.modifiers.quantization.attention import OPERANDS, attentions, int8_attention
from sparsekit.modifiers.quantization.fake_quantize import FakeQuantizer
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.onnx.export import export
from sparsekit.tasks.text_classification import TextClassification

# Of the tiny student: two in each of its two layers.
PRODUCTS = 4
SMALL = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}


def modifier() -> Quantization:
    return dataclasses.replace(quantization(), quantize_attention=True)


@pytest.mark.parametrize("form", ["qdq", "deepsparse"])
def test_the_export_multiplies_integers(form: str, tmp_path: Path, student_folder: str) -> None:
    run = write_run(tmp_path, student_folder, modifier())
    result = export(run, dataclasses.replace(LOOSE, form=form))
    assert (result["int8_matmuls"], result["fp32_matmuls"]) == (LINEARS + PRODUCTS, 0)
    graph = onnx.load(run / result["path"]).graph
    ops = collections.Counter(node.op_type for node in graph.node)
    if form == "qdq":
        made_by = {output: node.op_type for node in graph.node for output in node.output}
        products = [node for node in graph.node if node.op_type == "MatMul"]
        assert all(made_by[name] == "DequantizeLinear" for p in products for name in p.input)
    else:
        assert (ops["MatMulInteger"], ops["MatMul"]) == (LINEARS + PRODUCTS, 0)
    logits, recorded = logits_and_recorded(run, 16)
    assert np.median(np.abs(logits - recorded).max(axis=1)) < 1e-5
    assert recorded.std(axis=0).min() > 0.01


def test_rounding_is_that_of_the_operands() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, 5, 4, requires_grad=True) for _ in range(3))
    mask = torch.zeros(3, 1, 1, 5)
    mask[:, :, :, 4] = torch.finfo(torch.float32).min
    module = torch.nn.Module()
    module.is_causal = False
    plain, _ = int8_attention(module, query, key, value, mask, scaling=0.5)
    for name, (limits, symmetric) in OPERANDS.items():
        module.add_module(name, FakeQuantizer(limits, symmetric))
    off, _ = int8_attention(module, query, key, value, mask, scaling=0.5)
    assert torch.equal(off, plain)
    for name in OPERANDS:
        module.get_submodule(name).enabled = module.get_submodule(name).observing = True
    rounded, probabilities = int8_attention(module, query, key, value, mask, scaling=0.5)
    assert (probabilities[..., 4] == 0).all()
    levels = probabilities / module.probabilities_quantizer.scale
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    scale = module.value_quantizer.scale
    expected = probabilities @ ((value / scale).round().clamp(-128, 127) * scale)
    torch.testing.assert_close(rounded, expected.transpose(1, 2))
    difference = (rounded - plain).abs().max()
    assert 0 < difference < 0.05
    rounded.sum().backward()
    assert query.grad is not None and query.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(num_hidden_layers=2, **SMALL),
        RobertaConfig(num_hidden_layers=2, **SMALL),
        ElectraConfig(num_hidden_layers=2, **SMALL),
        DistilBertConfig(vocab_size=20, dim=8, n_heads=2, n_layers=2, hidden_dim=8),
    ],
    ids=lambda config: config.model_type,
)
def test_every_attention_is_found_and_observed(config: PreTrainedConfig) -> None:
    model = AutoModelForSequenceClassification.from_config(config)
    found = list(attentions(model))
    assert len(found) == 2
    quantizing = Quantization(quantize_attention=True)
    quantizing.attach(model)
    assert set(found) < set(quantizing.modules)
    quantizing.update(0.0)
    model.train()(torch.tensor([[3, 4, 5]]))
    for name, value in model.state_dict().items():
        if any(f"{module}.{operand}" in name for module in found for operand in OPERANDS):
            assert torch.isfinite(value).all(), name


def test_only_within_the_submodules(student_folder: str) -> None:
    model = load_for_task(Path(student_folder), TextClassification(max_length=32), LABELS)[0].model
    inner = "bert.encoder.layer.1"
    quantizing = Quantization(submodules=[inner], quantize_attention=True)
    quantizing.attach(model)
    names = [name for name in model.state_dict() if "query_quantizer" in name]
    assert names and all(name.startswith(f"{inner}.attention.self.") for name in names)


def test_a_model_without_such_an_attention() -> None:
    model = AutoModelForSequenceClassification.from_config(
        MPNetConfig(num_hidden_layers=1, **SMALL)
    )
    with pytest.raises(ConfigError, match="no attention here that transformers calls by name"):
        Quantization(quantize_attention=True).attach(model)
