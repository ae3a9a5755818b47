"""Non-inferiority of paired scores: of accuracies, of other means over units, and of the rest.

Everywhere `difference` is the compressed model's score minus that of the dense baseline on the same
rows, so that a drop is negative. The compressed model is not inferior at level `alpha` where the
lower end of the interval, a one-sided bound of confidence 1 - alpha, lies above -max_drop. The
two-sided interval that is reported therefore has the confidence 1 - 2 * alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

# The probability with which a test of enough rows passes a model that is as good as the baseline.
POWER = 0.8
# Resamples beyond an end of the interval, at the least, and how many are drawn for it at the most.
BEYOND, MOST = 10, 100_000
# The fewest units whose bootstrap distribution is near the normal one that its use assumes.
FEWEST = 50
# Halvings of an interval: more than a float64 in [-1, 1] has bits.
_HALVINGS = 80


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of a test.

    difference, lower, upper: the estimate and its interval, in units of the score.
    p_value: of the hypothesis that the score drops by `max_drop` or more.
    detectable_drop: the smallest `max_drop` that as many rows show with probability `POWER`, if the
        models are equally good.
    rows_needed: how many rows show `max_drop` with that probability.
    method: the test and its source.
    """

    difference: float
    lower: float
    upper: float
    p_value: float
    detectable_drop: float
    rows_needed: int
    method: str


def compare_accuracies(
    gained: int, lost: int, rows: int, max_drop: float, alpha: float
) -> Comparison:
    """The score test and interval for the difference of two paired proportions.

    T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998) 891-908. The number of rows follows
    J. Nam, "Establishing equivalence of two treatments and sample size requirements in
    matched-pairs design", Biometrics 53 (1997) 1422-1430, with the share of discordant rows that
    was observed.

    Args:
        gained: rows that only the compressed model answers correctly.
        lost: rows that only the baseline answers correctly.
        rows: all rows, at least 1.
        max_drop: the allowed drop, a share above 0 and below 1.
        alpha: the level of the one-sided test, above 0 and below 0.5.
    """
    z = _quantile(alpha)
    difference = (gained - lost) / rows

    def statistic(assumed: float) -> float:
        return _score(gained, lost, rows, assumed)

    discordant = (gained + lost) / rows
    return Comparison(
        difference=difference,
        lower=_falls_to(z, statistic, -1.0, difference),
        upper=_falls_to(-z, statistic, difference, 1.0),
        p_value=1 - NormalDist().cdf(statistic(-max_drop)),
        detectable_drop=detectable_drop(discordant, rows, alpha),
        rows_needed=rows_needed(discordant, max_drop, alpha),
        method="Tango's score interval for paired proportions (1998)",
    )


def detectable_drop(discordant: float, rows: int, alpha: float) -> float:
    """The smallest drop of an accuracy that `rows` show with probability `POWER`; see `Comparison`.

    discordant: the share of the rows that exactly one of the models answers correctly.
    """
    return _falls_to(rows, lambda drop: _rows_for_accuracy(discordant, drop, alpha), 0.0, 1.0)


def rows_needed(discordant: float, max_drop: float, alpha: float) -> int:
    """How many rows show a drop of an accuracy with probability `POWER`; see `detectable_drop`."""
    return math.ceil(_rows_for_accuracy(discordant, max_drop, alpha))


def compare_means(
    differences: npt.NDArray[np.float64],
    max_drop: float,
    alpha: float,
    draws: int,
    seed: int,
    span: float,
) -> Comparison:
    """A bound of the mean of differences that have a limit, by random weights of the units.

    The units, and one more with the worst possible difference, get weights that are uniformly
    distributed over the simplex; the bound is a quantile of the weighted mean. E. Learned-Miller
    and P. Thomas, "A New Confidence Interval for the Mean of a Bounded Random Variable" (2019).
    Unlike the percentile bootstrap, it allows for changes too rare to be among the units, and keeps
    its level for few units and few changes. Where no unit differs, it is exactly
    `span * (1 - alpha ** (1 / units))`.

    Args:
        differences: of each unit (row, or question of several windows), [units].
        max_drop: the allowed drop in units of the score, above 0.
        alpha: the level of the one-sided test, above 0 and below 0.5.
        draws: the number of draws; more where a small `alpha` needs them.
        seed: of the draws.
        span: by how much a unit can differ.

    Raises:
        ValueError: `alpha` is too small.
    """
    draws, units = _enough(draws, alpha), len(differences)
    if not differences.any():
        return _no_difference(units, max_drop, alpha, span)
    generator = np.random.default_rng(seed)
    values, counts = np.unique(differences, return_counts=True)
    # The weights of units with equal differences are drawn as their sum.
    weights = np.stack([generator.standard_gamma(count, size=draws) for count in (*counts, 1)])
    total, of_units = weights.sum(axis=0), values @ weights[:-1]
    worst, best = ((of_units + end * weights[-1]) / total for end in (-span, span))
    return _comparison(
        float(differences.mean()),
        np.sort(worst),
        np.sort(best),
        units,
        max_drop,
        alpha,
        "bound of the mean of a bounded variable (Learned-Miller and Thomas, 2019), "
        f"{draws} draws, seed {seed}",
    )


def bootstrap(
    score: Callable[[npt.NDArray[np.int64]], float],
    units: int,
    max_drop: float,
    alpha: float,
    resamples: int,
    seed: int,
) -> Comparison:
    """The percentile interval of a difference of scores over resampled units.

    Both models are scored on the same drawn units, which keeps the pairing. B. Efron and
    R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. The number of rows assumes
    a standard error that falls with the square root of their number.

    A resample on which the score is undefined, such as ROC AUC on rows of one class, is drawn
    again: the interval is that of samples on which it is defined.

    Args:
        score: the difference of both models' scores on the units of the given indices, nan where it
            is undefined.
        units: the number of units (rows, or questions of several windows), at least `FEWEST`.
        max_drop: the allowed drop in units of the score, above 0.
        alpha: the level of the one-sided test, above 0 and below 0.5.
        resamples: the number of draws; more where a small `alpha` needs them.
        seed: of the draws.

    Raises:
        ValueError: there are too few units, `alpha` is too small, the score is undefined on half of
            the resamples, or no resample shows a drop and more than `alpha` of them no difference:
            nothing then bounds the cost of changes too rare to be among the units.
    """
    if units < FEWEST:
        raise ValueError(f"{units} units are too few to bootstrap, {FEWEST} are the least")
    resamples = _enough(resamples, alpha)
    generator = np.random.default_rng(seed)
    drawn = _defined(lambda: score(generator.integers(units, size=units)), resamples)
    ordered = np.sort(drawn)
    found = _comparison(
        score(np.arange(units)),
        ordered,
        ordered,
        units,
        max_drop,
        alpha,
        f"paired percentile bootstrap, {resamples} resamples, seed {seed}",
    )
    if ordered[0] == found.lower == 0:
        raise ValueError(
            "no resample shows a drop, and too many show no difference; the score is not a mean "
            "over rows of values with a limit, so that these do not bound what rarer changes cost"
        )
    return found


def _enough(draws: int, alpha: float) -> int:
    """`draws`, or as many as `alpha` needs; raises ValueError where these are too many."""
    draws = max(draws, math.ceil(BEYOND / alpha))
    if draws > MOST:
        raise ValueError(
            f"alpha {alpha:g} takes {draws:,} resamples, {MOST:,} are the most; set alpha to "
            f"{BEYOND / MOST:g} or more"
        )
    return draws


def _comparison(
    difference: float,
    below: npt.NDArray[np.float64],
    above: npt.NDArray[np.float64],
    units: int,
    max_drop: float,
    alpha: float,
    method: str,
) -> Comparison:
    """The comparison by sorted draws of the difference, for the lower and for the upper end."""
    # The values by which bound and p-value decide alike: `beyond` is the most that (1 + the number
    # of draws at or below the bound) may be for a p-value of `alpha`.
    draws = len(below)
    beyond = math.floor(alpha * (1 + draws) + 1e-9)
    detectable = (_quantile(alpha) + NormalDist().inv_cdf(POWER)) * float(below.std(ddof=1))
    return Comparison(
        difference=difference,
        lower=float(below[beyond - 1]),
        upper=float(above[-beyond]),
        p_value=(1 + int((below <= -max_drop).sum())) / (1 + draws),
        detectable_drop=detectable,
        rows_needed=max(FEWEST, math.ceil(units * (detectable / max_drop) ** 2)),
        method=method,
    )


def _defined(draw: Callable[[], float], count: int) -> npt.NDArray[np.float64]:
    """The first `count` results of `draw` that are not nan; raises ValueError for as many nans."""
    found: list[float] = []
    undefined = 0
    while len(found) < count:
        value = draw()
        if not math.isnan(value):
            found.append(value)
        elif (undefined := undefined + 1) == count:
            raise ValueError(
                f"it is undefined on {undefined} of {undefined + len(found)} resamples"
            )
    return np.array(found)


def _no_difference(units: int, max_drop: float, alpha: float, span: float) -> Comparison:
    """The comparison of models that differ in none of the units; see `compare_means`."""
    bound = span * (1 - alpha ** (1 / units))
    share = max_drop / span
    return Comparison(
        difference=0.0,
        lower=-bound,
        upper=bound,
        p_value=(1 - share) ** units if share < 1 else 0.0,
        detectable_drop=bound,
        rows_needed=math.ceil(math.log(alpha) / math.log1p(-share)) if share < 1 else 1,
        method=f"exact bound of the share of changed rows, of which {units} show none",
    )


def _quantile(alpha: float) -> float:
    return NormalDist().inv_cdf(1 - alpha)


def _score(gained: int, lost: int, rows: int, assumed: float) -> float:
    """Tango's statistic, standard normal where `assumed` is the true difference."""
    numerator = gained - lost - rows * assumed
    variance = rows * _variance(gained / rows, lost / rows, assumed)
    if variance <= 0:
        return math.copysign(math.inf, numerator) if numerator else 0.0
    return numerator / math.sqrt(variance)


def _variance(gained: float, lost: float, assumed: float) -> float:
    """The variance of one row's difference, where the true difference is `assumed`.

    gained, lost: shares of the rows. The share of lost rows is replaced by its maximum likelihood
    estimate under `assumed`, the larger root of 2 q^2 + b q + c = 0.
    """
    b = -gained - lost + (2 - gained + lost) * assumed
    c = -lost * assumed * (1 - assumed)
    estimate = (math.sqrt(max(b * b - 8 * c, 0.0)) - b) / 4
    return 2 * estimate + assumed * (1 - assumed)


def _rows_for_accuracy(discordant: float, drop: float, alpha: float) -> float:
    """How many rows show `drop` with probability `POWER` if equally many are gained and lost."""
    if drop <= 0:
        return math.inf
    null = max(_variance(discordant / 2, discordant / 2, -drop), 0.0)
    power = NormalDist().inv_cdf(POWER)
    root = _quantile(alpha) * math.sqrt(null) + power * math.sqrt(discordant)
    return (root / drop) ** 2


def _falls_to(level: float, function: Callable[[float], float], start: float, end: float) -> float:
    """Where the falling `function` reaches `level` in [start, end]; the nearer end if nowhere."""
    for _ in range(_HALVINGS):
        middle = (start + end) / 2
        if function(middle) > level:
            start = middle
        else:
            end = middle
    return (start + end) / 2
