"""A student that cannot be exported is refused before it is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from families import family, write_checkpoint
from launching import local, run_here
from transformers import PreTrainedModel

from sparsekit.errors import UserError
from sparsekit.models.loading import Student
from sparsekit.onnx import preflight
from sparsekit.onnx import trace as tracing
from sparsekit.onnx.check import GRAPH_BYTES
from sparsekit.onnx.forms import FORMS, Pass
from sparsekit.onnx.layers import Layers
from sparsekit.onnx.preflight import check_exportable
from sparsekit.tasks.text_classification import TextClassification

TASK = TextClassification(max_length=40)


def checkpoint(name: str, folder: Path) -> str:
    return str(write_checkpoint(family(name), folder / "checkpoint"))


def student(name: str, folder: Path) -> PreTrainedModel:
    return Student(checkpoint=checkpoint(name, folder)).load(TASK, ["neg", "pos"]).model


def test_what_would_be_refused_after_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An exporter that loses the windows of attention.
    monkeypatch.setattr(tracing, "masks_padding_only", lambda *_: True)
    model = student("ModernBERT, Ettin", tmp_path)
    implementation = model.config._attn_implementation
    match = (
        r"ModernBert.* would be refused at its export, after training: check 'trace' .*export=none"
    )
    with pytest.raises(UserError, match=match):
        check_exportable(model, TASK, "qdq")
    assert model.config._attn_implementation == implementation and not model.training


def doubled(graph: ir.Model, layers: Layers) -> int:
    """A pass that doubles the logits."""
    [logits] = graph.graph.outputs
    node = ir.node("Add", [logits, logits])
    graph.graph.append(node)
    graph.graph.outputs[0], node.outputs[0].name = node.outputs[0], logits.name
    node.outputs[0].dtype, node.outputs[0].shape = logits.dtype, logits.shape
    logits.name = "half"
    return 1


def larger(graph: ir.Model, layers: Layers) -> int:
    """A pass that stores what no node reads."""
    unread = ir.tensor(np.zeros(GRAPH_BYTES, np.float32), name="unread")
    graph.graph.register_initializer(ir.Value(name="unread", const_value=unread))
    return 1


@pytest.mark.parametrize(
    ("fault", "check"),
    [(doubled, "check 'trace'"), (larger, "check 'size'")],
)
def test_a_fault_of_the_passes_is_seen(
    fault: Pass,
    check: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the rewritten graph, beside a traced one that is right."""
    monkeypatch.setitem(FORMS, "qdq", (*FORMS["qdq"], fault))
    match = f"would be refused at its export, after training: {check} failed"
    with pytest.raises(UserError, match=match):
        check_exportable(student("BERT", tmp_path), TASK, "qdq")


def test_what_passed_is_not_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = student("BERT", tmp_path)
    check_exportable(model, TASK, "qdq")
    monkeypatch.setattr(preflight, "write_graphs", None)
    check_exportable(model, TASK, "qdq")
    # Longer texts are another check.
    with pytest.raises(TypeError):
        check_exportable(model, TextClassification(max_length=41), "qdq")


@pytest.mark.parametrize("changed", ["own_sources", "onnxscript", "onnx"])
def test_another_exporter_checks_again(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = student("BERT", tmp_path)
    checks: list[str] = []
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(preflight, "_check", lambda *_: checks.append("checked"))
    check_exportable(model, TASK, "qdq")
    check_exportable(model, TASK, "qdq")
    assert len(checks) == 1
    if changed == "own_sources":
        monkeypatch.setattr(preflight, "own_sources", lambda: "edited")
    else:
        installed = preflight.version
        monkeypatch.setattr(
            preflight, "version", lambda name: "999" if name == changed else installed(name)
        )
    check_exportable(model, TASK, "qdq")
    assert len(checks) == 2


def test_a_known_architecture_is_refused_by_its_config(
    tmp_path: Path, csv_files: dict[str, str]
) -> None:
    folder = checkpoint("Longformer", tmp_path)
    (Path(folder) / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"longformer cannot be exported: .* export=none"):
        run_here(tmp_path / "run", *local(csv_files, folder), "teacher=none")


def test_it_trains_without_an_export(tmp_path: Path, csv_files: dict[str, str]) -> None:
    choices = [*local(csv_files, checkpoint("Longformer", tmp_path)), "teacher=none"]
    shorter = ["dataset.max_length=16", "student.sparsity=0.8", "export=none"]
    summary = run_here(tmp_path / "run", *choices, *shorter)
    assert summary["status"] == "completed" and (tmp_path / "run" / "model").is_dir()
