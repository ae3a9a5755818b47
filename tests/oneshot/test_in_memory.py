"""`sparsekit.prune`: a model in memory is pruned in place."""

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

from sparsekit.cli.app import app
from sparsekit.errors import ConfigError, UserError
from sparsekit.models.pruning import sparsity
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.oneshot import methods
from sparsekit.oneshot.in_memory import prune
from sparsekit.sparsity import memory

FAST = {"num_grads": 16, "rows": 16, "num_recomputations": 2}


def test_magnitude_needs_no_data_and_equals_the_command(
    model: PreTrainedModel, dense: Path, tmp_path: Path
) -> None:
    model.train()
    assert prune(model, 0.8) is model
    assert model.training
    assert sparsity(model)["overall"] == pytest.approx(0.8, abs=1e-3)
    output = str(tmp_path / "pruned")
    done = CliRunner().invoke(app, ["prune", str(dense), "--sparsity", "0.8", "-o", output])
    assert done.exit_code == 0, done.output
    saved = AutoModelForSequenceClassification.from_pretrained(output).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, saved[name]), name


@pytest.mark.parametrize(
    ("share", "options", "reached"),
    [
        (0.7, {"method": "wanda", "rows": 16}, 0.7),
        (0.7, {"method": "obs", **FAST}, 0.7),
        (None, {"pattern": "2:4"}, 0.5),
        (None, {"pattern": "2:4", "method": "obs", "num_grads": 16}, 0.5),
        (0.7, {"pattern": "block4", "method": "obs", **FAST}, 0.7),
    ],
)
def test_methods_and_patterns(
    model: PreTrainedModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    share: float | None,
    options: dict[str, Any],
    reached: float,
) -> None:
    prune(model, share, train_dataset=rows, processing_class=tokenizer, **options)
    assert sparsity(model)["overall"] == pytest.approx(reached, abs=2e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "sparsity is not set"),
        ({"sparsity": 1.5}, "sparsity 1.5 must lie between 0 and 1"),
        ({"sparsity": 0.8, "num_grads": 0}, "num_grads 0 must be 1 or more"),
        ({"sparsity": 0.8, "method": "best"}, "method best is not one of magnitude, obs, wanda"),
        ({"sparsity": 0.8, "method": "wanda"}, "pass train_dataset and processing_class"),
    ],
)
def test_wrong_settings_are_named_as_arguments(
    model: PreTrainedModel, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        prune(model, **arguments)
    assert "--" not in str(raised.value)


def test_a_fisher_that_does_not_fit_into_memory_is_refused(
    model: PreTrainedModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"are available: set a smaller block size .* than 50"):
        prune(model, 0.7, method="obs", train_dataset=rows, processing_class=tokenizer, **FAST)
    assert sparsity(model)["overall"] == 0


def test_a_setting_that_does_not_exist(model: PreTrainedModel) -> None:
    with pytest.raises(UserError, match=r"prune has no setting damping; did you mean damp\?"):
        prune(model, 0.5, damping=1)


def test_a_lower_sparsity_than_the_models_is_refused(model: PreTrainedModel) -> None:
    prune(model, 0.8)
    with pytest.raises(UserError, match=r"80\.0% zeros already, more than sparsity=0\.5"):
        prune(model, 0.5)


def test_a_folder_instead_of_a_model() -> None:
    with pytest.raises(UserError, match="takes a transformers model, not a str; load it first"):
        prune("model", 0.8)  # type: ignore[arg-type]


def test_a_quantized_model(model: PreTrainedModel) -> None:
    Quantization(start=0.0).attach(model)
    with pytest.raises(UserError, match="quantized already"):
        prune(model, 0.8)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode_after_an_error(
    model: PreTrainedModel, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(evaluated: PreTrainedModel, *_: object) -> None:
        assert not evaluated.training
        raise MemoryError

    monkeypatch.setattr(methods, "prune", fail)
    model.train(training)
    with pytest.raises(MemoryError):
        prune(model, 0.5)
    assert model.training is training
