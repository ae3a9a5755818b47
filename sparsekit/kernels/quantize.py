"""Rounding to bytes and scaling of integer sums, each in one pass; on a CPU.

Results are those of torch's operations to the bit, which take up to six passes.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sparsekit.kernels.library import Kernel, is_available, library
from sparsekit.kernels.tensors import address

# A multiplication and an addition are rounded separately, as in torch. The other two flags change
# no result here; they allow vector instructions.
KERNEL = Kernel("quantize", ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"))


def available() -> bool:
    """Whether the kernels can be compiled here; warns once if not."""
    return is_available(KERNEL, "quantization-aware training")


def quantize(
    values: Tensor, scale: Tensor, zero_point: Tensor | None, limits: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """float32 [rows, width] as uint8, or int8 for limits below 0, and which were within `limits`.

    `scale` has one number, or one a row; `zero_point` is an int32 scalar, None for 0.
    """
    values, inverse = values.detach().contiguous(), scale.reciprocal().contiguous()
    rows, width = values.shape
    out = torch.empty(rows, width, dtype=torch.int8 if limits[0] < 0 else torch.uint8)
    inside = torch.empty(rows, width, dtype=torch.bool)
    library(KERNEL).quantize(
        address(values),
        ctypes.c_long(rows),
        ctypes.c_long(width),
        address(inverse),
        int(inverse.numel() > 1),
        address(zero_point),
        ctypes.c_float(limits[0]),
        ctypes.c_float(limits[1]),
        address(out),
        address(inside),
        torch.get_num_threads(),
    )
    return out, inside


def observe(
    values: Tensor,
    found: tuple[Tensor, Tensor, Tensor, Tensor],
    limits: tuple[int, int],
    symmetric: bool,
    averaging: float,
    epsilon: float,
) -> None:
    """Move a range towards that of float32 values, in place; see `FakeQuantizer.observe`.

    `found` are the range's two ends, its scale and its zero point (int32), all scalars.
    """
    values = values.detach().contiguous()
    library(KERNEL).observe(
        address(values),
        ctypes.c_long(values.numel()),
        *(ctypes.c_float(number) for number in (averaging, epsilon, *limits)),
        int(symmetric),
        *(address(tensor) for tensor in found),
        torch.get_num_threads(),
    )


def scaled_sums(
    sums: Tensor, zero_point: Tensor, right: Tensor, scales: Tensor, bias: Tensor | None
) -> Tensor:
    """The float32 product [rows, out] that int32 sums of uint8 times int8 stand for.

    `right` is the int8 weight [out, in]; `scales` has one number, or one for each output.
    """
    rows, out = sums.shape
    offsets = torch.empty(out, dtype=torch.int32)
    scales = scales.expand(out).contiguous()
    result = torch.empty(rows, out)
    compiled, threads = library(KERNEL), torch.get_num_threads()
    compiled.row_sums(
        address(right),
        ctypes.c_long(out),
        ctypes.c_long(right.shape[1]),
        address(offsets),
        threads,
    )
    compiled.scale_sums(
        address(sums),
        ctypes.c_long(rows),
        ctypes.c_long(out),
        address(zero_point),
        address(offsets),
        address(scales),
        address(bias),
        address(result),
        threads,
    )
    return result
