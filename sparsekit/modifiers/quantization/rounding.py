"""Rounding with straight-through gradients, and products of the rounded integers themselves.

torch's own fake-quantize rounds one number after the other on a CPU; here whole vectors are, to the
same bits. A product of quantized values is a product of integers times two scales. So the integers
are multiplied, exactly, where the CPU has units for int8, and scaled afterwards.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsekit.kernels import quantize
from sparsekit.kernels.sparse_linear import SparsePattern
from sparsekit.system import cpu_units

INT8 = (-128, 127)
UINT8 = (0, 255)
# The longest sums of uint8 times int8 that are exact in the worst case, all 255 times -128: in
# int32, and in float32, whose integers are exact up to 2**24.
EXACT_IN_INT32 = (2**31 - 1) // (255 * 128)
EXACT_IN_FLOAT32 = 2**24 // (255 * 128)


@functools.cache
def has_int8_units() -> bool:
    """Whether the CPU multiplies int8 faster than float32: AVX512-VNNI or AMX.

    On two cores with AVX512-VNNI, `torch._int_mm` did 1,200 billion operations a second and the
    float32 product 300 (torch 2.13). Without such units torch falls back to slower kernels.
    """
    units = cpu_units() or {}
    return units.get("avx512_vnni", False) or units.get("amx_int8", False)


def to_integers(
    values: Tensor, scale: Tensor, zero_point: Tensor | None, limits: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The integers that stand for `values`, as float32, and which of them lay within `limits`.

    `scale` must broadcast against `values`; no `zero_point` is one of 0. Halves are rounded to
    even, and so is the reciprocal of the scale, as in `torch.fake_quantize_per_tensor_affine`.
    """
    integers = values.mul(scale.reciprocal()).round_()
    if zero_point is not None:
        integers.add_(zero_point)
    clamped = integers.clamp(*limits)
    return clamped, clamped == integers


def fake_quantize(
    values: Tensor, scale: Tensor, zero_point: Tensor, limits: tuple[int, int]
) -> Tensor:
    """`values`, float32, rounded to the numbers that integers within `limits` can stand for.

    `scale` and `zero_point` are scalars, or have one entry for each index of dimension 0. The
    gradient passes unchanged where a value lay within the limits, and is 0 elsewhere.
    """
    if values.device.type == "cpu":
        if scale.ndim:
            scale, zero_point = (_along_first(t, values.ndim) for t in (scale, zero_point))
        rounded: Tensor = _FakeQuantize.apply(values, scale, zero_point, limits)  # type: ignore[no-untyped-call]
        return rounded
    if scale.ndim:
        return torch.fake_quantize_per_channel_affine(values, scale, zero_point, 0, *limits)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero_point, *limits)


def quantized_linear(
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    zero_point: Tensor,
    weight_scale: Tensor,
    int8_units: bool,
    pattern: SparsePattern | None = None,
) -> Tensor:
    """`F.linear` of values rounded to uint8 and of a weight [out, in] rounded to symmetric int8.

    The same as `F.linear(fake_quantize(values), fake_quantize(weight), bias)`, in values and in
    straight-through gradients, but for the order in which float32 rounds. On a CPU only.
    A weight that is zero outside of `pattern` gets no gradient there, and gradients take less time.
    """
    if weight_scale.ndim:
        weight_scale = _along_first(weight_scale, 2)
    arguments = (values, weight, bias, scale, zero_point, weight_scale, int8_units, pattern)
    result: Tensor = _QuantizedLinear.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def integer_product(left: Tensor, zero_point: Tensor, right: Tensor, int8_units: bool) -> Tensor:
    """(left - zero_point) @ right.T as float32 [rows, out].

    `left` is uint8 [rows, in], `right` int8 [out, in]. On int8 units the sums are exact up to
    `in` = 65,793 and rounded once, to float32. In float32 they are exact up to `in` = 514, and
    beyond it as long as no partial sum passes 2**24.
    """
    # torch 2.13 returns memory that it never wrote for an inner size of 1.
    if int8_units and 1 < left.shape[1] <= EXACT_IN_INT32:
        sums = torch._int_mm(left, right.t())
        return sums.sub_(right.sum(1, dtype=torch.int32) * zero_point).float()
    return F.linear(left.float().sub_(zero_point), right.float())


def to_bytes(
    values: Tensor, scale: Tensor, zero_point: Tensor | None, limits: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """`to_integers` of float32 [rows, width], as int8 for limits below 0, else uint8."""
    if takes_kernels(values):
        return quantize.quantize(values, scale, zero_point, limits)
    integers, inside = to_integers(values, scale, zero_point, limits)
    return integers.to(torch.int8 if limits[0] < 0 else torch.uint8), inside


def integer_linear(
    left: Tensor,
    zero_point: Tensor,
    right: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    int8_units: bool,
) -> Tensor:
    """`integer_product` times `scales`, one or one for each output, plus a bias."""
    if int8_units and 1 < left.shape[1] <= EXACT_IN_INT32 and takes_kernels(scales):
        sums = torch._int_mm(left, right.t())
        return quantize.scaled_sums(sums, zero_point, right, scales, bias)
    result = integer_product(left, zero_point, right, int8_units).mul_(scales)
    return result if bias is None else result.add_(bias)


def takes_kernels(values: Tensor) -> bool:
    """Whether the kernels of `kernels.quantize` work on `values`, which are on a CPU."""
    # torch's compiler cannot see into ours, and fuses its own operations into one pass itself.
    plain = values.dtype == torch.float32 and not torch.compiler.is_compiling()
    return plain and quantize.available()


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, scale: Tensor, zero_point: Tensor, limits: tuple[int, int]
    ) -> Tensor:
        integers, inside = to_integers(values, scale, zero_point, limits)
        ctx.save_for_backward(inside)
        return integers.sub_(zero_point).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, gradient, 0.0), None, None, None


class _QuantizedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor,
        zero_point: Tensor,
        weight_scale: Tensor,
        int8_units: bool,
        pattern: SparsePattern | None,
    ) -> Tensor:
        rows = values.reshape(-1, values.shape[-1])
        # Bytes are a quarter of what float32 would keep until the backward pass.
        left, left_inside = to_bytes(rows, scale, zero_point, UINT8)
        right, right_inside = to_bytes(weight, weight_scale, None, INT8)
        scales = scale * weight_scale.view(-1)
        result = integer_linear(left, zero_point, right, scales, bias, int8_units)
        ctx.pattern, ctx.shape = pattern, weight.shape
        if pattern is not None:
            right, right_inside = _entries(pattern, weight, weight_scale, right, right_inside)
        # Copies: a layer that a model calls again, as ALBERT does, observes anew in between.
        used = (scale.clone(), zero_point.clone(), weight_scale.clone())
        ctx.save_for_backward(left, left_inside, right, right_inside, *used)
        return result.view(*values.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        left, left_inside, right, right_inside, scale, zero_point, weight_scale = ctx.saved_tensors
        rows = gradient.reshape(-1, ctx.shape[0]).contiguous()
        to_values = to_weight = to_bias = None
        pattern = ctx.pattern
        if ctx.needs_input_grad[0]:
            if pattern is None:
                product = rows @ right.float().mul_(weight_scale)
                to_values = torch.where(left_inside, product, 0.0)
            else:
                entries = right.float().mul_(_entry_scales(pattern, weight_scale, ctx.shape))
                to_values = pattern.input_gradient(rows, entries, left_inside)
            to_values = to_values.view(*gradient.shape[:-1], left.shape[1])
        if ctx.needs_input_grad[1]:
            if pattern is None:
                product = rows.t() @ left.float().sub_(zero_point)
                to_weight = torch.where(right_inside, product.mul_(scale), 0.0)
            else:
                factors = right_inside.float().mul_(scale)
                to_weight = pattern.weight_gradient(left, rows, zero_point, factors)
        if ctx.needs_input_grad[2]:
            to_bias = rows.sum(0)
        return to_values, to_weight, to_bias, None, None, None, None, None


def _entries(
    pattern: SparsePattern, weight: Tensor, scale: Tensor, rounded: Tensor, inside: Tensor
) -> tuple[Tensor, Tensor]:
    # `rounded` and `inside` at the pattern's places. To gather floats and round them once more is
    # several times faster than torch's selection of bytes.
    if scale.numel() > 1:
        return pattern.entries(rounded), pattern.entries(inside)
    entries, of_entries = to_bytes(pattern.entries(weight).view(1, -1), scale, None, INT8)
    return entries.view(-1), of_entries.view(-1)


def _entry_scales(pattern: SparsePattern, scale: Tensor, shape: torch.Size) -> Tensor:
    # One for all of the pattern's places, or one for each.
    return scale.view(()) if scale.numel() == 1 else pattern.entries(scale.expand(shape))


def _along_first(parameter: Tensor, dimensions: int) -> Tensor:
    # One entry for each index of dimension 0, so that it broadcasts over the others.
    return parameter.view(-1, *[1] * (dimensions - 1))
