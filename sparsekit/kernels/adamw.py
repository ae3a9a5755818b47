"""AdamW and the norm of gradients, each in one pass over memory; on a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsekit.kernels.library import Kernel, is_available, library
from sparsekit.kernels.tensors import address

# Values whose squares make one partial sum.
BLOCK = 8192


class Parameter(ctypes.Structure):
    """What one step takes of a weight, as the C file describes it.

    `gradient` is of the weight's shape or, with `places`, of the rows that they number: one int32
    a row of the weight, -1 for none. `moved` is then one byte a row: whether its averages may be
    other than zero. Tensors are float32 and contiguous; addresses are kept, so they must live on.
    """

    _fields_ = (
        ("rows", ctypes.c_long),
        ("width", ctypes.c_long),
        ("weight", ctypes.c_void_p),
        ("average", ctypes.c_void_p),
        ("square", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("moved", ctypes.c_void_p),
        ("decay", ctypes.c_float),
        ("step_size", ctypes.c_float),
        ("inverse_root", ctypes.c_float),
    )

    def __init__(
        self,
        weight: Tensor,
        average: Tensor,
        square: Tensor,
        gradient: Tensor,
        places: Tensor | None,
        moved: Tensor | None,
        factors: tuple[float, float, float],
    ) -> None:
        width = weight.shape[-1] if weight.ndim else 1
        tensors = (weight, average, square, gradient, places, moved)
        addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        super().__init__(weight.numel() // width, width, *addresses, *factors)


# Neither flag changes a result here; they allow vector instructions.
KERNEL = Kernel(
    "adamw",
    ("-fno-math-errno", "-fno-trapping-math"),
    structures={"parameter": Parameter},
    constants={"block_values": BLOCK},
)


def available() -> bool:
    """Whether the kernels can be compiled here; warns once if not."""
    return is_available(KERNEL, "the optimizer")


def step(
    parameters: Sequence[Parameter], factor: float, betas: tuple[float, float], epsilon: float
) -> None:
    """One step of AdamW for each parameter, with its gradient times `factor`."""
    library(KERNEL).adamw(
        (Parameter * len(parameters))(*parameters),
        ctypes.c_long(len(parameters)),
        ctypes.c_float(factor),
        ctypes.c_float(betas[0]),
        ctypes.c_float(betas[1]),
        ctypes.c_float(epsilon),
        torch.get_num_threads(),
    )


def norm(gradients: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all numbers of float32 tensors."""
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
