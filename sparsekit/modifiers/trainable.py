"""Which parameters are trained, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sparsekit.modifiers.base import Modifier, match_parameters


@dataclass(kw_only=True)
class TrainableParams(Modifier):
    """Freezes parameters, or trains them, within its window; afterwards they are as before.

    params: which parameters, see `match_parameters`.
    trainable: false freezes them. A frozen parameter keeps its value to the last bit: neither
        weight decay nor momentum changes it.
    """

    kind: ClassVar[str] = "optimizer"
    freezes: ClassVar[bool] = True

    params: str | list[str]
    trainable: bool

    def attach(self, model: nn.Module) -> None:
        self._parameters = list(match_parameters(model, self.params).values())
        self._before = [parameter.requires_grad for parameter in self._parameters]

    def update(self, epoch: float) -> None:
        on = self.active(epoch)
        for parameter, before in zip(self._parameters, self._before, strict=True):
            parameter.requires_grad_(self.trainable if on else before)
            if not parameter.requires_grad:
                # Optimizers skip parameters without a gradient.
                parameter.grad = None
