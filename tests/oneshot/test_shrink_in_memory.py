"""`sparsekit.shrink`: a model in memory becomes smaller in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from typer.testing import CliRunner

import sparsekit
from sparsekit.cli.app import app
from sparsekit.errors import ConfigError, UserError
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.shape.sizes import sizes
from sparsekit.tasks.embedding import Embedding


def test_it_equals_the_command(model: PreTrainedModel, dense: Path, tmp_path: Path) -> None:
    model.train()
    assert sparsekit.shrink(model, neurons=0.5, layers=0.5) is model
    assert model.training
    assert sizes(model)["neurons"] == [32]
    output = str(tmp_path / "small")
    words = ["shrink", str(dense), "--neurons", "0.5", "--layers", "0.5", "-o", output]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    saved = AutoModelForSequenceClassification.from_pretrained(output).state_dict()
    assert saved.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, saved[name]), name


@pytest.mark.parametrize("method", ["first_order", "obs"])
def test_a_method_that_measures(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, method: str
) -> None:
    given = {"train_dataset": rows, "processing_class": tokenizer, "rows": 16}
    sparsekit.shrink(model, heads=0.5, hidden=0.25, method=method, global_ranking=True, **given)
    found = sizes(model)
    assert sum(found["heads"]) == 2 and found["hidden"] == 24
    with torch.no_grad():
        logits = model(torch.tensor([[2, 7, 9, 3]])).logits
    assert logits.shape == (1, 2) and logits.isfinite().all()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "nothing is to be removed; set a share for some of heads, neurons"),
        ({"heads": 1.0}, "heads 1 must be at least 0 and less than 1"),
        ({"heads": 0.1}, "heads 0.1 removes none: there are 4"),
        ({"heads": 0.5, "method": "norm"}, "method norm is not one of magnitude"),
        ({"heads": 0.5, "method": "obs"}, "method='obs' measures on text: pass train_dataset"),
        ({"heads": 0.5, "row": 3}, "shrink has no setting row; did you mean rows"),
        ({"heads": 0.5, "target": None}, "shrink has no setting target"),
    ],
)
def test_what_does_not_fit_is_named(
    model: PreTrainedModel, given: dict[str, Any], problem: str
) -> None:
    before = sizes(model)
    with pytest.raises(UserError) as found:
        sparsekit.shrink(model, **given)
    assert problem in str(found.value)
    assert sizes(model) == before


def test_a_task_without_a_loss_of_labels(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset
) -> None:
    given = {"train_dataset": rows, "processing_class": tokenizer, "task": Embedding()}
    with pytest.raises(ConfigError, match="needs a loss of labels, which embedding does not have"):
        sparsekit.shrink(model, heads=0.5, method="obs", **given)


def test_what_is_no_model_or_quantized_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(UserError, match="shrink takes a transformers model, not a Linear"):
        sparsekit.shrink(torch.nn.Linear(2, 2), heads=0.5)  # type: ignore[type-var]
    Quantization(start=0.0).attach(model)
    with pytest.raises(UserError, match="quantized already; shrink it before"):
        sparsekit.shrink(model, heads=0.5)
