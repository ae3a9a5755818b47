"""The methods of one-shot pruning, which prune a dense model without training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsekit.sparsity.fisher import Fisher
from sparsekit.sparsity.gradients import recorded
from sparsekit.sparsity.masks import Blocks, NOfM, Pattern, named_masks, parse_mask_type
from sparsekit.sparsity.memory import RANKING, check_memory
from sparsekit.sparsity.packed_fisher import block_bytes, block_fisher
from sparsekit.sparsity.surgeon import Batch, Draw, Layers, measure, repair, saliencies

Masks = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class OneShot:
    """The settings of one-shot pruning.

    sparsity: the share of zeros in the pruned layers; null for an N:M pattern, which has its own.
    method: `magnitude` prunes the smallest weights; `wanda` those with the smallest product of
        magnitude and input norm in each output row (Sun et al. 2023); `obs` those whose removal
        raises the loss least, and updates the others (oBERT, Kurtic et al. 2022).
    global_sparsity: whether to rank all layers together; null: only for `obs`.
    num_grads, damp, fisher_block_size, num_recomputations: settings of `obs`, which prunes in
        `num_recomputations` equal steps and measures the Fisher before each.
    grad_batch_size: number of rows whose mean loss gives one gradient.
    rows: number of rows on which `wanda` measures.
    """

    sparsity: float | None = None
    method: str = "magnitude"
    pattern: str = "unstructured"
    global_sparsity: bool | None = None
    num_grads: int = 1024
    damp: float = 1e-7
    fisher_block_size: int = 50
    num_recomputations: int = 1
    grad_batch_size: int = 1
    rows: int = 256
    seed: int = 0

    def problems(self) -> list[str]:
        """Problems of the settings, each with the option, its limit and the fix."""
        problems = []
        if self.method not in METHODS:
            problems.append(f"--method {self.method} is not one of {', '.join(METHODS)}")
        if self.method == "wanda" and self.global_sparsity:
            problems.append("--method wanda compares weights within a row; leave out --global")
        for option, value in (
            ("--num-grads", self.num_grads),
            ("--fisher-block-size", self.fisher_block_size),
            ("--num-recomputations", self.num_recomputations),
            ("--grad-batch-size", self.grad_batch_size),
            ("--rows", self.rows),
        ):
            if value < 1:
                problems.append(f"{option} {value} must be 1 or more")
        if not self.damp > 0:
            problems.append(f"--damp {self.damp:g} must be above 0")
        try:
            pattern = parse_mask_type(self.pattern)
        except ValueError:
            return [
                *problems,
                f"--pattern {self.pattern} is not one of unstructured, block4, N:M such as 2:4",
            ]
        return problems + self._pattern_problems(pattern)

    def _pattern_problems(self, pattern: Pattern) -> list[str]:
        problems = []
        if isinstance(pattern, NOfM):
            if self.sparsity not in (None, pattern.sparsity):
                problems.append(
                    f"--pattern {self.pattern} has a sparsity of {pattern.sparsity:g}, not "
                    f"{self.sparsity:g}; leave out --sparsity"
                )
            if self.method == "obs" and self.num_recomputations > 1:
                problems.append(
                    f"--pattern {self.pattern} is applied at once; leave out --num-recomputations"
                )
        elif self.sparsity is None:
            problems.append("--sparsity is not set: add --sparsity 0.8")
        elif not 0 < self.sparsity < 1:
            problems.append(f"--sparsity {self.sparsity:g} must lie between 0 and 1")
        elif self.method == "obs" and self.fisher_block_size % pattern.columns:
            problems.append(
                f"--fisher-block-size {self.fisher_block_size} must be a multiple of "
                f"{pattern.columns} for --pattern {self.pattern}; set 48 or 64"
            )
        return problems

    @property
    def mask_pattern(self) -> Pattern:
        """The parsed pattern."""
        return parse_mask_type(self.pattern)

    @property
    def target(self) -> float:
        """The sparsity to reach, which an N:M pattern determines."""
        pattern = self.mask_pattern
        if isinstance(pattern, NOfM):
            return pattern.sparsity
        assert self.sparsity is not None
        return self.sparsity

    @property
    def ranks_globally(self) -> bool:
        """Whether all layers are ranked together."""
        return self.method == "obs" if self.global_sparsity is None else self.global_sparsity

    def masks(self, scores: Mapping[str, Tensor], share: float, within: Masks) -> Masks:
        """Masks within those given that bring the layers to this share of the target."""
        shares = dict.fromkeys(scores, share * self.target)
        return named_masks(
            scores, shares, self.mask_pattern, within, ranks_globally=self.ranks_globally
        )


def defaults_of(pattern: str) -> dict[str, int]:
    """Default settings of `obs` that depend on the pattern.

    Blocks of the Fisher contain whole groups of a pattern; an N:M pattern is applied in one step.

    >>> defaults_of("2:4")
    {'fisher_block_size': 50, 'num_recomputations': 1}
    """
    return {
        "fisher_block_size": 48 if pattern == "block4" else 50,
        "num_recomputations": 1 if ":" in pattern else 4,
    }


def prune(model: nn.Module, layers: Layers, draw: Draw | None, config: OneShot) -> None:
    """Prune the weights of `layers`, modules of `model`, in place; existing zeros stay.

    `draw` returns calibration batches; `magnitude` needs none.
    """
    METHODS[config.method](model, layers, draw, config)


def _magnitude(model: nn.Module, layers: Layers, draw: Draw | None, config: OneShot) -> None:
    scores = {name: layer.weight.detach().abs() for name, layer in layers.items()}
    _apply(layers, config.masks(scores, 1.0, _nonzero(layers)))


def _wanda(model: nn.Module, layers: Layers, draw: Draw | None, config: OneShot) -> None:
    assert draw is not None
    norms = input_norms(model, layers, draw(config.rows, config.seed, 1))
    pattern = config.mask_pattern
    columns = pattern.columns if isinstance(pattern, Blocks) else 1
    scores = {
        name: row_ranks(layer.weight.detach().abs() * norms[name], columns)
        for name, layer in layers.items()
    }
    _apply(layers, config.masks(scores, 1.0, _nonzero(layers)))


def _obs(model: nn.Module, layers: Layers, draw: Draw | None, config: OneShot) -> None:
    assert draw is not None
    rows, size = config.num_grads * config.grad_batch_size, config.fisher_block_size
    device = next(iter(layers.values())).weight.device
    if device.type == "cpu":
        weights = sum(layer.weight.numel() for layer in layers.values())
        fix = f"set a smaller block size of the Fisher than {size}"
        ranking = RANKING * weights if config.ranks_globally else 0
        check_memory(weights, block_bytes(weights, size, device) + ranking, fix)

    def empty(weights: int) -> Fisher:
        return block_fisher(weights, size, device)

    for done in range(config.num_recomputations):
        # Other rows in each step.
        batches = draw(rows, config.seed + 1_000_000 * done, config.grad_batch_size)
        fishers = measure(model, layers, batches, empty, config.grad_batch_size)
        current = _nonzero(layers)
        scores = saliencies(layers, fishers, current, config.damp, config.mask_pattern)
        masks = config.masks(scores, (done + 1) / config.num_recomputations, current)
        repair(layers, fishers, masks, config.damp)


METHODS: dict[str, Callable[[nn.Module, Layers, Draw | None, OneShot], None]] = {
    "magnitude": _magnitude,
    "obs": _obs,
    "wanda": _wanda,
}


@torch.no_grad()
def input_norms(model: nn.Module, layers: Layers, batches: Iterator[Batch]) -> dict[str, Tensor]:
    """The L2 norm of each layer's input features [in], over all tokens except padding."""
    squares: dict[str, Tensor] = {
        name: torch.zeros(layer.in_features, device=layer.weight.device)
        for name, layer in layers.items()
    }
    model.eval()
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with recorded(layers) as calls:
            model(**inputs)
        real = inputs["attention_mask"].bool()
        for name, pairs in calls.items():
            for values, _ in pairs:
                squares[name] += _without_padding(values, real).float().square().sum(0)
    return {name: square.sqrt() for name, square in squares.items()}


def _without_padding(values: Tensor, real: Tensor) -> Tensor:
    """The inputs [tokens, in] of a layer for the tokens of `real`, bool [batch, tokens].

    All of them where they are not one for each token: DeBERTa projects relative positions too.
    """
    if values.shape[:2] == real.shape:
        return values[real]
    return values.reshape(-1, values.shape[-1])


def row_ranks(scores: Tensor, columns: int = 1) -> Tensor:
    """The rank of each score [out, in] in its row, 0 for the lowest, by the mean of its block.

    Masks made from ranks prune the same number of weights in every row.

    >>> row_ranks(torch.tensor([[5.0, 1.0, 3.0], [0.1, 0.3, 0.2]])).tolist()
    [[2.0, 0.0, 1.0], [0.0, 2.0, 1.0]]
    """
    blocks = scores.view(len(scores), -1, columns).mean(2)
    ranks: Tensor = blocks.argsort(dim=1, stable=True).argsort(dim=1).float()
    return ranks.repeat_interleave(columns, dim=1)


def _nonzero(layers: Layers) -> Masks:
    return {name: layer.weight.detach() != 0 for name, layer in layers.items()}


@torch.no_grad()
def _apply(layers: Layers, masks: Masks) -> None:
    for name, layer in layers.items():
        layer.weight.mul_(masks[name])
