"""The gate's tests of non-inferiority: values by hand, scipy's, and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize, stats

from sparsekit.gate.statistics import FEWEST, POWER, bootstrap, compare_accuracies, compare_means


def test_no_row_changed() -> None:
    """With no discordant row the bound is that of n rows without an event: z^2 / (n + z^2)."""
    found = compare_accuracies(0, 0, 100, 0.05, 0.05)
    z = 1.6448536269514722
    assert found.difference == 0
    assert found.lower == pytest.approx(-(z**2) / (100 + z**2))
    assert found.upper == pytest.approx(z**2 / (100 + z**2))
    # n * drop / (1 - drop) >= z^2
    assert found.rows_needed == math.ceil(z**2 * 0.95 / 0.05) == 52
    assert found.detectable_drop == pytest.approx(-found.lower)


def test_the_ends_of_the_range() -> None:
    all_lost = compare_accuracies(0, 10, 10, 0.05, 0.05)
    assert all_lost.lower == pytest.approx(-1)
    assert -1 < all_lost.upper < 0
    all_gained = compare_accuracies(10, 0, 10, 0.05, 0.05)
    assert all_gained.upper == pytest.approx(1)
    assert all_gained.lower == pytest.approx(-all_lost.upper)


@pytest.mark.parametrize(
    ("gained", "lost", "rows"), [(5, 12, 200), (12, 5, 200), (0, 7, 90), (40, 61, 1066)]
)
def test_the_interval_solves_the_score_equation(gained: int, lost: int, rows: int) -> None:
    """The restricted estimate found by scipy, from the likelihood instead of a formula."""
    found = compare_accuracies(gained, lost, rows, 0.02, 0.025)

    def statistic(assumed: float) -> float:
        def loss(q: float) -> float:
            shares = np.array([q + assumed, q, 1 - 2 * q - assumed])
            counts = [gained, lost, rows - gained - lost]
            return -float(np.sum([c * math.log(s) for c, s in zip(counts, shares, strict=True)]))

        low, high = max(0.0, -assumed) + 1e-12, (1 - assumed) / 2 - 1e-12
        q = optimize.minimize_scalar(
            loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
        ).x
        variance = rows * (2 * q + assumed - assumed**2)
        return float((gained - lost - rows * assumed) / math.sqrt(variance))

    z = float(stats.norm.ppf(0.975))
    assert statistic(found.lower) == pytest.approx(z, abs=1e-3)
    assert statistic(found.upper) == pytest.approx(-z, abs=1e-3)
    assert found.p_value == pytest.approx(stats.norm.sf(statistic(-0.02)), abs=1e-4)


def test_at_a_difference_of_zero_it_is_the_test_of_mcnemar() -> None:
    gained, lost = 30, 14
    found = compare_accuracies(gained, lost, 500, 1e-12, 0.05)
    chi2 = (gained - lost) ** 2 / (gained + lost)
    assert found.p_value == pytest.approx(stats.chi2.sf(chi2, 1) / 2, rel=1e-6)


def test_bound_and_p_value_decide_alike() -> None:
    for lost in range(0, 30):
        found = compare_accuracies(10, lost, 400, 0.03, 0.05)
        assert (found.lower > -0.03) == (found.p_value < 0.05)


@pytest.mark.parametrize("alpha", [0.05, 0.025, 0.003, 0.0005])
def test_bound_and_p_value_of_draws_decide_alike(alpha: float) -> None:
    gains = np.random.default_rng(1).normal(0, 0.1, 100)
    for compare in (
        lambda drop: bootstrap(lambda rows: float(gains[rows].mean()), 100, drop, alpha, 200, 0),
        lambda drop: compare_means(gains, drop, alpha, 200, 0, 1.0),
    ):
        lower = compare(1.0).lower
        for drop in (-lower * (1 - 1e-6), -lower, -lower * (1 + 1e-6)):
            found = compare(drop)
            assert (found.lower > -drop) == (found.p_value <= alpha + 1e-12)


def test_an_alpha_that_takes_too_many_resamples_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha 1e-05 takes 1,000,000 resamples"):
        bootstrap(lambda rows: 0.0, 100, 0.1, 1e-5, 200, 0)
    with pytest.raises(ValueError, match="alpha 1e-05 takes 1,000,000 resamples"):
        compare_means(np.ones(100), 0.1, 1e-5, 200, 0, 1.0)


@pytest.mark.parametrize(("gain", "loss"), [(0.03, 0.03), (0.02, 0.05), (0.0, 0.02)])
def test_coverage_of_the_accuracy_interval(gain: float, loss: float) -> None:
    """The one-sided bound lies above the true difference in about alpha of all samples."""
    generator = np.random.default_rng(0)
    shares = [gain, loss, 1 - gain - loss]
    tables = generator.multinomial(300, shares, size=2000)
    missed = [compare_accuracies(b, c, 300, 0.05, 0.05).lower > gain - loss for b, c, _ in tables]
    # Discrete tables keep the level only nearly; four standard errors of 2000 draws are 0.02.
    assert 0.02 < np.mean(missed) < 0.07


def test_the_named_number_of_rows_has_the_power() -> None:
    needed = compare_accuracies(30, 30, 1000, 0.02, 0.05).rows_needed
    tables = np.random.default_rng(1).multinomial(needed, [0.03, 0.03, 0.94], size=1500)
    passed = [compare_accuracies(b, c, needed, 0.02, 0.05).lower > -0.02 for b, c, _ in tables]
    assert np.mean(passed) == pytest.approx(POWER, abs=0.04)


def test_as_many_rows_show_the_detectable_drop() -> None:
    found = compare_accuracies(8, 11, 300, 0.01, 0.05)
    assert found.detectable_drop > 0.01
    larger = found.detectable_drop * (1 + 1e-9)  # rows are rounded up
    assert compare_accuracies(8, 11, 300, larger, 0.05).rows_needed == 300


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_mean() -> None:
    gains = np.random.default_rng(2).normal(0.01, 0.3, 400)
    found = bootstrap(lambda rows: float(gains[rows].mean()), 400, 0.05, 0.05, 2000, 0)
    error = gains.std() / 20
    low, high = stats.norm.interval(0.9, gains.mean(), error)
    assert found.difference == pytest.approx(gains.mean())
    assert (found.lower, found.upper) == pytest.approx((low, high), abs=0.15 * error)
    theirs = stats.bootstrap(
        (gains,), np.mean, confidence_level=0.9, method="percentile", n_resamples=2000, rng=0
    ).confidence_interval
    assert (found.lower, found.upper) == pytest.approx((theirs.low, theirs.high), abs=0.15 * error)
    assert found.detectable_drop == pytest.approx((1.6449 + 0.8416) * error, rel=0.08)
    # The standard error falls with the square root of the number of rows.
    for drop in (0.01, 0.02, 0.03):
        needed = bootstrap(lambda rows: float(gains[rows].mean()), 400, drop, 0.05, 2000, 0)
        expected = 400 * (found.detectable_drop / drop) ** 2
        assert needed.rows_needed == math.ceil(expected) > FEWEST


def test_the_bootstrap_is_seeded() -> None:
    gains = np.random.default_rng(3).normal(size=60)
    first, again, other = (
        bootstrap(lambda rows: float(gains[rows].mean()), 60, 0.1, 0.05, 50, seed)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first.lower != other.lower


def _mean(gains: np.ndarray, rows: np.ndarray) -> float:
    return float(gains[rows].mean())


def test_coverage_of_the_bootstrap() -> None:
    generator = np.random.default_rng(4)
    missed = []
    for seed in range(200):
        gains = generator.choice([-1.0, 0.0, 1.0], p=[0.1, 0.85, 0.05], size=200)
        found = bootstrap(lambda rows, g=gains: float(g[rows].mean()), 200, 0.1, 0.05, 200, seed)  # type: ignore[misc]
        missed.append(found.lower > -0.05)
    assert 0.01 < np.mean(missed) < 0.11


def test_too_few_units_are_refused() -> None:
    with pytest.raises(ValueError, match=f"{FEWEST} are the least"):
        bootstrap(lambda rows: 0.0, FEWEST - 1, 0.1, 0.05, 10, 0)


def test_models_that_never_differ_are_not_taken_for_equal() -> None:
    """Of 60 rows without a change, up to 4.87 % of all rows may have one: 0.95 = 1 - 0.9513^60."""
    found = compare_means(np.zeros(60), 0.04, 0.05, 100, 0, 1.0)
    assert found.lower == pytest.approx(-(1 - 0.05 ** (1 / 60))) == pytest.approx(-0.0487, abs=1e-4)
    assert found.lower < -0.04 and found.p_value == pytest.approx(0.96**60) and found.p_value > 0.05
    assert compare_means(np.zeros(found.rows_needed), 0.04, 0.05, 100, 0, 1.0).lower > -0.04
    assert compare_means(np.zeros(found.rows_needed - 1), 0.04, 0.05, 100, 0, 1.0).lower < -0.04


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_a_score_without_a_limit_needs_a_resample_with_a_drop(gain: float) -> None:
    """One row gained says no more about losses than no change at all."""
    gains = np.zeros(60)
    gains[7] = gain
    with pytest.raises(ValueError, match="no resample shows a drop, and too many show no"):
        bootstrap(lambda rows: float(gains[rows].mean()), 60, 0.04, 0.05, 100, 0)


def test_a_score_that_rises_on_every_resample_needs_no_drop() -> None:
    gains = np.zeros(60)
    gains[:20] = 1.0
    found = bootstrap(lambda rows: float(gains[rows].mean()), 60, 0.04, 0.05, 100, 0)
    assert found.lower > 0.1


def test_a_gain_does_not_hide_what_was_not_seen() -> None:
    """The percentile bootstrap would end at 0 where nothing is lost, and pass any drop."""
    none, gained = np.zeros(100), np.zeros(100)
    gained[3] = 1.0
    for differences in (none, gained):
        found = compare_means(differences, 0.01, 0.05, 4000, 0, 1.0)
        assert found.lower < -0.015 and found.p_value > 0.05
    assert (
        compare_means(gained, 0.01, 0.05, 4000, 0, 1.0).lower
        > compare_means(none, 0.01, 0.05, 4000, 0, 1.0).lower
    )


@pytest.mark.parametrize("units", [60, 200, 500])
@pytest.mark.parametrize("gain", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("drop", [0.01, 0.05])
def test_the_bound_of_a_mean_keeps_its_level(units: int, gain: float, drop: float) -> None:
    """Models that drop by exactly `max_drop` pass in no more than alpha of the samples."""
    generator, passed = np.random.default_rng(5), {}
    tables = generator.multinomial(units, [gain, gain + drop, 1 - 2 * gain - drop], size=600)
    for gained, lost, _ in tables:
        if (gained, lost) not in passed:
            differences = np.zeros(units)
            differences[:gained], differences[gained : gained + lost] = 1.0, -1.0
            found = compare_means(differences, drop, 0.05, 1000, 0, 1.0)
            passed[gained, lost] = found.lower > -drop
    # Three standard errors of 600 samples are 0.027.
    assert np.mean([passed[b, c] for b, c, _ in tables]) < 0.05 + 0.027


def test_the_bound_of_a_mean_is_near_the_normal_one_for_many_units() -> None:
    gains = np.random.default_rng(6).uniform(-0.4, 0.4, 5000)
    found = compare_means(gains, 0.05, 0.05, 4000, 0, 1.0)
    low, high = stats.norm.interval(0.9, gains.mean(), gains.std() / 5000**0.5)
    assert (found.lower, found.upper) == pytest.approx((low, high), abs=0.1 * (high - low))
    assert found.difference == pytest.approx(gains.mean())


def test_resamples_without_a_score_are_drawn_again() -> None:
    """As of ROC AUC, where a resample has rows of one class only."""

    def rarely_undefined(drawn: npt.NDArray[np.int64]) -> float:
        return np.nan if drawn[0] % 4 == 0 else float(drawn.mean()) / 1000 - 0.03

    found = bootstrap(rarely_undefined, 60, 0.5, 0.05, 200, 0)
    assert np.isfinite([found.lower, found.upper, found.p_value]).all()
    with pytest.raises(ValueError, match="is undefined on 200 of 200 resamples"):
        bootstrap(lambda drawn: np.nan, 60, 0.5, 0.05, 200, 0)
