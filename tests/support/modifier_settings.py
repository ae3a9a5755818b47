"""Every modifier in the ways it is used, with what must hold after training: one list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsekit.shape.blocks import blocks

State = Mapping[str, Tensor]
Invariant = Callable[[State, PreTrainedModel], None]
# The Linear weights of the encoder.
LAYERS = r"re:.*\.layer\.\d+\..*(query|key|value|dense)\.weight"
EPOCHS = 3


@dataclass(frozen=True)
class Setting:
    """A modifier's fields, and its invariant: what holds between the state before and the model."""

    name: str
    target: str
    fields: dict[str, Any] = field(default_factory=dict)
    invariant: Invariant = lambda before, model: None
    live_teacher: bool = False
    dense_student: bool = False

    @property
    def plans_zeros(self) -> bool:
        """Whether the recipe tells how many zeros the trained weights have at least."""
        kept = self.fields.get("leave_enabled", True) and (self.name != "constant, for a while")
        return self.target.startswith("pruning.") and "structured" not in self.name and kept


def pruned(model: PreTrainedModel) -> dict[str, Tensor]:
    return {
        name: weight.detach() == 0
        for name, weight in model.named_parameters()
        if ".layer." in name and weight.ndim == 2
    }


def same_zeros(before: State, model: PreTrainedModel) -> None:
    for name, zeros in pruned(model).items():
        if (before[name] == 0).any():
            assert torch.equal(zeros, before[name] == 0), name


def each_layer(share: float) -> Invariant:
    def check(before: State, model: PreTrainedModel) -> None:
        for name, zeros in pruned(model).items():
            assert int(zeros.sum()) == round(share * zeros.numel()), name

    return check


def over_all_layers(share: float) -> Invariant:
    def check(before: State, model: PreTrainedModel) -> None:
        zeros = torch.cat([mask.flatten() for mask in pruned(model).values()])
        assert int(zeros.sum()) == round(share * zeros.numel())

    return check


def whole_blocks(rows: int, columns: int) -> Invariant:
    def check(before: State, model: PreTrainedModel) -> None:
        for name, zeros in pruned(model).items():
            shape = (zeros.shape[0] // rows, rows, zeros.shape[1] // columns, columns)
            some = zeros.reshape(shape).any(dim=3).any(dim=1)
            whole = zeros.reshape(shape).all(dim=3).all(dim=1)
            assert torch.equal(some, whole), name
            assert int(whole.sum()) == round(0.75 * whole.numel()), name

    return check


def two_of_four(before: State, model: PreTrainedModel) -> None:
    for name, zeros in pruned(model).items():
        assert (zeros.reshape(-1, 4).sum(dim=1) == 2).all(), name


def shape(heads: list[int], neurons: list[int]) -> Invariant:
    """The heads and neurons of each layer."""

    def check(before: State, model: PreTrainedModel) -> None:
        assert [block.heads for block in blocks(model)] == heads
        assert [block.neurons for block in blocks(model)] == neurons
        assert "structured_pruning_state" not in model.state_dict()

    return check


def shape_of_all(heads: int, neurons: range) -> Invariant:
    """The heads and neurons of all layers together; widths are rounded up."""

    def check(before: State, model: PreTrainedModel) -> None:
        assert sum(block.heads for block in blocks(model)) == heads
        assert sum(block.neurons for block in blocks(model)) in neurons

    return check


def remaining_zeros(share: float) -> Invariant:
    def check(before: State, model: PreTrainedModel) -> None:
        shape(heads=[1, 1], neurons=[32, 32])(before, model)
        each_layer(share)(before, model)

    return check


def frozen(part: str) -> Invariant:
    def check(before: State, model: PreTrainedModel) -> None:
        for name, weight in model.named_parameters():
            if part in name:
                assert torch.equal(weight, before[name]), name
        assert not torch.equal(
            model.get_parameter("classifier.weight"), before["classifier.weight"]
        )

    return check


def moved(part: str) -> Invariant:
    def check(before: State, model: PreTrainedModel) -> None:
        names = [name for name, _ in model.named_parameters() if part in name]
        assert any(not torch.equal(model.get_parameter(n), before[n]) for n in names)

    return check


def finite_ranges(before: State, model: PreTrainedModel) -> None:
    scales = {n: value for n, value in model.state_dict().items() if n.endswith("quantizer.scale")}
    assert scales and all((value > 0).all() and (value < 100).all() for value in scales.values())


def attention_ranges(before: State, model: PreTrainedModel) -> None:
    state = model.state_dict()
    names = [f"bert.encoder.layer.{i}.attention.self" for i in range(2)]
    for name in names:
        # Probabilities lie in [0, 1], and every other operand on both sides of 0.
        assert 0 < state[f"{name}.probabilities_quantizer.scale"] <= 1 / 255
        assert state[f"{name}.probabilities_quantizer.zero_point"] == 0
        assert 0 < state[f"{name}.query_quantizer.zero_point"] < 255
        assert state[f"{name}.key_quantizer.zero_point"] == 0


def no_training_aids(before: State, model: PreTrainedModel) -> None:
    assert not [n for n in model.state_dict() if "projection" in n or n.endswith("_movement")]


def no_averages(before: State, model: PreTrainedModel) -> None:
    assert not [name for name in model.state_dict() if name.startswith("weight_averages")]


def both(*checks: Invariant) -> Invariant:
    def check(before: State, model: PreTrainedModel) -> None:
        for each in checks:
            each(before, model)

    return check


# A measurement of the Fisher information costs many steps.
_FEW = {"num_grads": 16, "update_frequency": 1.0}


def _structured(name: str, invariant: Invariant, **fields: Any) -> Setting:
    """Half of the heads and neurons, from 0.25 to 2 of 3 epochs."""
    window = {"start": 0.25, "end": 2.0, "update_frequency": 0.5}
    half = {"heads": 0.5, "neurons": 0.5, "method": "magnitude"}
    target = "pruning.structured.StructuredPruning"
    return Setting(name, target, {**window, **half, **fields}, invariant, dense_student=True)


def _gradual(kind: str, invariant: Invariant, name: str = "", **fields: Any) -> Setting:
    given = {"start": 0.5, "end": 2.5, "params": [LAYERS], "init_sparsity": 0.0}
    given |= {"final_sparsity": 0.75, "update_frequency": 0.25} | fields
    return Setting(name or kind.rpartition(".")[2], kind, given, invariant, dense_student=True)


_LR = "optimizer.LearningRate"
_MAGNITUDE = "pruning.magnitude.MagnitudePruning"
SETTINGS = [
    Setting("linear", "optimizer.LearningRateFunction", {"init_lr": 0.01, "final_lr": 0.0}),
    Setting(
        "cyclic",
        "optimizer.LearningRateFunction",
        {"init_lr": 0.01, "final_lr": 0.0, "lr_func": "cyclic_linear", "cycle_epochs": 0.75},
    ),
    Setting("set rate", "optimizer.SetLearningRate", {"learning_rate": 0.01}),
    Setting("rate range", "rate_range.LearningRateRange", {"lowest": 1e-4, "highest": 0.01}),
    Setting(
        "steps",
        _LR,
        {"lr_class": "StepLR", "init_lr": 0.01, "lr_kwargs": {"step_size": 0.5, "gamma": 0.5}},
    ),
    Setting(
        "restarts",
        _LR,
        {
            "lr_class": "CosineAnnealingWarmRestarts",
            "init_lr": 0.01,
            "lr_kwargs": {"lr_min": 0.001, "cycle_epochs": 0.5, "cycle_mult": 2},
        },
    ),
    Setting("weight decay", "optimizer.SetWeightDecay", {"weight_decay": 0.1}),
    Setting(
        "weight decay, for a while",
        "optimizer.SetWeightDecay",
        {"weight_decay": 0.1, "start": 1.25, "end": 2.25},
    ),
    Setting(
        "frozen",
        "trainable.TrainableParams",
        {"params": ["re:bert.embeddings.*"], "trainable": False},
        frozen("bert.embeddings"),
    ),
    Setting(
        "frozen for a while",
        "trainable.TrainableParams",
        {"params": "re:bert.*", "trainable": False, "end": 1.25},
        moved("bert.encoder"),
    ),
    Setting("dropout", "dropout.SetDropout", {"p": 0.3, "start": 1.25, "end": 2.25}),
    Setting(
        "averaging",
        "weight_averaging.WeightAveraging",
        {"start": 1.0, "update_frequency": 0.3},
        both(moved("query"), no_averages),
    ),
    Setting("constant", "pruning.constant.ConstantPruning", {}, same_zeros),
    Setting(
        "constant, for a while",
        "pruning.constant.ConstantPruning",
        {"params": [LAYERS], "end": 2.0},
    ),
    _gradual(_MAGNITUDE, each_layer(0.75)),
    _gradual(_MAGNITUDE, each_layer(0.75), "at every step", update_frequency=-1),
    _gradual(_MAGNITUDE, each_layer(0.75), "let go", end=3.0, leave_enabled=False),
    _gradual(_MAGNITUDE, moved("query"), "let go before", end=2.0, leave_enabled=False),
    _gradual(_MAGNITUDE, whole_blocks(1, 4), "block4", mask_type="block4"),
    _gradual(_MAGNITUDE, whole_blocks(4, 2), "4 x 2 blocks", mask_type=[4, 2]),
    _gradual(_MAGNITUDE, two_of_four, "2:4", mask_type="2:4", final_sparsity=0.5),
    _structured("structured", shape(heads=[1, 1], neurons=[32, 32])),
    _structured(
        "structured, all layers together",
        shape_of_all(heads=2, neurons=range(64, 73, 8)),
        method="first_order",
        global_ranking=True,
        rows=16,
    ),
    _structured(
        "structured and zeros", remaining_zeros(0.75), method="obs", rows=16, sparsity=0.75
    ),
    _gradual("pruning.magnitude.GlobalMagnitudePruning", over_all_layers(0.75)),
    _gradual("pruning.obs.OBSPruning", over_all_layers(0.75), **_FEW),
    _gradual(
        "pruning.obs.OBSPruning",
        both(each_layer(0.75), whole_blocks(1, 4)),
        "oBERT block4",
        **_FEW | {"mask_type": "block4", "fisher_block_size": 48, "num_recomputations": 2},
        global_sparsity=False,
        grad_sampler_kwargs={"batch_size": 2},
    ),
    _gradual("pruning.mfac.MFACPruning", each_layer(0.75), **_FEW),
    _gradual("pruning.movement.MovementPruning", both(each_layer(0.75), no_training_aids)),
    Setting(
        "acdc",
        "pruning.acdc.ACDCPruning",
        {"end": 2.0, "update_frequency": 0.5, "compression_sparsity": 0.75, "params": [LAYERS]},
        over_all_layers(0.75),
        dense_student=True,
    ),
    Setting("distillation", "distillation.logits.Distillation", {"hardness": 0.5}),
    Setting(
        "layers",
        "distillation.layers.PerLayerDistillation",
        {"student_layer_names": ["bert.encoder.layer.0", "bert.encoder.layer.1"]},
        no_training_aids,
        live_teacher=True,
    ),
    Setting(
        "hidden states of every layer",
        "distillation.layers.PerLayerDistillation",
        {"student_layer_names": ["__LAYERS__"], "gain": 0.1, "end": 2.0},
        no_training_aids,
        live_teacher=True,
    ),
    Setting(
        "every Linear, as it is",
        "distillation.layers.PerLayerDistillation",
        {"project_features": False, "normalize": False, "gain": 0.1, "end": 2.0},
        no_training_aids,
        live_teacher=True,
    ),
    Setting(
        "attention of the last layer",
        "distillation.attention.AttentionDistillation",
        {"gain": 0.5},
        live_teacher=True,
    ),
    Setting(
        "attention of every layer",
        "distillation.attention.AttentionDistillation",
        {"layers": "all", "relation_heads": 1, "end": 2.0},
        live_teacher=True,
    ),
    Setting(
        "quantization",
        "quantization.qat.Quantization",
        {"start": 1.0, "disable_observer_epoch": 2.5},
        finite_ranges,
    ),
    Setting(
        "quantization of attention",
        "quantization.qat.Quantization",
        {"start": 1.0, "disable_observer_epoch": 2.5, "quantize_attention": True},
        both(finite_ranges, attention_ranges),
    ),
    Setting(
        "quantization of channels and outputs",
        "quantization.qat.Quantization",
        {
            "start": 1.0,
            "submodules": ["bert.encoder", "classifier"],
            "per_channel_weights": True,
            "quantize_linear_activations": True,
        },
        finite_ranges,
    ),
    Setting(
        "quantization by other observers",
        "quantization.qat.Quantization",
        {
            "start": 1.0,
            "disable_observer_epoch": 2.5,
            "per_channel_weights": True,
            "weight_observer": "mse",
            "activation_observer": "percentile",
        },
        finite_ranges,
    ),
    Setting(
        "quantization by scheme",
        "quantization.qat.Quantization",
        {"start": 1.0, "scheme": "tensorrt", "scheme_overrides": {"classifier": "default"}},
        finite_ranges,
    ),
]
every_modifier = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
