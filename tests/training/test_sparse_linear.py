"""Masked weights get no gradient, and sparse matmuls give the results of dense ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from compiler import needs_compiler
from tiny_training import Rows, load_student, trainer
from torch import Tensor, nn
from transformers import TrainerCallback

from sparsekit.errors import ConfigError
from sparsekit.modifiers.base import NO_MASKS, Masks, Modifier
from sparsekit.modifiers.quantization.fake_quantize import QuantLinear
from sparsekit.recipe.recipe import Recipe
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.cpu.sparse_linear import MaskedLinear, SparseLinears

pytestmark = needs_compiler

LAYERS = r"re:.*\.layer\.\d+\..*(query|key|value|dense)\.weight"
CONSTANT = {"_target_": "sparsekit.modifiers.pruning.constant.ConstantPruning", "params": LAYERS}
QUANTIZATION = {
    "_target_": "sparsekit.modifiers.quantization.qat.Quantization",
    "start": 1.0,
    "disable_observer_epoch": 1.5,
}
GRADUAL = {
    "start": 0.0,
    "end": 1.0,
    "init_sparsity": 0.9,
    "final_sparsity": 0.95,
    "update_frequency": 0.25,
    "params": LAYERS,
}


class Masked(Modifier):
    """Masks what a test says."""

    now = NO_MASKS

    def masks(self) -> Masks:
        return self.now


class Watch(TrainerCallback):
    """Records the largest gradient of a masked weight and the number of sparse layers per step."""

    def __init__(self) -> None:
        self.under_masks: list[float] = []
        self.sparse: list[int] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        weights = [w for n, w in now["model"].named_parameters() if ".layer." in n and w.ndim == 2]
        assert all(weight.grad is not None for weight in weights)
        self.under_masks.append(
            max(float((w.grad.abs() * (w == 0)).max()) for w in weights)  # type: ignore[union-attr]
        )
        layers = [m for m in now["model"].modules() if isinstance(m, MaskedLinear | QuantLinear)]
        self.sparse.append(sum(layer.pattern is not None for layer in layers))


def trained(
    folder: Path, student: str, rows: Rows, modifiers: dict[str, Any], **arguments: Any
) -> tuple[Any, Watch]:
    watch = Watch()
    recipe = Recipe.build({"num_epochs": 2, "modifiers": modifiers})
    made = trainer(folder, load_student(student), rows, recipe, [watch], **arguments)
    made.train()
    return made, watch


def test_sparse_and_dense_matmuls_train_alike(
    tmp_path: Path, student_folder: str, rows: Rows
) -> None:
    modifiers = {"pruning": CONSTANT, "quantization": QUANTIZATION}
    sparse, seen = trained(
        tmp_path, student_folder, rows, modifiers, sparse_products="on", learning_rate=1e-4
    )
    dense, plain = trained(
        tmp_path, student_folder, rows, modifiers, sparse_products="off", learning_rate=1e-4
    )
    layers = sum(".layer." in n and w.ndim == 2 for n, w in sparse.model.named_parameters())
    assert sparse.sparse_layers == layers and set(seen.sparse) == {layers}
    assert dense.sparse_layers == 0 and set(plain.sparse) == {0}
    assert max(seen.under_masks) == max(plain.under_masks) == 0
    for one, other in zip(sparse.state.log_history, dense.state.log_history, strict=True):
        for name in one.keys() & {"loss", "grad_norm"}:
            # Rounding to int8 amplifies float32 differences.
            tolerance = 1e-4 if one["epoch"] <= 1 else 2e-2
            assert one[name] == pytest.approx(other[name], rel=tolerance), (name, one["epoch"])


def test_layers_are_plain_linears_after_training(
    tmp_path: Path, student_folder: str, rows: Rows
) -> None:
    made, _ = trained(tmp_path, student_folder, rows, {"pruning": CONSTANT}, sparse_products="on")
    assert made.sparse_layers > 0
    linears = [m for m in made.model.modules() if isinstance(m, nn.Linear)]
    assert all(type(layer) is nn.Linear and "pattern" not in vars(layer) for layer in linears)
    for layer in linears:
        assert not layer.weight._backward_hooks


@pytest.mark.parametrize("kind", ["magnitude.MagnitudePruning", "movement.MovementPruning"])
def test_layers_with_changing_masks_use_dense_matmuls(
    tmp_path: Path, student_folder: str, rows: Rows, kind: str
) -> None:
    modifiers = {"pruning": {"_target_": f"sparsekit.modifiers.pruning.{kind}", **GRADUAL}}
    _, seen = trained(tmp_path, student_folder, rows, modifiers, sparse_products="on")
    assert set(seen.sparse[:8]) == {0}
    assert min(seen.sparse[8:]) > 0
    assert max(seen.under_masks) == 0


@pytest.mark.parametrize("kind", ["magnitude.MagnitudePruning", "movement.MovementPruning"])
def test_masks_that_last_for_some_steps_are_skipped_while_they_change(
    tmp_path: Path,
    student_folder: str,
    rows: Rows,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sparsekit.training.cpu.sparse_linear.MIN_STEPS", 2)
    pruning = {"_target_": f"sparsekit.modifiers.pruning.{kind}", **GRADUAL}
    sparse, seen = trained(
        tmp_path, student_folder, rows, {"pruning": pruning}, sparse_products="on"
    )
    dense, plain = trained(
        tmp_path, student_folder, rows, {"pruning": pruning}, sparse_products="off"
    )
    assert min(seen.sparse) > 0
    assert seen.under_masks == plain.under_masks == [0.0] * 16
    for one, other in zip(sparse.state.log_history, dense.state.log_history, strict=True):
        for name in one.keys() & {"loss", "grad_norm"}:
            assert one[name] == pytest.approx(other[name], rel=1e-3), (name, one["epoch"])


def test_layers_that_are_not_sparse_enough_use_dense_matmuls(
    tmp_path: Path, student_folder: str, rows: Rows
) -> None:
    half = GRADUAL | {"init_sparsity": 0.0, "final_sparsity": 0.5, "end": 0.25}
    recipe = Recipe.build(
        {
            "num_epochs": 2,
            "modifiers": {
                "pruning": {
                    "_target_": "sparsekit.modifiers.pruning.magnitude.MagnitudePruning",
                    **half,
                }
            },
        }
    )
    watch, student = Watch(), load_student(student_folder)
    for name, weight in student.model.named_parameters():
        if ".layer." in name:
            nn.init.normal_(weight, std=0.02)
    made = trainer(tmp_path, student, rows, recipe, [watch], sparse_products="on")
    made.train()
    assert made.sparse_layers == 0
    assert max(watch.under_masks[4:]) == 0


@pytest.mark.parametrize("products", ["on", "off"])
def test_weights_that_are_frozen_at_first(
    tmp_path: Path, student_folder: str, rows: Rows, products: str
) -> None:
    frozen = {
        "_target_": "sparsekit.modifiers.trainable.TrainableParams",
        "params": LAYERS,
        "trainable": False,
        "end": 1.0,
    }
    under_masks: list[float] = []

    class Late(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **now: Any) -> None:
            for name, weight in now["model"].named_parameters():
                if ".layer." in name and weight.ndim == 2 and weight.grad is not None:
                    under_masks.append(float((weight.grad.abs() * (weight == 0)).max()))

    modifiers = {"frozen": frozen, "pruning": CONSTANT}
    recipe = Recipe.build({"num_epochs": 2, "modifiers": modifiers})
    student = load_student(student_folder)
    layers = sum(".layer." in n and w.ndim == 2 for n, w in student.model.named_parameters())
    trainer(tmp_path, student, rows, recipe, [Late()], sparse_products=products).train()
    assert len(under_masks) == 8 * layers and max(under_masks) == 0


def test_sparse_layers_call_no_dense_matmul(
    tmp_path: Path, student_folder: str, rows: Rows
) -> None:
    counts = {}
    for products in ("on", "off"):
        calls = 0

        class Count(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                self.profile = torch.profiler.profile()
                self.profile.__enter__()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                nonlocal calls
                self.profile.__exit__(None, None, None)
                counted = {event.key: event.count for event in self.profile.key_averages()}
                calls = counted.get("aten::mm", 0) + counted.get("aten::addmm", 0)

        recipe = Recipe.build({"num_epochs": 1, "modifiers": {"pruning": CONSTANT}})
        student = load_student(student_folder)
        made = trainer(
            tmp_path, student, rows, recipe, [Count()], sparse_products=products, max_steps=1
        )
        made.train()
        counts[products] = calls
        layers = sum(".layer." in n and w.ndim == 2 for n, w in student.model.named_parameters())
    # Three matmuls a layer: for the output and for the gradients of input and weight.
    assert counts["off"] - counts["on"] == 3 * layers


def test_where_sparse_products_cannot_be_on(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    def arguments(**options: Any) -> SparseTrainingArguments:
        return SparseTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)

    with pytest.raises(ConfigError, match="'yes' is not one of auto, on, off"):
        arguments(sparse_products="yes")
    with pytest.raises(ConfigError, match=r"=on`: torch\.compile cannot call its kernel"):
        arguments(sparse_products="on", torch_compile=True, precision="fp32")
    with pytest.raises(ConfigError, match=r"=on`: .* `precision=fp32` .* `sparse_products=auto`"):
        arguments(sparse_products="on", precision="bf16")
    request.getfixturevalue("no_compiler")
    with pytest.raises(ConfigError, match="sparse_products=on`: there is no C compiler"):
        arguments(sparse_products="on", precision="fp32")


@pytest.mark.usefixtures("no_compiler")
def test_auto_without_a_compiler_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sparsekit.training.arguments.pays_here", lambda: True)
    arguments = SparseTrainingArguments(output_dir=str(tmp_path), use_cpu=True, precision="fp32")
    with caplog.at_level(logging.WARNING):
        assert "install gcc" in (arguments.sparse_products_problem() or "")
    assert "training on the CPU is slower" in caplog.text
    assert "sparse layers dense matmuls" in caplog.text


def test_masks_of_two_modifiers_on_one_weight_hold_together(student_folder: str) -> None:
    """Whichever changes or ends, and whether one lasts long enough for a sparse matmul."""
    recipe = Recipe.build({"num_epochs": 3, "modifiers": {}})
    first, second = Masked(), Masked()
    recipe.modifiers = {"first": first, "second": second}
    student = load_student(student_folder).model.train()
    name = "bert.encoder.layer.0.output.dense.weight"
    weight = student.get_parameter(name)
    linears = SparseLinears(student, recipe, sparse_products=True)
    rows = torch.arange(weight.numel()).reshape(weight.shape)
    one, other = rows % 5 == 0, rows % 3 == 0

    def gradients() -> Tensor:
        linears.follow(steps_per_epoch=100)
        student.zero_grad()
        ids = torch.arange(5, 13)[None]
        student(input_ids=ids, labels=torch.tensor([1])).loss.backward()
        return cast(Tensor, weight.grad) != 0

    first.now, second.now = Masks({name: one}), Masks({name: other})
    assert not gradients()[~(one & other)].any()
    assert linears.sparse_layers == 1
    second.now = Masks({name: other}, epochs=0.01)
    assert not gradients()[~(one & other)].any()
    second.now = NO_MASKS
    found = gradients()
    assert not found[~one].any()
    assert found[one & ~other].any()
    first.now, second.now = NO_MASKS, Masks({name: other})
    assert not gradients()[~other].any()
    second.now = NO_MASKS
    assert gradients()[~one & ~other].any()
    linears.release()
    assert type(student.get_submodule(name.removesuffix(".weight"))) is nn.Linear


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_a_layer_without_weights_stays_a_plain_linear(shape: tuple[int, int]) -> None:
    recipe, pruned = Recipe.build({"num_epochs": 3, "modifiers": {}}), Masked()
    recipe.modifiers = {"pruned": pruned}
    layer = nn.Linear(4, 4, bias=False)
    layer.weight = nn.Parameter(torch.empty(shape))
    pruned.now = Masks({"0.weight": torch.empty(shape, dtype=torch.bool)})
    linears = SparseLinears(nn.Sequential(layer), recipe, sparse_products=True)
    linears.follow(steps_per_epoch=100)
    assert type(layer) is nn.Linear and linears.sparse_layers == 0
    layer(torch.ones(2, shape[1])).sum().backward()
    assert layer.weight.grad is not None
