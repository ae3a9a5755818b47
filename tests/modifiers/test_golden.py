"""The same recipe means the same as in SparseML 1.8: its recorded outputs, repeated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from golden_names import ours
from project import GOLDEN
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from sparsekit.modifiers.optimizer import LearningRate, LearningRateFunction, SetLearningRate
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.recipe.recipe import Recipe
from sparsekit.tasks.distances import kl_divergence

NOT_SET = 0.123  # the learning rate that the recorded optimizers start with


class Untagged(yaml.SafeLoader):
    """Reads SparseML's `!Modifier` tags as plain mappings."""


Untagged.add_multi_constructor(
    "!", lambda loader, _, node: loader.construct_mapping(node, deep=True)
)


KINDS = {
    "!LearningRateFunctionModifier": LearningRateFunction,
    "!LearningRateModifier": LearningRate,
    "!SetLearningRateModifier": SetLearningRate,
}


@pytest.mark.parametrize("case", range(7))
def test_learning_rate_at_every_step(golden: dict[str, Any], case: int) -> None:
    recorded = golden["learning_rate"][case]
    kind = KINDS[recorded["recipe"].split("- ")[2].split("\n")[0].strip()]
    fields = yaml.load(recorded["recipe"], Untagged)["modifiers"][1]
    # PyYAML reads 1e-05 as text.
    fields |= {k: float(v) for k, v in fields.items() if k in ("init_lr", "final_lr")}
    modifier = kind(start=fields.pop("start_epoch"), end=fields.pop("end_epoch", None), **fields)
    assert modifier.problems(recorded["epochs"]) == []
    per_epoch = recorded["steps_per_epoch"]
    recipe = Recipe(recorded["epochs"], {"lr": modifier}, {})
    steps = [step / per_epoch for step in range(recorded["epochs"] * per_epoch)]
    rates = [recipe.lr(epoch, per_epoch) for epoch in steps]
    rates = [NOT_SET if rate is None else rate for rate in rates]
    assert rates == pytest.approx(recorded["lr"], abs=1e-9)


@pytest.mark.parametrize("case", range(3))
def test_distillation_loss(golden: dict[str, Any], case: int) -> None:
    recorded = golden["distillation"][case]
    student, teacher = torch.tensor(recorded["student"]), torch.tensor(recorded["teacher"])
    loss = kl_divergence(student, teacher, recorded["temperature"])
    assert loss.item() == pytest.approx(recorded["loss"], abs=1e-5)


@pytest.fixture
def qat(golden: dict[str, Any]) -> tuple[BertForSequenceClassification, Quantization]:
    config = golden["qat"]["config"]
    model = BertForSequenceClassification(
        BertConfig(**{k: v for k, v in config.items() if k not in ("model_type",)})
    )
    model.load_state_dict(load_file(GOLDEN / "tiny_bert.safetensors"))
    modifier = Quantization(
        start=0.0,
        disable_observer_epoch=1.0,
        submodules=["bert.embeddings", "bert.encoder", "bert.pooler", "classifier"],
        exclude_module_types=["LayerNorm", "Tanh"],
    )
    modifier.attach(model)
    return model.train(), modifier


@torch.no_grad()
def test_quantization_at_every_step(
    golden: dict[str, Any], qat: tuple[BertForSequenceClassification, Quantization]
) -> None:
    model, modifier = qat
    recorded = golden["qat"]
    inputs = [torch.tensor(ids) for ids in recorded["inputs"]]
    differences = []
    for step, expected in enumerate(recorded["train_logits_by_step"]):
        modifier.update(step / 4)
        logits = model(input_ids=inputs[step % 4]).logits
        differences.append((logits - torch.tensor(expected)).abs())
    # Without quantizers the smallest of the steps' largest differences is 2.6e-4. A last bit may
    # round an activation to the next integer, which moves a logit by about 1e-4.
    assert torch.stack(differences).median() < 1e-5
    assert torch.stack(differences).max() < 2.5e-4
    state = model.state_dict()
    parameters = recorded["scales_and_zero_points"]
    for name, expected in parameters.items():
        assert state[ours(name)].item() == pytest.approx(expected[0], abs=1e-5), name
    quantizers = {name.rpartition(".")[0] for name in state if name.endswith("quantizer.scale")}
    assert quantizers == {ours(name) for name in recorded["fake_quantize_modules"]}
    model.eval()
    modifier.update(2.0)
    expected = torch.tensor(recorded["final_eval_logits_inputs0"])
    found = model(input_ids=inputs[0]).logits
    assert (found - expected).abs().median() < 1e-5
    torch.testing.assert_close(found, expected, atol=2.5e-4, rtol=0)
