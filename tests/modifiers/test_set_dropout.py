"""The probability of dropout: in every layer of every family, within its window alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, Family, write_checkpoint
from tiny_training import Rows, load_student, trainer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from sparsekit.errors import ConfigError
from sparsekit.modifiers.dropout import SetDropout
from sparsekit.recipe.recipe import Recipe

# T5 and BART are refused as encoder-decoders; BigBird attends to random blocks in training.
ENCODERS = [each for each in FAMILIES if each.name not in ("T5", "BART", "BigBird (sparse)")]
NODE = {"_target_": "sparsekit.modifiers.dropout.SetDropout"}


def with_dropout(checkpoint: Path) -> PreTrainedModel:
    """The model in training mode, with dropout wherever its architecture has it."""
    config = AutoConfig.from_pretrained(checkpoint)
    for name, value in config.to_dict().items():
        if "dropout" in name and isinstance(value, float):
            setattr(config, name, 0.3)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, config=config
    )
    model.train()
    return model


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    ids = torch.randint(5, 50, (4, 16), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    result: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return result


@pytest.mark.parametrize("family", ENCODERS, ids=lambda family: family.name)
def test_no_layer_of_a_family_drops_anything_at_0(family: Family, tmp_path: Path) -> None:
    model = with_dropout(write_checkpoint(family, tmp_path / "checkpoint"))
    modifier = SetDropout(p=0.0, end=1.0)
    modifier.attach(model)
    noisy = logits(model)
    modifier.update(0.0)
    torch.testing.assert_close(logits(model), logits(model.eval()))
    modifier.update(1.0)
    torch.testing.assert_close(logits(model.train()), noisy)
    if any("dropout" in name and value == 0.3 for name, value in vars(model.config).items()):
        assert not torch.allclose(noisy, logits(model.eval()))


def seen(modules: dict[str, Any], epochs: list[float], modifier: SetDropout) -> list[list[float]]:
    """The probability of each attribute at each epoch."""
    found = []
    for epoch in epochs:
        modifier.update(epoch)
        found.append([getattr(module, name) for name, module in modules.items()])
    return found


def test_the_models_own_come_back_after_the_window_and_at_the_end() -> None:
    model: Any = nn.Sequential(nn.Dropout(0.1), nn.Linear(2, 2), nn.Dropout1d(0.3))
    linear = model[1]
    linear.attention_dropout, linear.dropout_used, linear.epsilon = 0.2, True, 0.1
    modifier = SetDropout(p=0.5, start=1.0, end=2.0)
    modifier.attach(model)
    modules = {"p": model[0], "attention_dropout": linear, "dropout_used": linear}
    within, own = [0.5, 0.5, True], [0.1, 0.2, True]
    assert seen(modules, [0.0, 1.0, 1.5, 2.0], modifier) == [own, within, within, own]
    assert linear.epsilon == 0.1
    modifier.update(1.0)
    assert model[2].p == 0.5
    modifier.detach(model)
    assert (model[0].p, linear.attention_dropout, model[2].p) == (0.1, 0.2, 0.3)


def test_a_run_without_dropout_learns_as_a_model_that_has_none(
    student_folder: str, tmp_path: Path, rows: Rows
) -> None:
    def trained(p: float, modifiers: dict[str, Any]) -> tuple[Tensor, set[float]]:
        student = load_student(student_folder)
        layers = [each for each in student.model.modules() if isinstance(each, nn.Dropout)]
        for layer in layers:
            layer.p = p
        recipe = Recipe.build({"num_epochs": 1, "modifiers": modifiers})
        trainer(tmp_path / "run", student, rows, recipe, seed=5).train()
        return student.model.get_parameter("classifier.weight"), {layer.p for layer in layers}

    expected, _ = trained(0.0, {})
    dropped, _ = trained(0.4, {})
    found, after = trained(0.4, {"dropout": {**NODE, "p": 0.0}})
    assert torch.equal(found, expected)
    assert not torch.equal(dropped, expected)
    assert after == {0.4}


def test_what_is_refused() -> None:
    assert SetDropout(p=0.0).problems(3) == []
    for p in (-0.1, 1.0, float("nan")):
        [problem] = SetDropout(p=p).problems(3)
        assert "lies outside of [0, 1)" in problem
    two = {"first": {**NODE, "p": 0.1, "end": 2.0}, "second": {**NODE, "p": 0.0, "start": 1.0}}
    [problem] = Recipe.build({"num_epochs": 3, "modifiers": two}).problems()
    assert "both set dropout at epoch 1" in problem
    with pytest.raises(ConfigError, match="p"):
        Recipe.build({"num_epochs": 3, "modifiers": {"dropout": NODE}})
