"""A traced graph is kept without its weights, and each export fills in its own."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from sparsekit.onnx import trace as tracing
from sparsekit.onnx import trace_cache
from sparsekit.onnx.trace import trace
from sparsekit.onnx.trace_cache import GRAPH, KIND
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.tasks.base import Task
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.text_classification import TextClassification

SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
TASK = TextClassification(max_length=16)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that torch has traced."""
    made: list[str] = []
    captured = tracing._captured

    def counted(traced: tracing._Traced, task: Task) -> ir.Model:
        made.append(type(traced.model).__name__)
        return captured(traced, task)

    monkeypatch.setattr(tracing, "_captured", counted)
    return made


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As `traces`, of graphs that consist of their weights: torch takes seconds for real ones."""
    made: list[str] = []

    def weights_alone(traced: tracing._Traced, task: Task) -> ir.Model:
        made.append(type(traced.model).__name__)
        weights = [
            ir.Value(name=name, const_value=ir.tensor(weight.detach().numpy(), name=name))
            for name, weight in traced.named_parameters()
        ]
        graph = ir.Graph([], weights, nodes=[], initializers=weights, name="weights")
        return ir.Model(graph, ir_version=10)

    monkeypatch.setattr(tracing, "_captured", weights_alone)
    return made


def bert(seed: int = 0, **settings: object) -> PreTrainedModel:
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(**SIZES | settings)).eval()


def albert(seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    return AlbertForSequenceClassification(AlbertConfig(**SIZES, embedding_size=8)).eval()


def check_logits(model: PreTrainedModel, graph: ir.Model, file: Path) -> None:
    ir.save(graph, file)
    ids = np.array([[2, 7, 9, 4, 3], [5, 5, 8, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
    inputs["token_type_ids"] = ids * 0
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(x) for name, x in inputs.items()}).logits
    np.testing.assert_allclose(OnnxRuntime(file, 1).run(inputs), expected, atol=1e-5)


@pytest.mark.parametrize("make", [bert, albert], ids=["bert", "shared layers"])
def test_each_export_has_its_own_weights(
    make: Callable[[int], PreTrainedModel], traces: list[str], tmp_path: Path
) -> None:
    for seed in range(2):
        model = make(seed)
        check_logits(model, trace(model, TASK), tmp_path / f"{seed}.onnx")
    assert len(traces) == 1


def test_equal_models_get_equal_files(traces: list[str], tmp_path: Path) -> None:
    for name in ("first", "second"):
        ir.save(trace(bert(), TASK), tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert len(traces) == 1


def test_names_change_no_operation(keys: list[str]) -> None:
    trace(bert(), TASK)
    trace(bert(id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}), TASK)
    assert len(keys) == 1


def test_no_weight_is_in_the_cache(cache: Path) -> None:
    model = bert()
    trace(model, TASK)
    (file,) = (cache / KIND).glob(f"*/{GRAPH}")
    graph = ir.load(file).graph
    assert not any(value.name.startswith("model.") for value in graph.initializers.values())
    names = {value.name for value in graph.inputs}
    assert {f"model.{name}" for name, _ in model.named_parameters()} < names
    assert b"site-packages" not in file.read_bytes(), "paths of this machine"


@pytest.mark.parametrize(
    "settings",
    [
        {"num_attention_heads": 4},
        {"hidden_act": "relu"},
        {"layer_norm_eps": 1e-5},
        {"num_labels": 3},
        {"num_hidden_layers": 1},
        {"intermediate_size": 32},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_another_architecture_is_traced(settings: dict[str, object], keys: list[str]) -> None:
    trace(bert(), TASK)
    trace(bert(**settings), TASK)
    assert len(keys) == 2


@pytest.mark.parametrize("changed", ["torch", "onnxscript", "onnx_ir", "own_sources"])
def test_another_exporter_traces_again(
    changed: str, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace(bert(), TASK)
    if changed == "own_sources":
        monkeypatch.setattr(trace_cache, "own_sources", lambda: "edited")
    else:
        installed = trace_cache.version
        monkeypatch.setattr(
            trace_cache, "version", lambda name: "999" if name == changed else installed(name)
        )
    trace(bert(), TASK)
    assert len(keys) == 2


def test_another_task_is_traced(keys: list[str]) -> None:
    for pooling in ("mean", "first_token", "mean"):
        trace(bert().bert, Embedding(max_length=16, pooling=pooling))
    assert len(keys) == 2


OWN_MODEL = """
from transformers import BertForSequenceClassification

class Own(BertForSequenceClassification):
    def forward(self, input_ids, attention_mask, token_type_ids):
        output = super().forward(input_ids, attention_mask, token_type_ids)
        output.logits = output.logits * FACTOR
        return output
"""


def test_code_of_ones_own_that_was_changed_is_traced(
    keys: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own_model.py"
    for factor in ("2", "3", "3"):
        file.write_text(OWN_MODEL.replace("FACTOR", factor), encoding="utf-8")
        spec = importlib.util.spec_from_file_location("own_model", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "own_model", module)
        # Both are written within a second, for which Python would keep its compiled file.
        exec(compile(file.read_text(), file, "exec"), vars(module))
        trace(module.Own(BertConfig(**SIZES)).eval(), TASK)
    assert len(keys) == 2


def test_code_that_ones_own_code_imports_counts(
    keys: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = ModuleType("helper")
    helper.__file__ = str(tmp_path / "helper.py")
    monkeypatch.setitem(sys.modules, "helper", helper)
    for source in ("factor = 2", "factor = 3", "factor = 3"):
        Path(helper.__file__).write_text(source, encoding="utf-8")
        # Of this file, which is a user's to the cache.
        trace(Doubled(BertConfig(**SIZES)).eval(), TASK)
    assert len(keys) == 2
    # Models of transformers do not import it.
    for source in ("factor = 4", "factor = 5"):
        Path(helper.__file__).write_text(source, encoding="utf-8")
        trace(bert(), TASK)
    assert len(keys) == 3


class Doubled(BertForSequenceClassification):
    pass


@pytest.mark.parametrize("file", [None, "removed.py"], ids=["notebook", "removed"])
def test_a_class_without_a_file_is_not_cached(
    keys: list[str], cache: Path, file: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("console")
    module.__file__ = file
    monkeypatch.setitem(sys.modules, "console", module)
    monkeypatch.setattr(Doubled, "__module__", "console")
    for _ in range(2):
        trace(Doubled(BertConfig(**SIZES)).eval(), TASK)
    assert len(keys) == 2 and not (cache / KIND).exists()


def test_an_attribute_that_becomes_a_constant_counts(keys: list[str]) -> None:
    for epsilon in (1e-12, 1e-6, 1e-6):
        model = bert()
        model.bert.embeddings.LayerNorm.eps = epsilon
        trace(model, TASK)
    assert len(keys) == 2


def test_a_damaged_graph_is_traced_again(
    keys: list[str], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trace(bert(), TASK)
    (file,) = (cache / KIND).glob(f"*/{GRAPH}")
    file.write_bytes(file.read_bytes()[:-100])
    trace(bert(), TASK)
    assert len(keys) == 2 and "was changed or cut short" in caplog.text


def test_without_a_cache_the_graph_is_traced_each_time(
    keys: list[str], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file where the folder should be", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        for seed in range(2):
            model = bert(seed)
            weights = trace(model, TASK).graph.initializers
            expected = model.classifier.weight.detach().numpy()
            assert np.array_equal(weights["classifier.weight"].const_value.numpy(), expected)
    assert len(keys) == 2 and "traced anew, and not cached: the cache" in caplog.text


def test_a_buffer_is_a_weight(traces: list[str], tmp_path: Path) -> None:
    """What a module registers and does not save is filled in as well, such as rotations."""

    class Shifted(BertForSequenceClassification):
        def __init__(self, config: BertConfig, shift: float) -> None:
            super().__init__(config)
            self.register_buffer("shift", torch.full((2,), shift), persistent=False)

        def forward(
            self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
        ) -> SequenceClassifierOutput:
            output = super().forward(input_ids, attention_mask, token_type_ids)
            output.logits = output.logits + self.shift
            return output

    for shift in (1.0, 2.0):
        model = Shifted(BertConfig(**SIZES), shift).eval()
        check_logits(model, trace(model, TASK), tmp_path / "model.onnx")
    assert len(traces) == 1
