"""Blocks of the empirical Fisher information, accumulated and inverted many at once; CPU only."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sparsekit.kernels.library import Kernel, constant, is_available, library
from sparsekit.kernels.tensors import address

# Examples whose gradients are computed at once, and the side of a tile, as in the C file.
EXAMPLES, TILE = 32, 4


class Products(ctypes.Structure):
    """Gradients of a weight as products; mirrors `products` in csrc/fisher/gradients.h."""

    _fields_ = (
        ("inputs", ctypes.c_void_p),
        ("grad_outputs", ctypes.c_void_p),
        ("examples", ctypes.c_long),
        ("tokens", ctypes.c_long),
        ("in", ctypes.c_long),
        ("out", ctypes.c_long),
    )


KERNEL = Kernel(
    "fisher",
    structures={"products": Products},
    constants={"examples_at_once": EXAMPLES, "tile": TILE},
)


def available() -> bool:
    """Whether the kernels are available on this machine; warns once if not."""
    return is_available(KERNEL, "pruning by Optimal Brain Surgeon")


def empty_sums(weights: int, size: int) -> Tensor:
    """Zeros for the lower triangles of the blocks of `size` of `weights` weights.

    float32 [groups, size * (size + 1) / 2, lanes]: the matrices of a group lie side by side.
    """
    lanes = _lanes()
    return torch.zeros(-(-weights // (size * lanes)), size * (size + 1) // 2, lanes)


def add_products(sums: Tensor, size: int, inputs: Tensor, grad_outputs: Tensor) -> None:
    """Add g gᵀ to the blocks for the gradient g of each example, grad_outputs @ inputs.

    sums: of `empty_sums`, changed in place.
    inputs: float32 [examples, tokens, in], contiguous.
    grad_outputs: float32 [examples, out, tokens], contiguous.
    """
    examples, tokens, width = inputs.shape
    threads, lanes = torch.get_num_threads(), _lanes()
    scratch = torch.zeros(threads, lanes * (size + EXAMPLES * (-(-size // TILE) * TILE)))
    given = Products(
        inputs.data_ptr(), grad_outputs.data_ptr(), examples, tokens, width, grad_outputs.shape[1]
    )
    library(KERNEL).add_products(
        ctypes.byref(given), ctypes.c_long(size), address(sums), address(scratch), threads
    )


def inverse_squares(
    sums: Tensor, size: int, mask: Tensor, width: int, damping: tuple[int, float, float]
) -> Tensor:
    """The squares of `width` on the diagonals of the inverted blocks.

    size: a multiple of `width`.
    mask: float32 [weights], 0.0 where a weight is pruned: its row and column count as zero.
    damping: the number of gradients in `sums`, what is added to the diagonal of their mean, and
        the share of the diagonal's sum that is added at least.

    The result is float64 [blocks, size / width, width, width].
    """
    weights, threads = len(mask), torch.get_num_threads()
    inverses = torch.empty(-(-weights // size), size // width, width, width, dtype=torch.float64)
    scratch = _scratch(threads, size, 2 + width)
    library(KERNEL).inverse_squares(
        address(sums),
        address(mask),
        *map(ctypes.c_long, (weights, size, width)),
        *map(ctypes.c_double, damping),
        address(inverses),
        address(scratch),
        threads,
    )
    return inverses


def compensated(
    sums: Tensor, size: int, weight: Tensor, mask: Tensor, damping: tuple[int, float, float]
) -> Tensor:
    """`weight` [weights] after the removal of what `mask` prunes, the others updated for it.

    The arguments are those of `inverse_squares`; `weight` is float32 and contiguous.
    """
    threads, moved = torch.get_num_threads(), torch.empty_like(weight)
    scratch = _scratch(threads, size, 4)
    library(KERNEL).compensate(
        address(sums),
        address(weight),
        address(mask),
        *map(ctypes.c_long, (len(weight), size)),
        *map(ctypes.c_double, damping),
        address(moved),
        address(scratch),
        threads,
    )
    return moved


def _lanes() -> int:
    """How many blocks are a group: as many as a register has values."""
    return constant(library(KERNEL), "lanes")


def _scratch(threads: int, size: int, rows: int) -> Tensor:
    """Uninitialized memory for the factors of half a group, and `rows` rows, for each thread."""
    values = (size * (size + 1) // 2 + rows * size) * _lanes() // 2
    return torch.empty(threads, values, dtype=torch.float64)
