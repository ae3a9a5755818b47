"""The quantization kernels are bit-equal to torch's operations."""

from __future__ import annotations

import logging

import pytest
import torch
from compiler import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsekit.kernels import quantize
from sparsekit.kernels.sparse_linear import SparsePattern
from sparsekit.modifiers.quantization import fake_quantize, rounding
from sparsekit.modifiers.quantization.fake_quantize import FakeQuantizer
from sparsekit.modifiers.quantization.rounding import INT8, UINT8, quantized_linear

pytestmark = needs_compiler

SEEDS = st.integers(0, 2**31)


def by_torch(
    values: Tensor, scale: Tensor, zero_point: Tensor | None, limits: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    integers, inside = rounding.to_integers(values, scale, zero_point, limits)
    return integers.to(torch.int8 if limits[0] < 0 else torch.uint8), inside


@settings(max_examples=60)
@given(
    seed=SEEDS,
    rows=st.sampled_from([1, 3, 64]),
    width=st.sampled_from([1, 15, 16, 33, 200]),
    per_row=st.booleans(),
    limits=st.sampled_from([INT8, UINT8]),
)
def test_quantized_values_and_the_mask_of_those_within_limits(
    seed: int, rows: int, width: int, per_row: bool, limits: tuple[int, int]
) -> None:
    torch.manual_seed(seed)
    scale = torch.rand((rows, 1) if per_row else ()) * 10 ** float(torch.randint(-4, 2, ())) + 1e-7
    zero_point = None if limits == INT8 else torch.randint(0, 256, (), dtype=torch.int32)
    # Some are beyond the limits, and some half-way between two integers.
    values = torch.randn(rows, width) * scale.max() * 100
    values[:, ::4] = (torch.randint(-300, 300, values[:, ::4].shape) + 0.5) * scale.max()
    result = quantize.quantize(values, scale, zero_point, limits)
    for ours, torchs in zip(result, by_torch(values, scale, zero_point, limits), strict=True):
        assert ours.dtype == torchs.dtype and torch.equal(ours, torchs)


@settings(max_examples=60)
@given(
    seed=SEEDS,
    limits=st.sampled_from([INT8, UINT8]),
    symmetric=st.booleans(),
    threads=st.sampled_from([1, 3]),
    last=st.sampled_from([0.0, 5.0, -5.0, torch.inf, torch.nan]),
)
def test_ranges_scales_and_zero_points(
    seed: int, limits: tuple[int, int], symmetric: bool, threads: int, last: float
) -> None:
    torch.manual_seed(seed)
    ours, torchs = (FakeQuantizer(limits, symmetric) for _ in range(2))
    size, shift = 10 ** float(torch.randint(-9, 3, ())), float(torch.randint(-3, 4, ()))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for step in range(4):
            values = (torch.randn(5, 37) + shift) * size * (step > 0 or seed % 2)
            if step == 3 and last:
                values[4, 36] = last
            ours.observe(values)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(fake_quantize, "takes_kernels", lambda *_: False)
                torchs.observe(values)
            # The conversion of NaN to an integer depends on the processor.
            undefined = bool(torchs.scale.isnan())
            for name, buffer in torchs.named_buffers():
                if not (undefined and name == "zero_point"):
                    result = ours.get_buffer(name)
                    torch.testing.assert_close(result, buffer, rtol=0, atol=0, equal_nan=True)
    finally:
        torch.set_num_threads(before)


def test_no_values_leave_a_range_alone() -> None:
    quantizer = FakeQuantizer(UINT8, symmetric=False)
    for seen in (False, True):
        if seen:
            quantizer.observe(torch.tensor([-1.0, 2.0]))
        before = {name: buffer.clone() for name, buffer in quantizer.named_buffers()}
        quantizer.observe(torch.empty(0, 4))
        state = (quantizer.min_val, quantizer.max_val, quantizer.scale, quantizer.zero_point)
        quantize.observe(torch.empty(0, 4), state, UINT8, False, 0.01, 1e-7)
        for name, buffer in quantizer.named_buffers():
            assert torch.equal(buffer, before[name])


@settings(max_examples=40)
@given(
    seed=SEEDS,
    rows=st.sampled_from([1, 2, 40]),
    width=st.sampled_from([2, 17, 300]),
    out=st.sampled_from([1, 15, 40]),
    per_channel=st.booleans(),
    with_bias=st.booleans(),
)
def test_scaled_sums(
    seed: int, rows: int, width: int, out: int, per_channel: bool, with_bias: bool
) -> None:
    torch.manual_seed(seed)
    left = torch.randint(0, 256, (rows, width), dtype=torch.uint8)
    right = torch.randint(-128, 128, (out, width), dtype=torch.int8)
    zero_point = torch.randint(0, 256, (), dtype=torch.int32)
    scales = torch.rand(out if per_channel else 1) / 1000
    bias = torch.randn(out) if with_bias else None
    sums = left.int() @ right.int().t()
    expected = rounding.integer_matmul(left, zero_point, right, False).double() * scales.double()
    exact = (left.double() - zero_point) @ right.double().t()
    assert torch.equal(exact, (sums - zero_point * right.int().sum(1)).double())
    by_torch = (sums - zero_point * right.int().sum(1)).float().mul_(scales)
    by_torch = by_torch if bias is None else by_torch.add_(bias)
    assert torch.equal(quantize.scaled_sums(sums, zero_point, right, scales, bias), by_torch)
    if bias is not None:
        spread = torch.stack([bias, bias + 1], dim=1)[:, 0]
        assert torch.equal(quantize.scaled_sums(sums, zero_point, right, scales, spread), by_torch)
    if bias is None:
        torch.testing.assert_close(by_torch.double(), expected, rtol=1e-5, atol=1e-4)


def linear(
    per_channel: bool, pattern: SparsePattern | None, mask: Tensor | None
) -> tuple[Tensor, ...]:
    """The output of a quantized layer for fixed values, and its three gradients."""
    torch.manual_seed(3)
    values = torch.randn(5, 9, 40, requires_grad=True)
    weight = torch.randn(24, 40) * (1.0 if mask is None else mask)
    weight.requires_grad_()
    bias = torch.randn(24, requires_grad=True)
    # Ranges that clamp some values of both operands.
    scale, zero_point = torch.tensor(0.012), torch.tensor(120, dtype=torch.int32)
    weight_scale = torch.rand(24) * 0.01 + 0.008 if per_channel else torch.tensor(0.014)
    result = quantized_linear(
        values, weight, bias, scale, zero_point, weight_scale, rounding.has_int8_units(), pattern
    )
    result.backward(torch.randn(result.shape))
    assert values.grad is not None and weight.grad is not None and bias.grad is not None
    return result.detach(), values.grad, weight.grad, bias.grad


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_layer_without_a_compiler_gives_equal_results(
    per_channel: bool, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    assert quantize.available()
    compiled = linear(per_channel, None, None)
    request.getfixturevalue("no_compiler")
    with caplog.at_level(logging.WARNING):
        plain = linear(per_channel, None, None)
        linear(per_channel, None, None)
    assert caplog.text.count("there is no C compiler 'no-such-compiler'") == 1
    assert all(torch.equal(one, other) for one, other in zip(compiled, plain, strict=True))


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_sparse_layer_equals_a_dense_one(per_channel: bool) -> None:
    mask = torch.rand(24, 40, generator=torch.Generator().manual_seed(0)) < 0.3
    dense = linear(per_channel, None, mask)
    sparse = linear(per_channel, SparsePattern(mask), mask)
    assert torch.equal(sparse[0], dense[0]) and torch.equal(sparse[3], dense[3])
    torch.testing.assert_close(sparse[1], dense[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sparse[2], dense[2] * mask, rtol=1e-5, atol=1e-5)
    assert sparse[2][mask].abs().max() > 0 and not sparse[2][~mask].any()
