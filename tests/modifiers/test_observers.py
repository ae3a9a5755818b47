"""The ranges that quantizers observe, by each method."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsekit.modifiers.quantization.fake_quantize import FakeQuantizer
from sparsekit.modifiers.quantization.observers import (
    SAMPLES,
    SHARES,
    Observer,
    percentile_range,
    sampled,
)
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.modifiers.quantization.rounding import INT8, UINT8, fake_quantize
from sparsekit.modifiers.quantization.scales import quantization_parameters


def values() -> torch.Tensor:
    """Normal values with one outlier a row, which costs less to clip than to represent."""
    made = torch.randn(3, 100_000, generator=torch.Generator().manual_seed(0))
    made[:, 7] = 8.0
    return made


def error(rows: torch.Tensor, low: torch.Tensor, high: torch.Tensor, symmetric: bool) -> float:
    limits = INT8 if symmetric else UINT8
    scale, zero_point = quantization_parameters(low, high, limits, symmetric)
    return float((fake_quantize(rows, scale, zero_point, limits) - rows).square().mean())


def test_percentile_leaves_out_as_many_values_on_each_side() -> None:
    rows = torch.arange(1000.0).flip(0).repeat(2, 1)
    low, high = Observer("percentile", 99.0).range(rows, UINT8, False)
    assert low.tolist() == [10.0, 10.0] and high.tolist() == [989.0, 989.0]
    low, high = Observer("percentile", 100.0).range(rows, UINT8, False)
    assert low.tolist() == [0.0, 0.0] and high.tolist() == [999.0, 999.0]
    # Of a single value nothing can be left out.
    low, high = Observer("percentile", 60.0).range(torch.tensor([[5.0]]), UINT8, False)
    assert low.item() == high.item() == 5.0


@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_finds_the_share_with_the_least_error(symmetric: bool) -> None:
    rows, limits = values(), INT8 if symmetric else UINT8
    low, high = Observer("mse").range(rows, limits, symmetric)
    full_low, full_high = torch.aminmax(rows, dim=1)
    errors = [error(rows, full_low * share, full_high * share, symmetric) for share in SHARES]
    assert error(rows, low, high, symmetric) <= min(errors) * 1.0001
    assert min(errors) < errors[0]
    assert (high < full_high).all()


def test_mse_keeps_the_full_range_of_even_values() -> None:
    rows = torch.linspace(-1, 1, 256).repeat(2, 1)
    low, high = Observer("mse").range(rows, INT8, True)
    assert low.tolist() == [-1.0, -1.0] and high.tolist() == [1.0, 1.0]


def test_a_sample_takes_every_feature() -> None:
    width, tokens = 384, 1000
    rows = torch.arange(width).repeat(tokens).reshape(1, -1)
    taken = sampled(rows, 50_000)
    assert taken.shape[1] <= 50_000
    assert len(taken.unique()) == width
    for limit in (150_000, 300_000, 380_000):
        taken = sampled(rows, limit)
        assert limit / 2 < taken.shape[1] <= limit
        # Each feature alike.
        counts = taken.flatten().bincount(minlength=width)
        assert int(counts.max() - counts.min()) <= 0.1 * counts.float().mean()
    assert torch.equal(sampled(rows, rows.shape[1]), rows)


@pytest.mark.parametrize("count", [100_000, 270_000, 340_000, 600_000, 2_000_000, 9_000_000])
def test_a_percentile_leaves_an_outlier_out_however_many_values_there_are(count: int) -> None:
    rows = torch.randn(1, count, generator=torch.Generator().manual_seed(0))
    rows[0, 0] = 1000.0  # in the place that every sample begins with
    assert 2 * 50_000 <= sampled(rows).shape[1] <= SAMPLES
    low, high = Observer("percentile").range(rows, UINT8, False)
    assert high.item() < 6 and -6 < low.item() < -3


def test_one_value_is_left_out_where_one_of_all_is() -> None:
    rows = torch.arange(100.0)[None]
    assert percentile_range(rows, 99.99, of=10_000)[1].item() == 98.0
    assert percentile_range(rows, 99.99, of=9_000)[1].item() == 99.0


def test_the_average_is_of_the_observed_ranges() -> None:
    plain, clipped = (FakeQuantizer(UINT8, symmetric=False).train() for _ in range(2))
    clipped.observer = Observer("percentile", 99.0)
    for quantizer in (plain, clipped):
        quantizer.enabled = quantizer.observing = True
        quantizer(values())
    assert plain.max_val == 8.0 and clipped.max_val < 3.0
    first = float(clipped.max_val)
    clipped(2 * values())
    assert float(clipped.max_val) == pytest.approx(first + 0.01 * first, rel=1e-5)


def test_each_quantizer_has_its_observer() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    Quantization(
        weight_observer="mse", activation_observer="percentile", observer_percentile=99.0
    ).attach(net)
    layer = net[0]
    assert layer.weight_quantizer.observer.name == "mse"
    assert layer.input_quantizer.observer == Observer("percentile", 99.0)


def test_problems() -> None:
    found = Quantization(
        weight_observer="percentile", activation_observer="entropy", observer_percentile=40
    ).problems(3)
    assert [text.split(" is ")[0] for text in found[:2]] == [
        "weight_observer 'percentile'",
        "activation_observer 'entropy'",
    ]
    assert "observer_percentile 40 must be above 50" in found[2]
