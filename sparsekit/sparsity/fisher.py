"""The empirical Fisher information of a weight, and what Optimal Brain Surgeon reads from it.

The Fisher of d weights is approximated by blocks of B along its diagonal (oBERT, Kurtic et al.
2022): F = damp * I + the mean of g gᵀ over gradients g of the task's loss. Removing weights w_Q and
moving the remaining weights S so that the loss, in F's quadratic approximation, rises least gives

    rise of the loss   ½ w_Qᵀ ((F⁻¹)_QQ)⁻¹ w_Q
    move of S          F_SS⁻¹ F_SQ w_Q

For a single weight this is ½ w² / (F⁻¹)_qq and -w (F⁻¹)_:q / (F⁻¹)_qq. Both classes compute this
batched over all blocks: `BlockFisher` stores the blocks, `GradientFisher` only the gradients, which
is less where a block is larger than their number (M-FAC, Frantar et al. 2021). `PackedFisher`, in a
file of its own, does in C what `BlockFisher` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from sparsekit.sparsity.gradients import Products

# What a factorization raises for a matrix that is not positive-definite.
NotInvertible = torch.linalg.LinAlgError  # type: ignore[attr-defined]
# Values in a working copy of some blocks, few enough for a core's cache.
CHUNK = 300_000
# Rounding error of float32 sums relative to a block's trace; the damping is at least this.
ROUNDING = 4 * torch.finfo(torch.float32).eps


class Fisher(Protocol):
    """The Fisher information of a weight with d entries, as pruning uses it."""

    def add(self, gradients: Products) -> None:
        """Accumulate gradients."""

    def saliency(self, weight: Tensor, mask: Tensor, damp: float, group: int = 1) -> Tensor:
        """The rise of the loss if a group of `group` consecutive entries alone is removed.

        `weight` and `mask` (False where it is pruned already) are flat, [d]. The result is [d]
        too, with equal values within a group: float32 for weights in half precision too, whose
        smallest number is larger than most rises.
        """

    def compensate(self, weight: Tensor, mask: Tensor, damp: float) -> Tensor:
        """`weight` [d], zero where `mask` [d] is False, the other entries updated for it."""


@dataclass
class BlockFisher:
    """Stores the blocks: B values per weight, whatever the number of gradients."""

    total: Tensor  # [blocks, B, B], the sum of g gᵀ
    count: int = 0

    @classmethod
    def zeros(cls, weights: int, block_size: int, device: torch.device) -> BlockFisher:
        """The Fisher of `weights` weights before the first gradient."""
        blocks = -(-weights // block_size)
        return cls(torch.zeros(blocks, block_size, block_size, device=device))

    def add(self, gradients: Products) -> None:
        dense, size = gradients.dense(), self.total.shape[-1]
        whole = dense.shape[1] // size
        # An incomplete last block is padded separately, so that most gradients are not copied.
        for total, part in (
            (self.total[:whole], dense[:, : whole * size]),
            (self.total[whole:], dense[:, whole * size :]),
        ):
            blocks = as_blocks(part, size).transpose(0, 1)
            total.baddbmm_(blocks.transpose(1, 2), blocks)
        self.count += len(dense)

    def saliency(self, weight: Tensor, mask: Tensor, damp: float, group: int = 1) -> Tensor:
        size = self.total.shape[-1]
        weights, masks = as_blocks(weight, size), as_blocks(mask, size)
        eye = torch.eye(size, dtype=torch.float64, device=weight.device)
        rises = []
        for part in _parts(len(weights), size * size):
            matrix = self._matrix(part, masks[part].double(), damp)
            # F = L Lᵀ, so F⁻¹ = L⁻ᵀ L⁻¹: its diagonal squares follow from the columns of L⁻¹.
            half = torch.linalg.solve_triangular(
                torch.linalg.cholesky(matrix), eye.expand_as(matrix), upper=False
            )
            rises.append(group_rise(weights[part].double(), diagonal_groups(half, half, group)))
        return torch.cat(rises).flatten()[: len(weight)].float()

    def compensate(self, weight: Tensor, mask: Tensor, damp: float) -> Tensor:
        size = self.total.shape[-1]
        weights, masks = as_blocks(weight, size), as_blocks(mask, size)
        moved = []
        for part in _parts(len(weights), size * size):
            values, remaining = weights[part].double(), masks[part].double()
            # damp * I has no part in F_SQ, which lies off the diagonal.
            pull = torch.bmm(self.total[part].double(), (values * (1 - remaining))[..., None])
            factor = torch.linalg.cholesky(self._matrix(part, remaining, damp))
            move = torch.cholesky_solve(pull * remaining[..., None] / max(self.count, 1), factor)
            moved.append(remaining * (values + move[..., 0]))
        return torch.cat(moved).flatten()[: len(weight)].to(weight.dtype)

    def _matrix(self, part: slice, mask: Tensor, damp: float) -> Tensor:
        """F in float64 with the rows and columns of pruned weights (0 in `mask`) set to zero."""
        matrix = self.total[part].double().div_(max(self.count, 1))
        # Two multiplications in place: five times as fast as one by the outer product of masks.
        matrix *= mask[:, :, None]
        matrix *= mask[:, None, :]
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        diagonal += (ROUNDING * diagonal.sum(1, keepdim=True)).clamp(min=damp)
        return matrix


class GradientFisher:
    """Stores the gradients: one value per weight and gradient, whatever the size of a block.

    With G the n gradients of one block [n, B] and K = n * damp * I + G Gᵀ, an n x n matrix,
    Woodbury's identity gives F⁻¹ = (I - Gᵀ K⁻¹ G) / damp.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._gradients: list[Tensor] = []

    def add(self, gradients: Products) -> None:
        self._gradients.append(as_blocks(gradients.dense().clone(), self.block_size))

    def saliency(self, weight: Tensor, mask: Tensor, damp: float, group: int = 1) -> Tensor:
        weights, masks = as_blocks(weight, self.block_size), as_blocks(mask, self.block_size)
        rises = []
        for part in self._parts(len(weights)):
            gradients = self._blocks(part) * masks[part][:, None, :]
            solved = torch.cholesky_solve(gradients, self._factor(gradients, damp))
            seen = diagonal_groups(gradients, solved, group)
            inverse = (torch.eye(group, dtype=seen.dtype, device=seen.device) - seen) / damp
            rises.append(group_rise(weights[part].double(), inverse))
        return torch.cat(rises).flatten()[: len(weight)].float()

    def compensate(self, weight: Tensor, mask: Tensor, damp: float) -> Tensor:
        weights, masks = as_blocks(weight, self.block_size), as_blocks(mask, self.block_size)
        moved = []
        for part in self._parts(len(weights)):
            values, remaining = weights[part].double(), masks[part].double()
            gradients = self._blocks(part)
            pull = torch.bmm(gradients, (values * (1 - remaining))[..., None])
            gradients = gradients * remaining[:, None, :]
            # By Woodbury's identity, F_SS⁻¹ F_SQ w_Q = G_Sᵀ K_S⁻¹ G_Q w_Q.
            solved = torch.cholesky_solve(pull, self._factor(gradients, damp))
            move = torch.bmm(gradients.transpose(1, 2), solved)[..., 0]
            moved.append(remaining * (values + move))
        return torch.cat(moved).flatten()[: len(weight)].to(weight.dtype)

    def _parts(self, blocks: int) -> Iterator[slice]:
        rows = sum(len(gradients) for gradients in self._gradients)
        return _parts(blocks, rows * max(rows, self.block_size))

    def _blocks(self, part: slice) -> Tensor:
        """The blocks `part` of all gradients, float64 [blocks, n, B]."""
        return torch.cat([g[:, part] for g in self._gradients]).transpose(0, 1).double()

    def _factor(self, gradients: Tensor, damp: float) -> Tensor:
        """The Cholesky factor of K = n * damp * I + G Gᵀ, [blocks, n, n]."""
        kernel = torch.bmm(gradients, gradients.transpose(1, 2))
        kernel.diagonal(dim1=1, dim2=2).add_(kernel.shape[1] * damp)
        factor: Tensor = torch.linalg.cholesky(kernel)
        return factor


def as_blocks(values: Tensor, size: int) -> Tensor:
    """[..., d] as [..., blocks, size]; the last block is padded with zeros (False)."""
    missing = -values.shape[-1] % size
    padded = functional.pad(values, (0, missing)) if missing else values
    return padded.view(*values.shape[:-1], -1, size)


def diagonal_groups(left: Tensor, right: Tensor, group: int) -> Tensor:
    """The group x group squares on the diagonals of leftᵀ right, [blocks, B / group, group, group].

    `left` and `right` are [blocks, rows, B].

    >>> diagonal_groups(torch.eye(4)[None], torch.arange(16.0).view(1, 4, 4), 2)[0, 1].tolist()
    [[10.0, 11.0], [14.0, 15.0]]
    """
    if group == 1:
        return (left * right).sum(1)[..., None, None]
    blocks, rows, size = left.shape
    shape = (blocks, rows, size // group, group)
    return torch.einsum("bnqi,bnqj->bqij", left.view(shape), right.view(shape))


def group_rise(weights: Tensor, inverse: Tensor) -> Tensor:
    """½ w_Qᵀ ((F⁻¹)_QQ)⁻¹ w_Q of each group Q, repeated for each of its entries.

    `weights` [blocks, B]; `inverse` [blocks, B / group, group, group]; the result is [blocks, B].
    """
    if inverse.shape[-1] == 1:
        return weights.square() / inverse[..., 0, 0] / 2
    grouped = weights.view(*inverse.shape[:3])
    solved = torch.linalg.solve(inverse, grouped[..., None])[..., 0]
    rise: Tensor = (grouped * solved).sum(-1, keepdim=True) / 2
    return rise.expand_as(grouped).reshape(weights.shape)


def _parts(blocks: int, values: int) -> Iterator[slice]:
    """Slices of all blocks with working copies, of `values` values per block, of CHUNK values."""
    step = max(1, CHUNK // values)
    return (slice(start, start + step) for start in range(0, blocks, step))
