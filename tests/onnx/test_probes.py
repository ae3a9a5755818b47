"""Faults of an exporter, planted one by one: the checks of the export see each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import family, write_checkpoint
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, PreTrainedModel

from sparsekit.errors import UserError
from sparsekit.models.loading import read_config
from sparsekit.onnx import trace as tracing
from sparsekit.onnx.layers import read_layers
from sparsekit.onnx.parity import check_probes
from sparsekit.onnx.preflight import export_problem
from sparsekit.onnx.probes import probe_lengths, probes
from sparsekit.onnx.trace import load_model, masks_padding_only
from sparsekit.onnx.write import write_graphs
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.tasks.base import Task
from sparsekit.tasks.question_answering import QuestionAnswering
from sparsekit.tasks.text_classification import TextClassification

LONGEST = 40
TASK = TextClassification(max_length=LONGEST)


def loaded(name: str, folder: Path) -> PreTrainedModel:
    model, _ = load_model(write_checkpoint(family(name), folder / "checkpoint"), TASK)
    return model


def traced(model: PreTrainedModel, folder: Path) -> OnnxRuntime:
    layers = read_layers(model, model.state_dict())
    write_graphs(model, TASK, layers, folder / "m.onnx", folder / "t.onnx")
    return OnnxRuntime(folder / "t.onnx", threads=1)


def check_faulty(
    model: PreTrainedModel,
    task: Task,
    faulty: Callable[[dict[str, Tensor], Any], tuple[Tensor, ...]],
) -> None:
    """Check a graph that answers as `faulty` does with a batch and what the model returned."""

    class Graph:
        def outputs(self, inputs: dict[str, object]) -> tuple[object, ...]:
            batch = {name: torch.as_tensor(values) for name, values in inputs.items()}
            with torch.inference_mode():
                return tuple(each.numpy() for each in faulty(batch, model(**batch)))

    check_probes(model, task, Graph(), probes(model, LONGEST))  # type: ignore[arg-type]


@pytest.mark.slow
def test_windows_are_in_the_graph(tmp_path: Path) -> None:
    model = loaded("ModernBERT, Ettin", tmp_path)
    assert model.config.local_attention < LONGEST
    assert not masks_padding_only(model, TASK)
    check_probes(model, TASK, traced(model, tmp_path), probes(model, LONGEST))


@pytest.mark.slow
def test_a_graph_without_windows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the export was once: rows shorter than half a window do not show it.
    monkeypatch.setattr(tracing, "masks_padding_only", lambda *_: True)
    model = loaded("ModernBERT, Ettin", tmp_path)
    graph = traced(model, tmp_path)
    check_probes(model, TASK, graph, [b for b in probes(model, 9) if b["input_ids"].shape[0] == 1])
    with pytest.raises(UserError, match=r"check 'trace' failed.* on rows of 15 tokens"):
        check_probes(model, TASK, graph, probes(model, LONGEST))


def longer_than(limit: int, ids: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
    return logits + 1.0 * (ids.shape[1] > limit)


def of_one_token(ids: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
    return logits + 1.0 * (ids.shape[1] == 1)


def of_one_row(ids: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
    return logits + 1.0 * (ids.shape[0] == 1)


def without_the_mask(ids: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
    return logits + (1.0 - mask).sum(1, keepdim=True)


def padded_on_the_left(ids: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
    return logits + (1.0 - mask[:, :1])


def of_two_tokens(ids: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
    return logits + 1.0 * (ids.shape[1] == 2)


def of_several_rows(ids: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
    return logits + 1.0 * (ids.shape[0] > 1)


def padded_on_the_right(ids: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
    return logits + (1.0 - mask[:, -1:])


@pytest.mark.parametrize(
    ("fault", "rows"),
    [
        (of_two_tokens, "rows of 2 tokens"),
        (of_several_rows, "rows of 40, 20, 5 tokens,"),
        (padded_on_the_right, "rows of 40, 20, 5 tokens,"),
        (lambda *values: longer_than(LONGEST - 1, *values), f"rows of {LONGEST} tokens"),
        (of_one_token, "rows of 1 tokens"),
        (of_one_row, "rows of 1 tokens"),
        (without_the_mask, "rows of 40, 20, 5 tokens,"),
        (padded_on_the_left, "rows of 40, 20, 5 tokens padded on the left,"),
    ],
)
def test_a_planted_fault_is_seen(
    tmp_path: Path, fault: Callable[[Tensor, Tensor, Tensor], Tensor], rows: str
) -> None:
    model = loaded("BERT", tmp_path)

    def outputs(batch: dict[str, Tensor], output: Any) -> tuple[Tensor, ...]:
        return (fault(batch["input_ids"], batch["attention_mask"], output.logits),)

    with pytest.raises(UserError, match="check 'trace' failed") as caught:
        check_faulty(model, TASK, outputs)
    assert rows in str(caught.value)


def test_a_nan_of_a_second_output_is_seen(tmp_path: Path) -> None:
    task = QuestionAnswering(max_length=LONGEST)
    checkpoint = write_checkpoint(family("BERT"), tmp_path / "checkpoint")
    model = AutoModelForQuestionAnswering.from_pretrained(checkpoint).eval()

    def outputs(batch: dict[str, Tensor], output: Any) -> tuple[Tensor, ...]:
        start, end = task.model_outputs(output, batch)
        return start, end * torch.nan

    with pytest.raises(UserError, match=r"check 'trace' failed.* differ from torch's by nan"):
        check_faulty(model, task, outputs)


@pytest.mark.parametrize("length", [15, 17])
def test_a_fault_beside_the_window_is_seen(tmp_path: Path, length: int) -> None:
    """One token less and one more than the window of 16, at which the validation has no row."""
    model = loaded("ModernBERT, Ettin", tmp_path)

    def outputs(batch: dict[str, Tensor], output: Any) -> tuple[Tensor, ...]:
        return (output.logits + 1.0 * (batch["input_ids"].shape[1] == length),)

    with pytest.raises(UserError, match=rf"check 'trace' failed.* on rows of {length} tokens"):
        check_faulty(model, TASK, outputs)


def test_a_graph_without_the_causal_mask_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder whose tokens see those after them."""
    monkeypatch.setattr(tracing, "masks_padding_only", lambda *_: True)
    model = loaded("Llama", tmp_path)
    graph = traced(model, tmp_path)
    with pytest.raises(UserError, match=r"check 'trace' failed.* on rows of 2 tokens"):
        check_probes(model, TASK, graph, probes(model, LONGEST))


def test_lengths_surround_each_window(tmp_path: Path) -> None:
    config = read_config(write_checkpoint(family("ModernBERT, Ettin"), tmp_path / "checkpoint"))
    assert config.local_attention == 16
    # A token sees 8 on either side, 16 in all.
    assert probe_lengths(config, 78) == [1, 2, 7, 9, 15, 17, 78]
    assert probe_lengths(config, 9) == [1, 2, 7, 9]


@pytest.mark.parametrize("name", ["BERT", "RoBERTa", "DistilBERT"])
def test_the_short_mask_where_it_is_right(tmp_path: Path, name: str) -> None:
    assert masks_padding_only(loaded(name, tmp_path), TASK)


@pytest.mark.parametrize("name", ["DeBERTa", "Llama"])
def test_the_mask_of_the_architecture_elsewhere(tmp_path: Path, name: str) -> None:
    assert not masks_padding_only(loaded(name, tmp_path), TASK)


@pytest.mark.parametrize("name", ["Longformer", "BigBird (sparse)", "FNet", "Funnel"])
def test_refused_by_its_config(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(family(name), tmp_path / "checkpoint")
    (folder / "model.safetensors").unlink()
    problem = export_problem(read_config(folder))
    assert problem is not None and "export=none" in problem
