"""The modifiers of a recipe as one: in which order they act, and the teacher that they share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from sparsekit.modifiers.base import Modifier
from sparsekit.modifiers.distillation.layers import PerLayerDistillation
from sparsekit.modifiers.pruning.acdc import ACDCPruning
from sparsekit.modifiers.weight_averaging import WeightAveraging
from sparsekit.recipe.modifier_group import ModifierGroup


@dataclass(kw_only=True)
class Recorded(Modifier):
    """Writes down its name whenever it is called."""

    takes_teacher: ClassVar[Any] = "model"

    name: str
    calls: list[str] = field(default_factory=list)
    teachers: list[nn.Module] = field(default_factory=list)

    def use_teacher(self, teacher: nn.Module) -> None:
        self.teachers.append(teacher)

    def attach(self, model: nn.Module) -> None:
        self.calls.append(self.name)

    def update(self, epoch: float) -> None:
        self.calls.append(self.name)

    def loss(self, loss: Tensor, inputs: Any, outputs: Any) -> Tensor:
        self.calls.append(self.name)
        return loss

    def before_step(self) -> None:
        self.calls.append(self.name)

    def constrain(self) -> None:
        self.calls.append(self.name)

    @contextlib.contextmanager
    def as_saved(self) -> Iterator[None]:
        self.calls.append(self.name)
        yield

    def detach(self, model: nn.Module) -> None:
        self.calls.append(self.name)


@dataclass(kw_only=True)
class First(Recorded):
    order: ClassVar[int] = -1


@dataclass(kw_only=True)
class Last(Recorded):
    order: ClassVar[int] = 1


def recorded() -> tuple[ModifierGroup, list[str]]:
    calls: list[str] = []
    made = {
        "last": Last(name="last", calls=calls),
        "one": Recorded(name="one", calls=calls),
        "other": Recorded(name="other", calls=calls),
        "first": First(name="first", calls=calls),
    }
    return ModifierGroup(1.0, dict(made)), calls


@pytest.mark.parametrize(
    "call", ["attach", "update", "loss", "before_step", "constrain", "as_saved", "detach"]
)
def test_modifiers_act_in_their_order(call: str) -> None:
    group, calls = recorded()
    model = nn.Linear(2, 2)
    if call == "attach":
        group.attach(model)
    elif call == "update":
        group.update(0.5)
    elif call == "loss":
        group.loss(torch.zeros(()), {}, None)
    elif call == "as_saved":
        with group.as_saved():
            pass
    elif call == "detach":
        group.detach(model)
    else:
        getattr(group, call)()
    expected = ["first", "one", "other", "last"]
    assert calls[:4] == (expected[::-1] if call == "detach" else expected)


def test_the_average_is_of_weights_whose_zeros_are_restored() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8))
    pruning = ACDCPruning(
        end=2.0, update_frequency=1.0, compression_sparsity=0.5, params=["0.weight"]
    )
    averaging = WeightAveraging(start=0.0, update_frequency=0.1)
    group = ModifierGroup(3.0, {"averaging": averaging, "pruning": pruning})
    group.attach(model)
    group.update(1.0)
    weight = model.get_parameter("0.weight")
    with torch.no_grad():
        weight.add_(0.01)  # as an optimizer with momentum moves weights that are masked
    group.constrain()
    assert int((weight == 0).sum()) == 32
    averages = model.get_submodule("weight_averages")
    torch.testing.assert_close(averages.get_buffer("0/weight"), weight.detach(), rtol=0, atol=0)


def test_the_teacher_is_made_once() -> None:
    group, _ = recorded()
    group.use_teacher(lambda: nn.Linear(1, 1))
    made = [m.teachers for m in group.modifiers.values() if isinstance(m, Recorded)]
    assert all(len(each) == 1 and each[0] is made[0][0] for each in made)
    no_teacher = ModifierGroup(1.0, {"layers": PerLayerDistillation(gain=0.0)})
    no_teacher.use_teacher(lambda: pytest.fail("nobody needs it"))
