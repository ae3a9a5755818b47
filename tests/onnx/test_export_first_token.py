"""The nodes of the last layer that compute only the first token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from sparsekit.onnx.layers import Layers
from sparsekit.onnx.passes.first_token import first_token
from sparsekit.onnx.trace import trace
from sparsekit.runtime.base import Inputs
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.tasks.text_classification import TextClassification

TASK = TextClassification(max_length=64)

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 99,
}


def bert() -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(**SIZES, attn_implementation="eager"))


def roberta() -> PreTrainedModel:
    return RobertaForSequenceClassification(RobertaConfig(**SIZES, attn_implementation="eager"))


def distilbert() -> PreTrainedModel:
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": 99}
    config = DistilBertConfig(**sizes, attn_implementation="eager")
    return DistilBertForSequenceClassification(config)


def padded() -> Inputs:
    ids = np.random.default_rng(0).integers(3, 99, (3, 7))
    mask = np.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}


def answers(graph: ir.Model, folder: Path) -> np.ndarray:
    ir.save(graph, folder / "model.onnx")
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    return OnnxRuntime(folder / "model.onnx", threads=1).run(padded())


def module_shapes(graph: ir.Model, ending: str) -> set[str]:
    """The three-dimensional output shapes of the module's nodes."""
    nodes = [node for node in graph.graph if node.meta.get("module", "").endswith(ending)]
    return {str(n.outputs[0].shape) for n in nodes if len(n.outputs[0].shape or ()) == 3}


@pytest.mark.parametrize("make", [bert, roberta, distilbert])
def test_the_last_layer_computes_one_token(
    tmp_path: Path, make: Callable[[], PreTrainedModel]
) -> None:
    graph = trace(make().eval(), TASK)
    before = answers(graph, tmp_path)
    # 4 Linear layers with their sums, attention's 9 nodes, 2 residual sums and norms, GELU.
    assert first_token(graph, Layers()) == 22
    np.testing.assert_allclose(answers(graph, tmp_path), before, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("nomic_bert", {}), ("gte", {}), ("eurobert", {"classifier_pooling": "bos"})],
)
def test_rotated_queries_are_those_of_one_token(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(name, **SIZES, **special, **settings)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    graph = trace(model.eval(), TASK)
    before = answers(graph, tmp_path)
    first_token(graph, Layers())
    np.testing.assert_allclose(answers(graph, tmp_path), before, atol=1e-6)
    one, last = {"[batch,1,32]"}, "layers.1."
    assert module_shapes(graph, f"{last}self_attn.q_proj") == one
    assert module_shapes(graph, f"{last}self_attn.k_proj") == {"[batch,sequence,32]"}
    assert module_shapes(graph, f"{last}mlp.down_proj") == one


def test_values_with_other_consumers_keep_every_token(tmp_path: Path) -> None:
    graph = trace(bert().eval(), TASK)
    first_token(graph, Layers())
    last, other = "encoder.layer.1.", "encoder.layer.0."
    one, every = {"[batch,1,32]"}, {"[batch,sequence,32]"}
    assert module_shapes(graph, f"{last}attention.self.query") == one
    assert module_shapes(graph, f"{last}attention.self.key") == every
    assert module_shapes(graph, f"{last}attention.self.value") == every
    assert module_shapes(graph, f"{last}output.LayerNorm") == one
    assert module_shapes(graph, f"{other}output.LayerNorm") == every
    # The residual and the query read the same token of the layer before.
    selected = [n for n in graph.graph if n.name and n.name.endswith(".first_token")]
    assert [len(node.outputs[0].consumers()) for node in selected] == [2]


def test_a_graph_that_outputs_every_token_is_not_changed(tmp_path: Path) -> None:
    graph = trace(bert().eval(), TASK)
    last = next(
        n.inputs[0] for n in graph.graph if n.op_type == "Gather" and n.name == "node_select"
    )
    assert last is not None
    graph.graph.outputs.append(last)
    assert first_token(graph, Layers()) == 0


def test_selecting_another_token_changes_nothing() -> None:
    graph = trace(bert().eval(), TASK)
    head = next(n for n in graph.graph if n.op_type == "Gather" and n.name == "node_select")
    index = ir.val("one", const_value=ir.tensor(np.array(1), name="one"))
    graph.graph.register_initializer(index)
    head.replace_input_with(1, index)
    assert first_token(graph, Layers()) == 0
