"""The probability of dropout, within a window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sparsekit.modifiers.base import Modifier, overlap

# Dropout1d to Dropout3d and AlphaDropout derive from it as Dropout does.
_DROPOUT = nn.modules.dropout._DropoutNd


@dataclass(kw_only=True)
class SetDropout(Modifier):
    """Sets the probability of dropout in every such layer of the model; 0 drops nothing.

    Dropout reduces overfitting to labels. A distilled student comes closer to its teacher without
    it, because the teacher answers without dropout.

    p: the probability that a value is dropped, in [0, 1). Some architectures, as ModernBERT, have
        no layer of dropout in places where their own probability is 0.

    After its window and after training the model has its own probabilities again.
    """

    kind: ClassVar[str] = "optimizer"

    p: float

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if not 0 <= self.p < 1:
            found.append(f"p {self.p} lies outside of [0, 1); set p=0 for no dropout")
        return found

    def conflict(self, other: Modifier) -> str | None:
        if isinstance(other, SetDropout) and overlap(self, other):
            start = max(self.start, other.start)
            return f"both set dropout at epoch {start:g}; give them windows that do not overlap"
        return None

    def attach(self, model: nn.Module) -> None:
        self._model = model
        self._own: list[tuple[nn.Module, str, float]] | None = None

    def update(self, epoch: float) -> None:
        on = self.active(epoch)
        if on and self._own is None:
            # Found at the window's start: other modifiers may replace modules in `attach`.
            self._own = list(_probabilities(self._model))
            for module, name, _ in self._own:
                setattr(module, name, self.p)
        elif not on:
            self.stop()

    def stop(self) -> None:
        for module, name, own in self._own or []:
            setattr(module, name, own)
        self._own = None

    def detach(self, model: nn.Module) -> None:
        self.stop()

    @property
    def note(self) -> str:
        return f"p {self.p:g}"


def _probabilities(model: nn.Module) -> Iterator[tuple[nn.Module, str, float]]:
    """Each module with the name of an attribute that is a probability of dropout, and its value.

    Layers of transformers such as ModernBERT's keep that of their attention, which is a function,
    in an attribute such as `attention_dropout`.
    """
    for module in model.modules():
        if isinstance(module, _DROPOUT):
            yield module, "p", module.p
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float | int) and not isinstance(value, bool):
                yield module, name, value
