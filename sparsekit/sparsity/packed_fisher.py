"""The blocks of the Fisher information in half the memory, by kernels in C; CPU only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.kernels import fisher
from sparsekit.sparsity.fisher import (
    ROUNDING,
    BlockFisher,
    Fisher,
    NotInvertible,
    as_blocks,
    group_rise,
)
from sparsekit.sparsity.gradients import Products

# Larger blocks are factorized faster by LAPACK, one by one.
LARGEST = 128


@dataclass
class PackedFisher:
    """Stores the lower triangles of the blocks; otherwise as `BlockFisher`."""

    size: int
    sums: Tensor  # see `kernels.fisher.empty_sums`
    count: int = 0

    @classmethod
    def zeros(cls, weights: int, block_size: int) -> PackedFisher:
        """The Fisher of `weights` weights before the first gradient."""
        return cls(block_size, fisher.empty_sums(weights, block_size))

    def add(self, gradients: Products) -> None:
        fisher.add_products(self.sums, self.size, gradients.inputs, gradients.grad_outputs)
        self.count += len(gradients)

    def saliency(self, weight: Tensor, mask: Tensor, damp: float, group: int = 1) -> Tensor:
        inverse = fisher.inverse_squares(
            self.sums, self.size, mask.float(), group, self._damping(damp)
        )
        _check(inverse)
        rises = group_rise(as_blocks(weight.double(), self.size), inverse)
        return rises.flatten()[: len(weight)].float()

    def compensate(self, weight: Tensor, mask: Tensor, damp: float) -> Tensor:
        damping = self._damping(damp)
        moved = fisher.compensated(self.sums, self.size, weight.float(), mask.float(), damping)
        _check(moved)
        return moved.to(weight.dtype)

    def _damping(self, damp: float) -> tuple[int, float, float]:
        return max(self.count, 1), damp, ROUNDING


def _check(solved: Tensor) -> None:
    """Raise NotInvertible, as torch's factorization does, where a matrix could not be inverted."""
    if not torch.isfinite(solved).all():
        raise NotInvertible("a block is not positive-definite")


def block_fisher(weights: int, block_size: int, device: torch.device) -> Fisher:
    """An empty Fisher by blocks: the fastest that the device, the size and the compiler allow."""
    if _packs(block_size, device):
        return PackedFisher.zeros(weights, block_size)
    return BlockFisher.zeros(weights, block_size, device)


def block_bytes(weights: int, block_size: int, device: torch.device) -> int:
    """The bytes of memory that `block_fisher` takes for so many weights, but for padding."""
    return weights * (2 * (block_size + 1) if _packs(block_size, device) else 4 * block_size)


def _packs(block_size: int, device: torch.device) -> bool:
    return device.type == "cpu" and block_size <= LARGEST and fisher.available()
