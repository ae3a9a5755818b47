"""Rounding and integer products against torch's own fake-quantize and against int64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsekit.kernels import quantize
from sparsekit.kernels.sparse_linear import SparsePattern
from sparsekit.modifiers.quantization.fake_quantize import QuantLinear
from sparsekit.modifiers.quantization.rounding import (
    EXACT_IN_FLOAT32,
    EXACT_IN_INT32,
    INT8,
    UINT8,
    fake_quantize,
    integer_linear,
    integer_matmul,
    quantized_linear,
)
from sparsekit.modifiers.quantization.scheme import Scheme

SEEDS = st.integers(0, 2**31)


def torch_rounds(values: Tensor, scale: Tensor, zero: Tensor, limits: tuple[int, int]) -> Tensor:
    """What torch itself makes of it."""
    if scale.ndim:
        return torch.fake_quantize_per_channel_affine(values, scale, zero, 0, *limits)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, *limits)


def integers(rows: int, columns: int, limits: tuple[int, int]) -> Tensor:
    return torch.randint(limits[0], limits[1] + 1, (rows, columns))


def constant(rows: int, columns: int, value: int) -> Tensor:
    return torch.full((rows, columns), value)


def zero_point(value: int) -> Tensor:
    return torch.tensor(value, dtype=torch.int32)


@settings(max_examples=60)
@given(seed=SEEDS, channels=st.sampled_from([0, 1, 5]), limits=st.sampled_from([INT8, UINT8]))
def test_rounding_is_torchs_to_the_bit(seed: int, channels: int, limits: tuple[int, int]) -> None:
    torch.manual_seed(seed)
    shape = (channels,) if channels else ()
    scale = torch.rand(shape) * 10 ** float(torch.randint(-4, 2, ())) + 1e-7
    zero = torch.randint(*limits, shape, dtype=torch.int32)
    # Some beyond the limits, and some half-way between two integers.
    values = torch.randn(channels or 7, 33) * scale.max() * 100
    values[:, ::4] = (torch.randint(-300, 300, (channels or 7, 9)) + 0.5) * scale.max()
    ours, theirs = (values.clone().requires_grad_() for _ in range(2))
    rounded = fake_quantize(ours, scale, zero, limits)
    expected = torch_rounds(theirs, scale, zero, limits)
    assert torch.equal(rounded, expected)
    gradient = torch.randn_like(values)
    rounded.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(ours.grad, theirs.grad)


@settings(max_examples=60)
@given(
    seed=SEEDS,
    rows=st.integers(1, 40),
    inner=st.integers(1, EXACT_IN_FLOAT32),
    outer=st.integers(1, 40),
    zero=st.integers(*UINT8),
    int8_units=st.booleans(),
)
def test_integer_matmuls_are_exact(
    seed: int, rows: int, inner: int, outer: int, zero: int, int8_units: bool
) -> None:
    torch.manual_seed(seed)
    left, right = integers(rows, inner, UINT8), integers(outer, inner, INT8)
    result = integer_matmul(left.byte(), zero_point(zero), right.char(), int8_units)
    assert torch.equal(result.long(), (left - zero) @ right.t())


@pytest.mark.parametrize("low", [-128, 127])
@pytest.mark.parametrize(
    ("int8_units", "inner"), [(True, EXACT_IN_INT32), (False, EXACT_IN_FLOAT32)]
)
def test_the_largest_sums_are_exact(int8_units: bool, inner: int, low: int) -> None:
    left, right = constant(3, inner, 255).byte(), constant(2, inner, low).char()
    result = integer_matmul(left, zero_point(0), right, int8_units)
    assert torch.equal(result, torch.full((3, 2), 255 * low * inner).float())


def test_float32_stops_being_exact_beyond_its_bound() -> None:
    # The last bit of an odd sum over 2**24 is lost, and so are bits on the way there.
    inner = 3 * EXACT_IN_FLOAT32 + 1
    left, right = constant(3, inner, 255).byte(), constant(2, inner, 127).char()
    exact = 255 * 127 * inner
    assert int(integer_matmul(left, zero_point(0), right, False)[0, 0]) != exact
    rounded_once = integer_matmul(left, zero_point(0), right, True)[0, 0]
    assert rounded_once == torch.tensor(exact).float()


@pytest.mark.parametrize("int8_units", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(("inner", "outer"), [(384, 1536), (1536, 384), (384, 2), (7, 5)])
def test_a_quantized_linear_is_fake_quantization_and_a_matmul(
    inner: int, outer: int, per_channel: bool, int8_units: bool
) -> None:
    torch.manual_seed(inner + outer)
    values, weight, bias = torch.randn(4, 9, inner), torch.randn(outer, inner), torch.randn(outer)
    # Ranges a little too small, as moving averages are: some values lie outside.
    scale, zero = torch.tensor(5 / 255), zero_point(121)
    amax = weight.abs().amax(1) if per_channel else weight.abs().max()
    weight_scale = amax * 0.9 / 127.5
    ours, theirs = ([t.clone().requires_grad_() for t in (values, weight, bias)] for _ in range(2))
    result = quantized_linear(*ours, scale, zero, weight_scale, int8_units)
    expected = F.linear(
        torch_rounds(theirs[0], scale, zero, UINT8),
        torch_rounds(theirs[1], weight_scale, torch.zeros_like(amax, dtype=torch.int32), INT8),
        theirs[2],
    )
    close(result, expected)
    gradient = torch.randn_like(result)
    result.backward(gradient)
    expected.backward(gradient)
    for mine, other in zip(ours, theirs, strict=True):
        close(mine.grad, other.grad)
        assert torch.equal(mine.grad == 0, other.grad == 0)


def close(actual: Tensor | None, expected: Tensor | None) -> None:
    """Equal to a millionth of the largest number: what float32 sums of this length keep."""
    assert actual is not None and expected is not None
    difference = (actual - expected).abs().max()
    assert difference <= 1e-6 * expected.abs().max() * 2


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("part", ["all", "values", "bias", "scale"])
def test_a_layer_of_other_types_is_computed_by_torch(
    part: str, dtype: torch.dtype, sparse: bool
) -> None:
    """Kernels would read its memory as float32."""
    torch.manual_seed(0)
    layer = QuantLinear(nn.Linear(40, 24), Scheme())
    mask = torch.rand(24, 40) < 0.3
    layer.weight.data *= mask
    layer.pattern = SparsePattern(mask) if sparse and quantize.available() else None
    inputs, weights = layer.input_quantizer, layer.weight_quantizer
    assert inputs is not None and weights is not None
    for each in (inputs, weights):
        each.enabled = each.observing = True
    values = torch.randn(5, 9, 40)
    layer(values)  # observes
    inputs.observing = weights.observing = False
    if part == "all":
        layer.to(dtype)
    if part in ("all", "values"):
        values = values.to(dtype)
    if part == "bias":
        layer.bias.data = layer.bias.data.to(dtype)
    if part == "scale":
        weights.scale = weights.scale.to(dtype)
    values.requires_grad_()
    if part in ("values", "bias"):  # as nn.Linear does
        with pytest.raises(RuntimeError, match="dtype"):
            layer(values)
        return
    result = layer(values)
    rounded = [
        torch_rounds(tensor.float(), scale.float(), zero, limits)
        for tensor, scale, zero, limits in (
            (values, inputs.scale, inputs.zero_point, UINT8),
            (layer.weight, weights.scale, weights.zero_point, INT8),
        )
    ]
    expected = F.linear(*rounded, layer.bias.float())
    assert result.dtype == values.dtype
    tolerance = 0.03 if dtype == torch.bfloat16 else 2e-6
    torch.testing.assert_close(result.float(), expected, rtol=tolerance, atol=tolerance)
    result.sum().backward()
    assert values.grad is not None and values.grad.isfinite().all()
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("int8_units", [True, False])
def test_a_bias_of_another_type_is_added_by_torch(int8_units: bool) -> None:
    left, right = integers(6, 32, UINT8).byte(), integers(16, 32, INT8).char()
    scales, bias = torch.rand(16), torch.randn(16, dtype=torch.bfloat16)
    result = integer_linear(left, zero_point(120), right, scales, bias, int8_units)
    sums = (left.long() - 120) @ right.t().long()
    torch.testing.assert_close(result, sums.float() * scales + bias.float())


def test_a_layer_multiplies_integers_only_while_both_sides_are_rounded() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(16, 8)
    layer, values = QuantLinear(plain, Scheme()).train(), torch.randn(5, 16)
    inputs, weights = layer.input_quantizer, layer.weight_quantizer
    assert inputs is not None and weights is not None
    assert torch.equal(layer(values), plain(values))
    for quantizer in (inputs, weights):
        quantizer.enabled = quantizer.observing = True
    on = layer(values)
    assert inputs.max_val == values.max() and weights.min_val == plain.weight.min()
    assert not torch.equal(on, plain(values))
    weights.enabled = False
    torch.testing.assert_close(
        layer(values), F.linear(inputs.round(values), plain.weight, plain.bias)
    )


@pytest.mark.parametrize("compiler", [True, False])
def test_a_layer_that_is_called_twice_has_the_gradient_of_each_call(
    compiler: bool, request: pytest.FixtureRequest
) -> None:
    if not compiler:
        request.getfixturevalue("no_compiler")
    torch.manual_seed(0)
    first, second = torch.randn(5, 16), torch.randn(5, 16) * 9
    found = []
    for called_again in (False, True):
        torch.manual_seed(1)
        layer = QuantLinear(nn.Linear(16, 8), Scheme()).train()
        for quantizer in (layer.input_quantizer, layer.weight_quantizer):
            assert quantizer is not None
            quantizer.enabled = quantizer.observing = True
        loss = layer(first).square().sum()
        if called_again:
            layer(second)
        (gradient,) = torch.autograd.grad(loss, [layer.weight])
        found.append(gradient)
    assert found[0].any()
    assert torch.equal(*found)
