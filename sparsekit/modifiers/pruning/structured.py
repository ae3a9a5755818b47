"""Structured pruning: heads and neurons become zero during training, and are removed at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsekit.errors import ConfigError, UserError
from sparsekit.modifiers.base import Modifier
from sparsekit.modifiers.processes import share_first
from sparsekit.modifiers.pruning.curves import INTER_FUNCTIONS, Curve
from sparsekit.modifiers.pruning.masked import MaskedWeights, Pruning
from sparsekit.modifiers.quantization.fake_quantize import without_unseen_ranges
from sparsekit.shape.blocks import blocks
from sparsekit.shape.choice import Shares, heads_and_neurons
from sparsekit.shape.config import describe
from sparsekit.shape.kept import Kept
from sparsekit.shape.masking import kept_by_zeros, structure_masks
from sparsekit.shape.ranking import METHODS, Rankings, rank
from sparsekit.shape.removal import remove
from sparsekit.shape.sizes import shape_record, sizes
from sparsekit.shape.statistics import measure
from sparsekit.shape.target import Target, expected
from sparsekit.sparsity.masks import magnitude_mask
from sparsekit.sparsity.prunable import prunable
from sparsekit.sparsity.surgeon import Draw
from sparsekit.tasks.base import Task

# In the model while it trains, so that checkpoints have it: the epoch of the latest masks, then the
# heads and the neurons of each layer at the end, -1 as long as they are not known.
STATE = "structured_pruning_state"


@dataclass(kw_only=True)
class StructuredPruning(Pruning):
    """Removes attention heads and feed-forward neurons while the model trains.

    From `start` to `end` their weights become zero, along a curve; at the end of training the
    matrices become smaller. Until then the model has its full size.

    heads, neurons: the shares that are removed, without `max_latency`.
    max_latency: the longest latency, such as 3ms: at `start` the heads and neurons of each layer
        are chosen that cost the least loss within it.
    latency_table: a file that `sparsekit latency-table` wrote; of this machine, unless
        `any_machine`. `sparsekit train` measures one where it is null.
    sparsity: the share of what remains of the layers' weights that becomes zero besides, the
        smallest of each layer, along the same curve.
    method: magnitude, first_order or obs; the last two measure the loss on `rows` training rows
        before each new mask.
    global_ranking: rank the structures of all layers together: they get different sizes.
    update_frequency: epochs between two masks.
    inter_func: linear, cubic or inverse_cubic.
    """

    heads: float = 0.0
    neurons: float = 0.0
    max_latency: str | float | None = None
    latency_table: str | None = None
    any_machine: bool = False
    sparsity: float = 0.0
    method: str = "first_order"
    rows: int = 256
    global_ranking: bool = False
    update_frequency: float = 0.25
    inter_func: str = "cubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._over = False
        self._table = None if self.latency_table is None else Path(self.latency_table)

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if self.end is None:
            found.append("end is null; set the epoch at which the final shape is reached")
        target = self.latency_target
        if target is None:
            found += self._shares.problems(names=("heads", "neurons"))
        else:
            found += target.problems()
        for name, value, allowed in (
            ("method", self.method, METHODS),
            ("inter_func", self.inter_func, tuple(INTER_FUNCTIONS)),
        ):
            if value not in allowed:
                found.append(f"{name} {value!r} is not one of {', '.join(allowed)}")
        if not 0 <= self.sparsity < 1:
            found.append(f"sparsity {self.sparsity:g} must be at least 0 and less than 1")
        if self.rows < 1:
            found.append(f"rows {self.rows} must be 1 or more")
        if not self.update_frequency > 0:
            found.append(f"update_frequency {self.update_frequency:g} must be more than 0 epochs")
        return found

    @property
    def _shares(self) -> Shares:
        return Shares(heads=self.heads, neurons=self.neurons)

    @property
    def latency_target(self) -> Target | None:
        if self.max_latency is None:
            return None
        return Target(
            max_latency=self.max_latency,
            table=self._table,
            sparsity=self.sparsity,
            any_machine=self.any_machine,
        )

    def use_latency_table(self, file: Path) -> None:
        self._table = file

    def task_problems(self, task: Task) -> list[str]:
        if task.learns_from_teacher and self.method != "magnitude":
            return [
                f"method {self.method} measures gradients of the loss of labels, which {task.name} "
                "has not; set method=magnitude"
            ]
        return []

    def conflict(self, other: Modifier) -> str | None:
        if isinstance(other, StructuredPruning):
            return "both remove structures; make one of them"
        return super().conflict(other)

    def attach(self, model: nn.Module) -> None:
        assert isinstance(model, PreTrainedModel)
        try:
            layers = blocks(model)
            if target := self.latency_target:
                # An unreachable target is named now, by scores that do not decide what goes.
                target.solve(model, rank(model, "magnitude"))
        except ConfigError:
            raise
        except UserError as error:
            raise ConfigError([str(error)]) from error
        self._model, self._before = model, sizes(model)
        self._draw: Draw | None = None
        everything = structure_masks(model, Kept.all(model))
        parameters = dict(model.named_parameters())
        names = dict.fromkeys([*everything, *(f"{name}.weight" for name in prunable(model))])
        self._masked = MaskedWeights({name: parameters[name] for name in names})
        self._reached, self._over = -1.0, False
        state = torch.full((1 + 2 * len(layers),), -1.0, dtype=torch.float64)
        model.register_buffer(STATE, state.to(model.device))

    def use_rows(self, draw: Draw) -> None:
        self._draw = draw

    def resume(self, masks: Mapping[str, Tensor]) -> None:
        super().resume(masks)
        self._reached = -1.0

    def update(self, epoch: float) -> None:
        # `Recipe.attach` updates to epoch 0 before there is a trainer; the trainer repeats it.
        self._on = epoch >= self.start and not self._over
        if not self._on or self._draw is None:
            return
        update = self._curve.last_step(epoch)
        if update == self._reached:
            return
        state = self._model.get_buffer(STATE)
        if float(state[0]) != update:
            self._prune(update)
            state[0] = update
        # The checkpoint was saved after this update, with its masks.
        elif self._resumed is None:
            self._masked.set_from_zeros()
        else:
            self._masked.set(self._resumed)
        self._reached = update

    @property
    def _curve(self) -> Curve:
        assert self.end is not None
        return Curve(self.start, self.end, self.update_frequency, self.inter_func)

    def planned_sparsity(self, epoch: float) -> dict[str, float | None]:
        done = self._curve.done(epoch) if epoch >= self.start else None
        # What a latency needs is known in training only.
        known = self.max_latency is None
        shares = {
            "heads": self.heads if known else None,
            "neurons": self.neurons if known else None,
            "weights": self.sparsity,
        }
        return {
            name: None if done is None or share is None else share * done
            for name, share in shares.items()
            if share != 0
        }

    @torch.no_grad()
    def _prune(self, epoch: float) -> None:
        rankings, done = self._rankings(), self._curve.done(epoch)
        heads, neurons = self._kept(rankings, done)
        whole = Kept.all(self._model)
        kept = Kept(whole.layers, tuple(heads), tuple(neurons), whole.hidden)
        masks = structure_masks(self._model, kept)
        if self.sparsity:
            masks |= self._sparse(masks, self.sparsity * done)
        self._masked.set(masks)
        self._masked.apply()

    def _rankings(self) -> Rankings:
        if self.method == "magnitude":
            return rank(self._model, self.method)
        assert self._draw is not None
        # The seed depends on the zeros alone, so a resumed run draws the same rows.
        batches = self._draw(self.rows, self._masked.zeros(), 1)
        with without_unseen_ranges(self._model):
            statistics = measure(self._model, batches)
        rankings = rank(self._model, self.method, statistics)
        # All processes measured the same rows, but a GPU's sums may differ in their last bits.
        for ranking in (*rankings.heads, *rankings.neurons):
            share_first([ranking.order, ranking.losses], self._model.device)
        return rankings

    def _kept(self, rankings: Rankings, done: float) -> tuple[list[Tensor], list[Tensor]]:
        """The heads and neurons of each layer that stay once the share `done` is done."""
        target = self.latency_target
        if target is None:
            shares = Shares(heads=self.heads * done, neurons=self.neurons * done)
            return heads_and_neurons(rankings, shares, self.global_ranking)
        state = self._model.get_buffer(STATE)
        if float(state[1]) < 0:
            solution = target.solve(self._model, rankings)
            state[1:] = torch.tensor([*solution.heads, *solution.neurons])
        counts = [int(count) for count in state[1:].tolist()]
        each = [
            ranking.kept(len(ranking.order) - round((len(ranking.order) - count) * done))
            for ranking, count in zip([*rankings.heads, *rankings.neurons], counts, strict=True)
        ]
        return each[: len(rankings.heads)], each[len(rankings.heads) :]

    def _sparse(self, masks: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
        """Masks of the layers' weights, with this share of what `masks` leaves set to zero too."""
        found = {}
        for name in prunable(self._model):
            weight = self._masked.weights[f"{name}.weight"].detach()
            left = masks.get(f"{name}.weight", torch.ones_like(weight, dtype=torch.bool))
            left = left.to(weight.device)
            zeros = 1 - (1 - share) * float(left.float().mean())
            found[f"{name}.weight"] = left & magnitude_mask(
                weight * left, zeros, name=f"{name}.weight"
            )
        return found

    @property
    def mask_epochs(self) -> float:
        return math.inf if self._reached == self.end else self.update_frequency

    def detach(self, model: nn.Module) -> None:
        """Remove the structures that are zero, and write the sizes into the model's config."""
        assert isinstance(model, PreTrainedModel)
        delattr(model, STATE)
        if self._masked.masks:
            remove(model, kept_by_zeros(model))
            describe(model)
        self._on, self._over = False, True
        self._masked = MaskedWeights({})

    def results(self, model: nn.Module) -> Mapping[str, Any]:
        assert isinstance(model, PreTrainedModel)
        shape = shape_record(model, self._before)
        if target := self.latency_target:
            shape["latency"] = expected(model, target)
        return {"shape": shape}

    @property
    def resizes(self) -> bool:
        return True

    @property
    def note(self) -> str:
        if self.max_latency is not None:
            return f"heads and neurons for {self.max_latency}"
        return ", ".join(
            f"{share:.0%} of {name}"
            for name, share in (("heads", self.heads), ("neurons", self.neurons))
            if share
        )
