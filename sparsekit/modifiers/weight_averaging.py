"""Weight averaging: the model ends with the mean of its weights over the last epochs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsekit.modifiers.base import Modifier
from sparsekit.modifiers.epochs import whole_periods

AVERAGES = "weight_averages"


def add_to_mean(means: list[Tensor], values: list[Tensor], count: int) -> None:
    """Turn each mean of `count` values into that of `count` + 1, in place; all are float32."""
    torch._foreach_lerp_(means, values, 1 / (count + 1))


@dataclass(kw_only=True)
class WeightAveraging(Modifier):
    """Replaces the weights at the end of training by their mean over the window.

    Stochastic weight averaging (Izmailov et al., 2018). Evaluations in the window, and so the
    choice of the best checkpoint, are of the mean too; training itself goes on with the weights as
    they are. Weights that are zero when the mean is taken stay zero, so that no mask is broken.

    update_frequency: epochs between two of the weights that are averaged.

    Quantizers keep the ranges that they observed. The means are part of a checkpoint.
    """

    kind: ClassVar[str] = "optimizer"
    # The mean is of weights whose zeros are restored, and replaces them before any is removed.
    order: ClassVar[int] = 1
    counted_back_by: ClassVar[str | None] = "recipe.averaged_epochs"

    update_frequency: float = 0.05

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if not self.update_frequency > 0:
            found.append(f"update_frequency {self.update_frequency:g} must be more than 0 epochs")
        if self.end is not None and self.start < self.end < num_epochs:
            found.append(
                f"ends at epoch {self.end:g}, before training does at {num_epochs:g}, so that what "
                "is trained later would be lost; set end: null"
            )
        return found

    def conflict(self, other: Modifier) -> str | None:
        if isinstance(other, WeightAveraging):
            return "both average the weights; remove one of them"
        return None

    def attach(self, model: nn.Module) -> None:
        self._model = model
        self._epoch = 0.0
        means = _Means()
        for name, weight in model.named_parameters():
            if weight.is_floating_point():
                # The name of a buffer cannot contain the dots of a parameter's name.
                zeros = torch.zeros_like(weight, dtype=torch.float32, requires_grad=False)
                means.register_buffer(name.replace(".", "/"), zeros)
        model.add_module(AVERAGES, means)

    def update(self, epoch: float) -> None:
        self._epoch = epoch

    @torch.no_grad()
    def constrain(self) -> None:
        if self._epoch < self.start:
            return
        means = self._means
        due = whole_periods(self._epoch - self.start, self.update_frequency)
        if due < int(means.next_due):
            return
        pairs = list(self._pairs())
        values = [weight.float() for weight, _ in pairs]
        add_to_mean([mean for _, mean in pairs], values, int(means.count))
        means.count += 1
        means.next_due.fill_(due + 1)

    @contextlib.contextmanager
    def as_saved(self) -> Iterator[None]:
        if not self._averaged:
            yield
            return
        kept = [(weight, weight.detach().clone()) for weight, _ in self._pairs()]
        self._replace_weights()
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in kept:
                    weight.copy_(value)

    def detach(self, model: nn.Module) -> None:
        if self._averaged:
            self._replace_weights()
        del model._modules[AVERAGES]

    @property
    def _averaged(self) -> bool:
        """Whether there is a mean, and training is not over."""
        return AVERAGES in self._model._modules and int(self._means.count) > 0

    @property
    def _means(self) -> _Means:
        means = self._model.get_submodule(AVERAGES)
        assert isinstance(means, _Means)
        return means

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each weight with its mean, looked up anew: a model that moves has new buffers."""
        weights = dict(self._model.named_parameters())
        for name, mean in self._means.named_buffers():
            if (weight := weights.get(name.replace("/", "."))) is not None:
                yield weight, mean

    @torch.no_grad()
    def _replace_weights(self) -> None:
        for weight, mean in self._pairs():
            weight.copy_(mean * (weight != 0))


class _Means(nn.Module):
    """The means by name, how many weights they are of, and when the next are due.

    next_due: in units of `update_frequency` since the window's start.
    """

    count: Tensor
    next_due: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("next_due", torch.zeros((), dtype=torch.int64))
