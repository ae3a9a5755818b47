"""Movement pruning: weights that move towards zero are pruned first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsekit.modifiers.pruning.gradual import GradualPruning

_SUFFIX = "_movement"


@dataclass(kw_only=True)
class MovementPruning(GradualPruning):
    """Prunes weights by how far training has moved them towards zero (Sanh et al., 2020).

    The score is the sum over steps of -weight * gradient; before the first gradient it is the
    magnitude. Scores are buffers of the model during training, so checkpoints contain them.
    """

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        self._owners = {}
        for name, weight in self._masked.weights.items():
            module, _, attribute = name.rpartition(".")
            self._owners[name] = model.get_submodule(module), attribute + _SUFFIX
            self._owners[name][0].register_buffer(attribute + _SUFFIX, torch.zeros_like(weight))

    def _score(self, name: str) -> Tensor:
        # Looked up each time: a model that is moved to another device has new buffers.
        owner, attribute = self._owners[name]
        return owner.get_buffer(attribute)

    @torch.no_grad()
    def before_step(self) -> None:
        for name, weight in self._masked.weights.items():
            if weight.grad is not None:
                self._score(name).addcmul_(weight, weight.grad, value=-1)

    def scores(self) -> dict[str, Tensor]:
        found = {name: self._score(name) for name in self._owners}
        return found if any(bool(score.any()) for score in found.values()) else super().scores()

    def detach(self, model: nn.Module) -> None:
        for owner, attribute in self._owners.values():
            delattr(owner, attribute)
