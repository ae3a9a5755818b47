"""AdamW and the norm of gradients, each in one pass over memory; CPU only."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsekit.kernels.library import Kernel, is_available, library
from sparsekit.kernels.tensors import address

# Values per partial sum of squares, as in the C file.
BLOCK = 8192


class Parameter(ctypes.Structure):
    """The arguments of one step for one weight; mirrors `parameter` in csrc/adamw/adamw.c.

    weight, exp_avg, exp_avg_sq: float32 [rows, width], or [width].
    gradient: float32 of the weight's shape or, with `gradient_rows`, [n, width].
    gradient_rows: int32 [rows], the index in `gradient` of each row, -1 for a gradient of zero.
    touched: bool [rows], with `gradient_rows` only: whether the row's averages may be nonzero.
    factors: `decay`, `step_size` and `inverse_sqrt` of the C structure.

    Tensors are contiguous. Only their addresses are stored: the caller must keep them alive.
    """

    _fields_ = (
        ("rows", ctypes.c_long),
        ("width", ctypes.c_long),
        ("weight", ctypes.c_void_p),
        ("exp_avg", ctypes.c_void_p),
        ("exp_avg_sq", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("gradient_rows", ctypes.c_void_p),
        ("touched", ctypes.c_void_p),
        ("decay", ctypes.c_float),
        ("step_size", ctypes.c_float),
        ("inverse_sqrt", ctypes.c_float),
    )

    def __init__(
        self,
        weight: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        gradient: Tensor,
        gradient_rows: Tensor | None,
        touched: Tensor | None,
        factors: tuple[float, float, float],
    ) -> None:
        # Not from the number of values: a weight without any may have rows all the same.
        rows, width = math.prod(weight.shape[:-1]), weight.shape[-1] if weight.ndim else 1
        tensors = (weight, exp_avg, exp_avg_sq, gradient, gradient_rows, touched)
        addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        super().__init__(rows, width, *addresses, *factors)


KERNEL = Kernel(
    "adamw",
    structures={"parameter": Parameter},
    constants={"block_values": BLOCK},
)


def available() -> bool:
    """Whether the kernels are available on this machine; warns once if not."""
    return is_available(KERNEL, "the optimizer")


def step(
    parameters: Sequence[Parameter], factor: float, betas: tuple[float, float], epsilon: float
) -> None:
    """One step of AdamW for each parameter, with its gradient multiplied by `factor`."""
    beta1, beta2 = betas
    library(KERNEL).adamw(
        (Parameter * len(parameters))(*parameters),
        ctypes.c_long(len(parameters)),
        *map(ctypes.c_float, (factor, 1 - beta1, beta2, 1 - beta2, epsilon)),
        torch.get_num_threads(),
    )


def norm(gradients: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all values of float32 tensors, as a float32 scalar."""
    counts = [gradient.numel() for gradient in gradients]
    sums = torch.empty(sum(-(-count // BLOCK) for count in counts))
    library(KERNEL).sums_of_squares(
        (ctypes.c_void_p * len(counts))(*(gradient.data_ptr() for gradient in gradients)),
        (ctypes.c_long * len(counts))(*counts),
        ctypes.c_long(len(counts)),
        address(sums),
        torch.get_num_threads(),
    )
    return sums.sum(dtype=torch.float64).sqrt().float()
