"""The empirical Fisher information of a weight, and what Optimal Brain Surgeon reads from it.

The Fisher of d weights is approximated by blocks of B along its diagonal (oBERT, Kurtic et al.
2022): F = damp * I + the mean of g gᵀ over gradients g of the task's loss. Removing weights w_Q and
moving the survivors S so that the loss, as F sees it, rises least gives

    rise of the loss   ½ w_Qᵀ ((F⁻¹)_QQ)⁻¹ w_Q
    move of S          F_SS⁻¹ F_SQ w_Q

For a single weight this is ½ w² / (F⁻¹)_qq and -w (F⁻¹)_:q / (F⁻¹)_qq. Both classes here answer the
same questions, batched over all blocks: `BlockFisher` holds the blocks, `GradientFisher` only the
gradients, which is less where a block is larger than their number (M-FAC, Frantar et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

# Numbers in a working copy of some blocks: few enough to stay in a core's cache.
CHUNK = 300_000
# The share of a block's trace by which sums in single precision may miss: no damp lies below it.
ROUNDING = 4 * torch.finfo(torch.float32).eps


class Fisher(Protocol):
    """What pruning asks of the Fisher information of one weight with d entries."""

    def add(self, gradients: Tensor) -> None:
        """Take in gradients [n, d], which may be overwritten afterwards."""

    def saliency(self, weight: Tensor, keep: Tensor, damp: float, group: int = 1) -> Tensor:
        """The rise of the loss when each group of `group` entries in a row is removed alone.

        `weight` and `keep` (False where it is pruned already) are flat, [d]; so is the result, the
        same for all entries of a group.
        """

    def compensate(self, weight: Tensor, keep: Tensor, damp: float) -> Tensor:
        """`weight` [d] with the entries that `keep` [d] leaves out at zero, the others moved."""


@dataclass
class BlockFisher:
    """The blocks themselves: B numbers a weight, however many gradients there were."""

    total: Tensor  # [blocks, B, B], the sum of g gᵀ
    count: int = 0

    @classmethod
    def zeros(cls, weights: int, block_size: int, device: torch.device) -> BlockFisher:
        """The Fisher of `weights` weights that has seen no gradient."""
        blocks = -(-weights // block_size)
        return cls(torch.zeros(blocks, block_size, block_size, device=device))

    def add(self, gradients: Tensor) -> None:
        size = self.total.shape[-1]
        whole = gradients.shape[1] // size
        # The last block apart if it is not full: to fill it up, all gradients would be copied.
        for total, part in (
            (self.total[:whole], gradients[:, : whole * size]),
            (self.total[whole:], gradients[:, whole * size :]),
        ):
            blocks = as_blocks(part, size).transpose(0, 1)
            total.baddbmm_(blocks.transpose(1, 2), blocks)
        self.count += len(gradients)

    def saliency(self, weight: Tensor, keep: Tensor, damp: float, group: int = 1) -> Tensor:
        size = self.total.shape[-1]
        weights, kept = as_blocks(weight, size), as_blocks(keep, size)
        eye = torch.eye(size, dtype=torch.float64, device=weight.device)
        rises = []
        for part in _parts(len(weights), size * size):
            matrix = self._matrix(part, kept[part].double(), damp)
            # With F = L Lᵀ the columns of L⁻¹ are all that squares on the diagonal of F⁻¹ need.
            half = torch.linalg.solve_triangular(
                torch.linalg.cholesky(matrix), eye.expand_as(matrix), upper=False
            )
            rises.append(group_rise(weights[part].double(), diagonal_groups(half, half, group)))
        return torch.cat(rises).flatten()[: len(weight)].to(weight.dtype)

    def compensate(self, weight: Tensor, keep: Tensor, damp: float) -> Tensor:
        size = self.total.shape[-1]
        weights, kept = as_blocks(weight, size), as_blocks(keep, size)
        moved = []
        for part in _parts(len(weights), size * size):
            values, stays = weights[part].double(), kept[part].double()
            # F_SQ w_Q has no share of damp * I, which has no entry between two weights.
            pull = torch.bmm(self.total[part].double(), (values * (1 - stays))[..., None])
            factor = torch.linalg.cholesky(self._matrix(part, stays, damp))
            move = torch.cholesky_solve(pull * stays[..., None] / max(self.count, 1), factor)
            moved.append(stays * (values + move[..., 0]))
        return torch.cat(moved).flatten()[: len(weight)].to(weight.dtype)

    def _matrix(self, part: slice, stays: Tensor, damp: float) -> Tensor:
        """F over the weights that stay (1, others 0), which others are cut off from, in float64."""
        matrix = self.total[part].double().div_(max(self.count, 1))
        # Twice in place and in one type: five times as fast as with a product of the masks.
        matrix *= stays[:, :, None]
        matrix *= stays[:, None, :]
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        diagonal += (ROUNDING * diagonal.sum(1, keepdim=True)).clamp(min=damp)
        return matrix


class GradientFisher:
    """The gradients: as many numbers a weight as there are gradients, however large a block is.

    With G the n gradients of one block [n, B] and K = n * damp * I + G Gᵀ, an n x n matrix,
    Woodbury's identity gives F⁻¹ = (I - Gᵀ K⁻¹ G) / damp.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._gradients: list[Tensor] = []

    def add(self, gradients: Tensor) -> None:
        self._gradients.append(as_blocks(gradients.clone(), self.block_size))

    def saliency(self, weight: Tensor, keep: Tensor, damp: float, group: int = 1) -> Tensor:
        weights, kept = as_blocks(weight, self.block_size), as_blocks(keep, self.block_size)
        rises = []
        for part in self._parts(len(weights)):
            gradients = self._blocks(part) * kept[part][:, None, :]
            solved = torch.cholesky_solve(gradients, self._factor(gradients, damp))
            seen = diagonal_groups(gradients, solved, group)
            inverse = (torch.eye(group, dtype=seen.dtype, device=seen.device) - seen) / damp
            rises.append(group_rise(weights[part].double(), inverse))
        return torch.cat(rises).flatten()[: len(weight)].to(weight.dtype)

    def compensate(self, weight: Tensor, keep: Tensor, damp: float) -> Tensor:
        weights, kept = as_blocks(weight, self.block_size), as_blocks(keep, self.block_size)
        moved = []
        for part in self._parts(len(weights)):
            values, stays = weights[part].double(), kept[part].double()
            gradients = self._blocks(part)
            pull = torch.bmm(gradients, (values * (1 - stays))[..., None])
            gradients = gradients * stays[:, None, :]
            # Woodbury's identity makes F_SS⁻¹ F_SQ w_Q into G_Sᵀ K_S⁻¹ G_Q w_Q.
            solved = torch.cholesky_solve(pull, self._factor(gradients, damp))
            move = torch.bmm(gradients.transpose(1, 2), solved)[..., 0]
            moved.append(stays * (values + move))
        return torch.cat(moved).flatten()[: len(weight)].to(weight.dtype)

    def _parts(self, blocks: int) -> Iterator[slice]:
        rows = sum(len(gradients) for gradients in self._gradients)
        return _parts(blocks, rows * max(rows, self.block_size))

    def _blocks(self, part: slice) -> Tensor:
        """Some blocks of all gradients, [blocks, n, B], in double precision."""
        return torch.cat([g[:, part] for g in self._gradients]).transpose(0, 1).double()

    def _factor(self, gradients: Tensor, damp: float) -> Tensor:
        """The Cholesky factor of K = n * damp * I + G Gᵀ, [blocks, n, n]."""
        kernel = torch.bmm(gradients, gradients.transpose(1, 2))
        kernel.diagonal(dim1=1, dim2=2).add_(kernel.shape[1] * damp)
        factor: Tensor = torch.linalg.cholesky(kernel)
        return factor


def as_blocks(values: Tensor, size: int) -> Tensor:
    """[..., d] as [..., blocks, size]; the last block is filled up with zeros (False)."""
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
    """½ w_Qᵀ ((F⁻¹)_QQ)⁻¹ w_Q of each group Q, once for each of its entries.

    `weights` [blocks, B]; `inverse` [blocks, B / group, group, group]; the result is [blocks, B].
    """
    if inverse.shape[-1] == 1:
        return weights.square() / inverse[..., 0, 0] / 2
    grouped = weights.view(*inverse.shape[:3])
    solved = torch.linalg.solve(inverse, grouped[..., None])[..., 0]
    rise: Tensor = (grouped * solved).sum(-1, keepdim=True) / 2
    return rise.expand_as(grouped).reshape(weights.shape)


def _parts(blocks: int, numbers: int) -> Iterator[slice]:
    """All blocks in parts whose working copies, of `numbers` numbers a block, fit the memory."""
    step = max(1, CHUNK // numbers)
    return (slice(start, start + step) for start in range(0, blocks, step))
