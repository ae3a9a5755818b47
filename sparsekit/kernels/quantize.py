"""Quantization and the scaling of integer matmuls, each in one pass over memory; CPU only.

Results are bit-equal to those of torch's operations, which take up to six passes.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sparsekit.kernels.library import Kernel, is_available, library
from sparsekit.kernels.tensors import address

KERNEL = Kernel("quantize")


def available() -> bool:
    """Whether the kernels are available on this machine; warns once if not."""
    return is_available(KERNEL, "quantization-aware training")


def quantize(
    values: Tensor, scale: Tensor, zero_point: Tensor | None, limits: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Quantized float32 `values` [rows, width], and a boolean mask of those within `limits`.

    scale: a scalar, or [rows, 1].
    zero_point: an int32 scalar; None is 0.

    The result is int8 for a negative lower limit, else uint8.
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
    state: tuple[Tensor, Tensor, Tensor, Tensor],
    limits: tuple[int, int],
    symmetric: bool,
    averaging: float,
    epsilon: float,
) -> None:
    """Update a moving average of the range of float32 values in place; see `FakeQuantizer.observe`.

    state: scalars, the smallest and the largest value, the scale, and the int32 zero point.
    averaging: the weight of the new range in the average.
    epsilon: the smallest scale.
    """
    values = values.detach().contiguous()
    library(KERNEL).observe(
        address(values),
        ctypes.c_long(values.numel()),
        *(ctypes.c_float(value) for value in (averaging, epsilon, *limits)),
        int(symmetric),
        *(address(tensor) for tensor in state),
        torch.get_num_threads(),
    )


def scaled_sums(
    sums: Tensor, zero_point: Tensor, right: Tensor, scales: Tensor, bias: Tensor | None
) -> Tensor:
    """The float32 result [rows, out] of a matmul of quantized values, from its int32 `sums`.

    sums: [rows, out], of uint8 values, not yet reduced by `zero_point`, times `right`.
    right: the int8 weight [out, in].
    scales: [1] or [out], the product of both operands' scales.
    """
    rows, out = sums.shape
    offsets = torch.empty(out, dtype=torch.int32)
    scales = scales.expand(out).contiguous()
    bias = None if bias is None else bias.contiguous()
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
