"""Each modifier by itself: its function, its invariant, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsekit.errors import ConfigError
from sparsekit.modifiers.base import Modifier, match_parameters
from sparsekit.modifiers.distillation.logits import Distillation
from sparsekit.modifiers.optimizer import LearningRateFunction, SetWeightDecay
from sparsekit.modifiers.pruning.constant import ConstantPruning
from sparsekit.modifiers.quantization.fake_quantize import (
    INT8,
    UINT8,
    FakeQuantizer,
    QuantEmbedding,
    QuantLinear,
)
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.modifiers.quantization.scales import quantization_parameters
from sparsekit.sparsity.masks import magnitude_mask
from sparsekit.tasks.distances import kl_divergence
from sparsekit.tasks.question_answering import QuestionAnswering
from sparsekit.tasks.text_classification import TextClassification


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(ids)).mean(1))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def prune_body(net: Net, share: float = 0.5) -> None:
    with torch.no_grad():
        for layer in (net.body[0], net.body[2]):
            layer.weight.mul_(magnitude_mask(layer.weight, share))


# Windows


@pytest.mark.parametrize(
    ("window", "problem"),
    [
        ({"start": -1}, "before epoch 0"),
        ({"start": 2, "end": 2}, "window is empty"),
        ({"start": 8}, "starts at epoch 8 but training ends at 5"),
        ({"start": 5}, "starts at epoch 5 but training ends at 5"),
        ({"start": 1, "end": 6}, "ends at epoch 6 but training ends at 5"),
    ],
)
def test_a_window_that_cannot_be(window: dict[str, float], problem: str) -> None:
    (found,) = Modifier(**window).problems(5)
    assert problem in found
    assert "set " in found


def test_a_window_is_half_open() -> None:
    modifier = Modifier(start=0.5, end=1.5)
    assert [modifier.active(e) for e in (0.49, 0.5, 1.49, 1.5)] == [False, True, True, False]
    assert Modifier().active(1000)


# Parameter patterns


def test_patterns(net: Net) -> None:
    assert set(match_parameters(net, "__ALL_PRUNABLE__")) == {
        "body.0.weight",
        "body.2.weight",
        "head.weight",
    }
    assert set(match_parameters(net, ["head.weight"])) == {"head.weight"}
    assert set(match_parameters(net, [r"re:body\.\d\.weight", "embed.weight"])) == {
        "body.0.weight",
        "body.1.weight",
        "body.2.weight",
        "embed.weight",
    }


def test_every_pattern_without_a_match_is_named(net: Net) -> None:
    with pytest.raises(ConfigError, match=r"'nose'.*\n.*'re:x'"):
        match_parameters(net, ["nose", "re:x", "head.weight"])


# Masks and pruning


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.8, 0.99, 1.0])
def test_magnitude_mask_counts_to_one_weight(sparsity: float) -> None:
    weight = torch.randn(37, 11)
    mask = magnitude_mask(weight, sparsity)
    assert int((~mask).sum()) == round(sparsity * 37 * 11)
    if 0 < sparsity < 1:
        assert weight[~mask].abs().max() <= weight[mask].abs().min()


def test_magnitude_mask_with_ties_is_exact() -> None:
    assert int((~magnitude_mask(torch.ones(4, 5), 0.35)).sum()) == 7


def test_magnitude_mask_refuses_a_share_beyond_one() -> None:
    with pytest.raises(ValueError, match=r"1\.2 lies outside"):
        magnitude_mask(torch.ones(2), 1.2)


def test_constant_pruning_keeps_the_zeros_and_only_them(net: Net) -> None:
    prune_body(net)
    before = {name: p.detach() == 0 for name, p in net.named_parameters()}
    modifier = ConstantPruning()
    modifier.attach(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    modifier.update(0.0)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randint(0, 20, (4, 6))).square().sum().backward()
        optimizer.step()
        modifier.constrain()
    for name in ("body.0.weight", "body.2.weight"):
        assert torch.equal(net.get_parameter(name) == 0, before[name])
    assert not (net.head.weight == 0).any()
    assert modifier.masks().violations(dict(net.named_parameters())) == []


def test_a_revived_weight_is_found(net: Net) -> None:
    prune_body(net)
    modifier = ConstantPruning()
    modifier.attach(net)
    modifier.update(0.0)
    with torch.no_grad():
        net.body[0].weight[net.body[0].weight == 0] = 1.0
    (found,) = modifier.masks().violations(dict(net.named_parameters()))
    assert "body.0.weight: 32 weights" in found


def test_constant_pruning_outside_its_window_does_nothing(net: Net) -> None:
    prune_body(net)
    modifier = ConstantPruning(end=1.0)
    modifier.attach(net)
    modifier.update(1.0)
    with torch.no_grad():
        net.body[0].weight.fill_(1.0)
    modifier.constrain()
    assert (net.body[0].weight == 1).all()
    assert modifier.masks().violations(dict(net.named_parameters())) == []


def test_a_later_window_keeps_the_zeros_of_its_start(net: Net) -> None:
    modifier = ConstantPruning(start=1.0)
    modifier.attach(net)
    modifier.update(0.5)
    prune_body(net)
    modifier.update(1.0)
    before = {name: p.detach() == 0 for name, p in net.named_parameters()}
    with torch.no_grad():
        net.body[0].weight.add_(1.0)
    modifier.constrain()
    assert torch.equal(net.body[0].weight == 0, before["body.0.weight"])
    dense = ConstantPruning(start=1.0, params="head.weight")
    dense.attach(net)
    with pytest.raises(ConfigError, match=r"0 of 16 weights are zero"):
        dense.update(1.0)


def test_constant_pruning_refuses_a_dense_model(net: Net) -> None:
    with pytest.raises(ConfigError, match=r"0 of 144 weights are zero.*student\.sparsity"):
        ConstantPruning().attach(net)


# Distillation


def test_kl_is_zero_for_equal_logits_and_grows() -> None:
    logits = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, -0.5]])
    assert kl_divergence(logits, logits, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert kl_divergence(logits, -logits, 2.0) > 0.1


@pytest.mark.parametrize("hardness", [0.0, 0.3, 1.0])
def test_hardness_mixes_the_losses(hardness: float) -> None:
    modifier = Distillation(hardness=hardness, temperature=3.0)
    modifier.use_task(TextClassification())
    modifier.update(0.0)
    student, teacher, task = torch.randn(4, 2), torch.randn(4, 2), torch.tensor(0.7)
    mixed = modifier.loss(task, {"teacher_logits": teacher}, {"logits": student})
    kd = kl_divergence(student, teacher, 3.0)
    assert mixed.item() == pytest.approx(((1 - hardness) * task + hardness * kd).item(), abs=1e-6)


@pytest.mark.parametrize("keys", [None, ["start_logits"], ["end_logits"]])
def test_the_chosen_outputs_alone_are_distilled(keys: list[str] | None) -> None:
    task = QuestionAnswering()
    modifier = Distillation(hardness=1.0, distill_output_keys=keys)
    modifier.use_task(task)
    modifier.update(0.0)
    outputs = {name: torch.randn(2, 5) for name in task.outputs}
    batch = {f"teacher_{name}": torch.randn(2, 5) for name in task.outputs}
    batch["attention_mask"] = torch.ones(2, 5)
    expected = sum(
        float(kl_divergence(outputs[name], batch[f"teacher_{name}"], 2.0))
        for name in keys or ("start_logits", "end_logits")
    )
    assert float(modifier.loss(torch.tensor(0.7), batch, outputs)) == pytest.approx(expected)


def test_distillation_outside_its_window_is_the_task_loss() -> None:
    modifier = Distillation(hardness=1.0, start=1.0)
    modifier.update(0.0)
    assert modifier.loss(torch.tensor(0.5), {}, {}).item() == 0.5


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"hardness": 1.5}, r"hardness 1.5 lies outside of [0, 1]"),
        ({"hardness": 1, "temperature": 0}, "temperature 0 must be more than 0"),
        ({"hardness": 1, "distill_output_keys": []}, "names no output"),
    ],
)
def test_distillation_fields(fields: dict[str, float], problem: str) -> None:
    (found,) = Distillation(**fields).problems(3)
    assert problem in found


def test_the_task_says_which_outputs_can_be_distilled() -> None:
    task = TextClassification()
    (found,) = Distillation(hardness=1, distill_output_keys=["start_logits"]).task_problems(task)
    assert "['start_logits'] must be chosen from logits, the outputs of text class" in found
    assert not Distillation(hardness=1, distill_output_keys=["logits"]).task_problems(task)


# Learning rate and weight decay


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"init_lr": -1, "final_lr": 0}, "init_lr -1 must be 0 or more"),
        ({"init_lr": 1, "final_lr": 0, "lr_func": "step"}, "'step' is not one of linear"),
        ({"init_lr": 1, "final_lr": 0, "cycle_epochs": 0}, "cycle_epochs 0 must be more than 0"),
    ],
)
def test_learning_rate_fields(fields: dict[str, float], problem: str) -> None:
    (found,) = LearningRateFunction(**fields).problems(3)
    assert problem in found


def test_weight_decay_must_not_be_negative() -> None:
    assert SetWeightDecay(weight_decay=-0.1).problems(3) == ["weight_decay -0.1 must be 0 or more"]


# Quantization


def test_zero_is_exact_in_every_range() -> None:
    low, high = torch.tensor([-1.0, 0.5, -3.0, 0.0]), torch.tensor([2.0, 4.0, -1.0, 0.0])
    for limits, symmetric in ((INT8, True), (UINT8, False)):
        scale, zero_point = quantization_parameters(low, high, limits, symmetric)
        assert (scale > 0).all()
        assert ((zero_point >= limits[0]) & (zero_point <= limits[1])).all()
        assert torch.equal(
            torch.fake_quantize_per_channel_affine(
                torch.zeros(4, 1), scale, zero_point, 0, *limits
            ),
            torch.zeros(4, 1),
        )


def test_an_observer_averages_and_stops() -> None:
    quantizer = FakeQuantizer(UINT8, symmetric=False).train()
    quantizer.observing = True
    quantizer(torch.tensor([-1.0, 1.0]))
    quantizer(torch.tensor([-2.0, 3.0]))
    assert quantizer.min_val.item() == pytest.approx(-1.01)
    assert quantizer.max_val.item() == pytest.approx(1.02)
    quantizer.observing = False
    quantizer(torch.tensor([-9.0, 9.0]))
    quantizer.observing = True
    quantizer.eval()
    quantizer(torch.tensor([-9.0, 9.0]))
    assert quantizer.max_val.item() == pytest.approx(1.02)


def test_per_channel_weights_have_a_scale_each(net: Net) -> None:
    modifier = Quantization(per_channel_weights=True)
    modifier.attach(net.train())
    modifier.update(0.0)
    net(torch.randint(0, 20, (4, 6)))
    quantizer = net.body[0].weight_quantizer
    expected = net.body[0].weight.detach().abs().amax(1) / 127.5
    torch.testing.assert_close(quantizer.scale, expected)


def test_attach_keeps_parameters_and_their_names(net: Net) -> None:
    before = dict(net.named_parameters())
    modifier = Quantization(submodules=["embed", "body", "head"])
    modifier.attach(net)
    assert modifier.modules == ["embed", "body.0", "body.2", "head"]
    after = dict(net.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[name] is before[name] for name in before)
    assert isinstance(net.embed, QuantEmbedding)
    assert isinstance(net.head, QuantLinear)


def test_switched_off_it_changes_nothing(net: Net) -> None:
    ids = torch.randint(0, 20, (4, 6))
    before = net(ids)
    modifier = Quantization(start=1.0)
    modifier.attach(net)
    modifier.update(0.0)
    torch.testing.assert_close(net(ids), before, rtol=0, atol=0)
    keys = list(net.state_dict())
    modifier.update(1.0)
    assert not torch.equal(net(ids), before)
    assert list(net.state_dict()) == keys


def test_an_end_with_training_leaves_quantization_on(net: Net) -> None:
    """The model is evaluated after the last step: in float32 it would not be what is exported."""
    modifier = Quantization(start=1.0, end=3.0)
    assert modifier.problems(3.0) == []
    modifier.attach(net)
    modifier.update(3.0)
    assert all(m.enabled for m in net.modules() if isinstance(m, FakeQuantizer))


def test_an_end_before_that_of_training_is_refused() -> None:
    (problem,) = Quantization(start=1.0, end=2.0).problems(3.0)
    assert "ends at epoch 2, before training does at 3" in problem and "set end: null" in problem


def test_what_is_excluded_stays_plain(net: Net) -> None:
    Quantization(exclude_module_types=["Sequential"], quantize_embeddings=False).attach(net)
    assert type(net.embed) is nn.Embedding
    assert type(net.body[0]) is nn.Linear
    assert isinstance(net.head, QuantLinear)


def test_output_quantizers_only_when_asked(net: Net) -> None:
    Quantization(quantize_linear_activations=True).attach(net)
    assert "head.output_quantizer.scale" in net.state_dict()


def test_gradients_pass_straight_through_inside_of_the_range(net: Net) -> None:
    modifier = Quantization(submodules=["head"])
    modifier.attach(net.train())
    modifier.update(0.0)
    values = torch.randn(16, 8, requires_grad=True)
    net.head(values).sum().backward()
    quantized_weight = net.head.weight_quantizer(net.head.weight)
    torch.testing.assert_close(values.grad, quantized_weight.sum(0).expand(16, 8))


def test_submodules_that_are_not_there_are_named(net: Net) -> None:
    with pytest.raises(ConfigError, match=r"'bert'; name some of embed, body, head"):
        Quantization(submodules=["bert", "head"]).attach(net)


def test_observers_that_would_never_run_are_refused() -> None:
    (found,) = Quantization(start=2.0, disable_observer_epoch=2.0).problems(3)
    assert "no range would ever be observed" in found
