"""Optimal Brain Surgeon: prunes what the loss needs least, and adjusts the remaining weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.errors import ConfigError
from sparsekit.modifiers.processes import share_first
from sparsekit.modifiers.pruning.gradual import GradualPruning
from sparsekit.modifiers.quantization.fake_quantize import without_unseen_ranges
from sparsekit.sparsity.fisher import Fisher
from sparsekit.sparsity.masks import Blocks, mean_share, parse_mask_type
from sparsekit.sparsity.memory import RANKING, check_memory
from sparsekit.sparsity.packed_fisher import block_bytes, block_fisher
from sparsekit.sparsity.surgeon import Draw, measure, repair, saliencies
from sparsekit.tasks.base import Task

_MASK_TYPES = ("unstructured", "block4")


@dataclass(kw_only=True)
class SurgeonPruning(GradualPruning):
    """Base class of oBERT and M-FAC.

    Before each new mask the Fisher information is estimated from gradients of the task's loss on
    training rows, without dropout. The trainer provides the rows, see `use_rows`.

    damp: added to the diagonal of the Fisher matrix.
    fisher_block_size: the size of its diagonal blocks, in consecutive weights.
    global_sparsity: rank weights over all layers together instead of in each layer.
    """

    damp: float
    fisher_block_size: int
    global_sparsity: bool

    @property
    def ranks_globally(self) -> bool:
        return self.global_sparsity

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if self.mask_type not in _MASK_TYPES:
            found.append(
                f"mask_type {self.mask_type!r} is not one of {', '.join(_MASK_TYPES)}, which the "
                "Fisher information can rank; prune by magnitude (recipe.obs_gradients=0 of "
                "recipe=from_dense)"
            )
        elif self.fisher_block_size < 1 or self.fisher_block_size % self._group:
            found.append(
                f"fisher_block_size {self.fisher_block_size} must be a positive multiple of "
                f"{self._group} for mask_type {self.mask_type}; set "
                f"{self._group * max(1, self.fisher_block_size // self._group)}"
            )
        if not self.damp > 0:
            found.append(f"damp {self.damp:g} must be above 0; set 1e-7")
        if self.update_frequency == -1:
            found.append(
                "update_frequency -1 would estimate the Fisher information before every step; set "
                "epochs, such as 1.0"
            )
        return found

    @property
    def _group(self) -> int:
        pattern = parse_mask_type(self.mask_type)
        return pattern.columns if isinstance(pattern, Blocks) else 1

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        self._model = model
        self._rows: Draw | None = None
        self._fishers: dict[str, Fisher] = {}
        modules = {
            name: model.get_submodule(name.removesuffix(".weight"))
            for name in self._masked.weights
            if name.endswith(".weight")
        }
        self._layers = {n: m for n, m in modules.items() if isinstance(m, nn.Linear)}
        problems = [
            f"params: {name} is not the weight of a Linear layer, the only ones whose Fisher "
            "information is estimated; leave it out"
            for name in self._masked.weights
            if name not in self._layers
        ]
        if problems:
            raise ConfigError(problems)

    def task_problems(self, task: Task) -> list[str]:
        if task.learns_from_teacher:
            return [
                f"measures gradients of the loss of labels, which {task.name} has not; prune by "
                "magnitude (recipe.obs_gradients=0 of recipe=from_dense) or movement, or in one "
                "shot by wanda"
            ]
        return []

    def use_rows(self, draw: Draw) -> None:
        """Estimate on training rows that `draw` returns as batches with `labels`."""
        self._rows = draw
        weights = self._masked.size()
        if self._device.type == "cpu":
            ranking = RANKING * weights if self.ranks_globally else 0
            check_memory(weights, self.memory(weights) + ranking, self.smaller)

    @property
    def _device(self) -> torch.device:
        return next(iter(self._masked.weights.values())).device

    def update(self, epoch: float) -> None:
        # `Recipe.attach` updates to epoch 0 before there is a trainer; the trainer repeats it.
        if self._rows is not None:
            super().update(epoch)

    def constrain(self) -> None:
        if self._rows is None:
            raise RuntimeError(f"{type(self).__name__} prunes nothing without use_rows")
        super().constrain()

    def reach(self, targets: Mapping[str, float], kept: Mapping[str, Tensor]) -> None:
        if self.suffices(targets, kept):
            self._masked.set(kept)
            return
        assert self._rows is not None
        sparsity = mean_share(targets, kept)
        # The seed depends on the sparsity alone, so a resumed run draws the same rows.
        seed, each = self._masked.zeros(), self.batch_size
        batches = self._rows(self.gradients(sparsity) * each, seed, each)
        with torch.enable_grad(), without_unseen_ranges(self._model):
            self._fishers = measure(self._model, self._layers, batches, self.empty, each)
        super().reach(targets, kept)
        self._fishers = {}
        # All processes measured the same rows, but a GPU's sums may differ in their last bits, and
        # with them what is pruned.
        masks = self._masked.masks
        share_first([*masks.values(), *self._masked.weights.values()], self._device)
        self._masked.set(masks)

    @property
    def batch_size(self) -> int:
        """The number of rows whose mean loss gives one gradient."""
        return 1

    def gradients(self, sparsity: float) -> int:
        """The number of gradients for an estimate at this sparsity."""
        raise NotImplementedError

    def empty(self, weights: int) -> Fisher:
        """A Fisher estimate for this many weights, without any gradient yet."""
        raise NotImplementedError

    def memory(self, weights: int) -> int:
        """The bytes that an estimate for this many weights takes, with all of its gradients."""
        raise NotImplementedError

    @property
    def smaller(self) -> str:
        """Which field to change where that is too much."""
        raise NotImplementedError

    def scores(self) -> dict[str, Tensor]:
        kept = {name: weight.detach() != 0 for name, weight in self._masked.weights.items()}
        return saliencies(self._layers, self._fishers, kept, self.damp, self._pattern)

    def compensate(self, masks: Mapping[str, Tensor]) -> None:
        repair(self._layers, self._fishers, masks, self.damp)


@dataclass(kw_only=True)
class OBSPruning(SurgeonPruning):
    """The Optimal BERT Surgeon (Kurtic et al., 2022), with SparseML's fields.

    num_grads: the number of gradients for one estimate of the Fisher information.
    grad_sampler_kwargs: `batch_size`, the rows whose mean loss gives one gradient; 1 by default.
    num_recomputations: the number of estimates within one update, each after an equal part of the
        sparsity that the update adds.

    The remaining weights of a block are adjusted jointly, to the minimum of the loss that the
    Fisher information predicts. SparseML adds up the adjustments for each pruned weight alone.
    """

    damp: float = 1e-7
    fisher_block_size: int = 50
    global_sparsity: bool = True
    num_grads: int = 1024
    num_recomputations: int = 1
    grad_sampler_kwargs: dict[str, Any] = field(default_factory=dict)

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        found += [
            f"grad_sampler_kwargs.{key} is not known; it takes batch_size"
            for key in self.grad_sampler_kwargs
            if key != "batch_size"
        ]
        found += [
            f"{name} {value!r} must be a whole number of 1 or more"
            for name, value in (
                ("num_grads", self.num_grads),
                ("num_recomputations", self.num_recomputations),
                ("grad_sampler_kwargs.batch_size", self.batch_size),
            )
            if not isinstance(value, int) or value < 1
        ]
        return found

    @property
    def batch_size(self) -> int:
        size: int = self.grad_sampler_kwargs.get("batch_size", 1)
        return size

    def gradients(self, sparsity: float) -> int:
        return self.num_grads

    def empty(self, weights: int) -> Fisher:
        return block_fisher(weights, self.fisher_block_size, self._device)

    def memory(self, weights: int) -> int:
        return block_bytes(weights, self.fisher_block_size, self._device)

    @property
    def smaller(self) -> str:
        return (
            f"set a smaller fisher_block_size than {self.fisher_block_size} "
            "(recipe.obs_block_size of recipe=from_dense), or prune by magnitude "
            "(recipe.obs_gradients=0)"
        )

    def reach(self, targets: Mapping[str, float], kept: Mapping[str, Tensor]) -> None:
        begun = {name: int((~mask).sum()) / mask.numel() for name, mask in kept.items()}
        for done in range(1, self.num_recomputations + 1):
            share = done / self.num_recomputations
            between = {n: begun[n] * (1 - share) + targets[n] * share for n in targets}
            super().reach(between, {n: w != 0 for n, w in self._masked.weights.items()})
