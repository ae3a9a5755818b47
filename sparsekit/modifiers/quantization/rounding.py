"""Rounding with straight-through gradients, and matmuls of the rounded integers.

torch's fake quantization is not vectorized on a CPU; this one is, with bit-equal results. A matmul
of quantized values is a matmul of integers, times two scales: on a CPU with int8 units the integers
are multiplied exactly and scaled afterwards.
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
from sparsekit.kernels.tensors import float32_on_cpu
from sparsekit.sparsity.masks import masked
from sparsekit.system import cpu_units

INT8 = (-128, 127)
UINT8 = (0, 255)
# The largest inner dimension of uint8 times int8 whose sums are exact in the worst case, all
# 255 * -128: in int32, and in float32, which represents integers up to 2**24 exactly.
EXACT_IN_INT32 = (2**31 - 1) // (255 * 128)
EXACT_IN_FLOAT32 = 2**24 // (255 * 128)


@functools.cache
def has_int8_units() -> bool:
    """Whether the CPU multiplies int8 faster than float32: AVX512-VNNI or AMX.

    On two cores with AVX512-VNNI, `torch._int_mm` reached 1,200 GOP/s and the float32 matmul 300
    (torch 2.13). Without such units torch falls back to slower kernels.
    """
    units = cpu_units() or {}
    return units.get("avx512_vnni", False) or units.get("amx_int8", False)


def to_integers(
    values: Tensor, scale: Tensor, zero_point: Tensor | None, limits: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The quantized `values` as float32 integers, and a boolean mask of those within `limits`.

    scale: broadcasts against `values`; its reciprocal is rounded to float32, as in
        `torch.fake_quantize_per_tensor_affine`.
    zero_point: None is 0.

    Halves are rounded to even.
    """
    integers = values.mul(scale.reciprocal()).round_()
    if zero_point is not None:
        integers.add_(zero_point)
    clamped = integers.clamp(*limits)
    return clamped, clamped == integers


def fake_quantize(
    values: Tensor, scale: Tensor, zero_point: Tensor, limits: tuple[int, int]
) -> Tensor:
    """`values` (float32), quantized to integers within `limits` and back.

    scale, zero_point: scalars, or one entry for each index of dimension 0.

    The gradient is passed on unchanged where a value is within the limits, and is 0 elsewhere.
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
    """`F.linear` of `values` quantized to uint8 and `weight` [out, in] to symmetric int8.

    All but the zero point are float32, on a CPU.

    Equal to `F.linear(fake_quantize(values), fake_quantize(weight), bias)`, gradients included, up
    to the order of float32 rounding.

    pattern: the positions of `weight` that are not masked, or None. Masked ones get no gradient,
        and gradients are computed faster, as is the result where there are no int8 units.
    """
    if weight_scale.ndim:
        weight_scale = _along_first(weight_scale, 2)
    rows = values.reshape(-1, values.shape[-1])
    arguments = (rows, weight, bias, scale, zero_point, weight_scale, int8_units, pattern)
    result: Tensor = _QuantizedLinear.apply(*arguments)  # type: ignore[no-untyped-call]
    # Reshaped here: autograd refuses to change the result in place, as DeBERTa does, where a
    # function of its own returned a view.
    return result.view(*values.shape[:-1], len(weight))


def integer_matmul(left: Tensor, zero_point: Tensor, right: Tensor, int8_units: bool) -> Tensor:
    """(left - zero_point) @ right.T as float32 [rows, out].

    left: uint8 [rows, in]. right: int8 [out, in].

    With int8 units the sums are exact up to `in` = 65,793, and rounded to float32 once. In float32
    they are exact up to `in` = 514, and beyond it while no partial sum exceeds 2**24.
    """
    # For an inner size of 1 torch 2.13 returns uninitialized memory.
    if int8_units and 1 < left.shape[1] <= EXACT_IN_INT32:
        sums = torch._int_mm(left, right.t())
        return sums.sub_(right.sum(1, dtype=torch.int32) * zero_point).float()
    return F.linear(left.float().sub_(zero_point), right.float())


def to_bytes(
    values: Tensor, scale: Tensor, zero_point: Tensor | None, limits: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """`to_integers` of float32 [rows, width], int8 for a negative lower limit, else uint8."""
    if takes_kernels(values, scale):
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
    """`integer_matmul` times `scales` (one, or one for each output), plus the bias."""
    if int8_units and 1 < left.shape[1] <= EXACT_IN_INT32 and takes_kernels(scales, bias):
        sums = torch._int_mm(left, right.t())
        return quantize.scaled_sums(sums, zero_point, right, scales, bias)
    result = integer_matmul(left, zero_point, right, int8_units).mul_(scales)
    return result if bias is None else result.add_(bias)


def takes_kernels(*tensors: Tensor | None) -> bool:
    """Whether the kernels of `kernels.quantize` accept these float tensors."""
    # torch.compile cannot trace these kernels, and fuses torch's operations itself.
    if torch.compiler.is_compiling():
        return False
    return float32_on_cpu(*tensors) and quantize.available()


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
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return masked(grad_output, inside), None, None, None


class _QuantizedLinear(torch.autograd.Function):
    """`quantized_linear` of two-dimensional values."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor,
        zero_point: Tensor,
        weight_scale: Tensor,
        int8_units: bool,
        pattern: SparsePattern | None,
    ) -> Tensor:
        # Saved for the backward pass as bytes, a quarter of the size of float32.
        left, left_inside = to_bytes(rows, scale, zero_point, UINT8)
        scales = scale * weight_scale.view(-1)
        if pattern is None or int8_units:
            right, right_inside = to_bytes(weight, weight_scale, None, INT8)
            result = integer_linear(left, zero_point, right, scales, bias, int8_units)
        if pattern is not None:
            right, right_inside = _entries(pattern, weight, weight_scale)
            if not int8_units:
                scales = scales.expand(len(weight)).contiguous()
                result = pattern.linear(left, right.float(), bias, zero_point, scales)
        ctx.pattern = pattern
        # Copies, since a layer that is called again, as in ALBERT, updates its ranges in between.
        used = (scale.clone(), zero_point.clone(), weight_scale.clone())
        ctx.save_for_backward(left, left_inside, right, right_inside, *used)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        left, left_inside, right, right_inside, scale, zero_point, weight_scale = ctx.saved_tensors
        rows = grad_output.contiguous()
        grad_values = grad_weight = grad_bias = None
        pattern = ctx.pattern
        if ctx.needs_input_grad[0]:
            if pattern is None:
                grad = rows @ right.float().mul_(weight_scale)
                grad_values = masked(grad, left_inside)
            else:
                entries = right.float().mul_(_entry_scales(pattern, weight_scale))
                grad_values = pattern.input_gradient(rows, entries, left_inside)
        if ctx.needs_input_grad[1]:
            if pattern is None:
                grad = rows.t() @ left.float().sub_(zero_point)
                grad_weight = masked(grad.mul_(scale), right_inside)
            else:
                factors = right_inside.float().mul_(scale)
                grad_weight = pattern.weight_gradient(left, rows, zero_point, factors)
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0)
        return grad_values, grad_weight, grad_bias, None, None, None, None, None


def _entries(pattern: SparsePattern, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    # The rounded weight at the indices of the pattern, and which of them are within the limits.
    # Gathering floats and rounding them is several times faster than torch's indexing of bytes.
    entries = pattern.entries(weight)
    integers, inside = to_integers(entries, _entry_scales(pattern, scale), None, INT8)
    return integers.to(torch.int8), inside


def _entry_scales(pattern: SparsePattern, scale: Tensor) -> Tensor:
    # One for all indices of the pattern, or one for each.
    return scale.view(()) if scale.numel() == 1 else pattern.of_rows(scale.view(-1))


def _along_first(parameter: Tensor, dimensions: int) -> Tensor:
    # Reshaped to broadcast along dimension 0.
    return parameter.view(-1, *[1] * (dimensions - 1))
