"""Movement pruning: weights that move towards zero are pruned first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsekit.modifiers.names import unused_name
from sparsekit.modifiers.pruning.gradual import GradualPruning

_SUFFIX = "_movement"


@dataclass(kw_only=True)
class MovementPruning(GradualPruning):
    """Prunes weights by how far training has moved them towards zero (Sanh et al., 2020).

    The score is the sum over steps of -weight * gradient; before the first gradient it is the
    magnitude. Steps with a gradient that is not finite, as fp16 has them, do not count. Scores are
    buffers of the model during training, so checkpoints contain them.
    """

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        self._owners = {}
        for name, weight in self._masked.weights.items():
            module, _, attribute = name.rpartition(".")
            owner = model.get_submodule(module)
            score = unused_name(owner, attribute + _SUFFIX)
            owner.register_buffer(score, torch.zeros_like(weight))
            self._owners[name] = owner, score

    def _score(self, name: str) -> Tensor:
        # Looked up each time: a model that is moved to another device has new buffers.
        owner, attribute = self._owners[name]
        return owner.get_buffer(attribute)

    @torch.no_grad()
    def before_step(self) -> None:
        gradients = {
            name: weight.grad
            for name, weight in self._masked.weights.items()
            if weight.grad is not None
        }
        if not gradients:
            return
        # One step of infinities would leave scores of NaN until training ends. Whether there are
        # any is decided on the device, which need not be waited for.
        checks = [gradient.isfinite().all() for gradient in gradients.values()]
        finite = torch.stack([check.to(checks[0].device) for check in checks]).all()
        for name, gradient in gradients.items():
            weight = self._masked.weights[name]
            moved = torch.where(finite.to(weight.device), weight * gradient, 0.0)
            self._score(name).sub_(moved)

    def scores(self) -> dict[str, Tensor]:
        found = {name: self._score(name) for name in self._owners}
        return found if any(bool(score.any()) for score in found.values()) else super().scores()

    def detach(self, model: nn.Module) -> None:
        for owner, attribute in self._owners.values():
            delattr(owner, attribute)
