"""Runs that differ by their seed as one group: mean, deviation, ties, and whether it is best."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsekit.compare.axes import NOT_AXES, find_axes, seed_keys, without
from sparsekit.compare.load import AGAINST, CONTENTS, MEASURED, Run
from sparsekit.compare.pareto import pareto
from sparsekit.config.identity import config_hash
from sparsekit.errors import UserError
from sparsekit.metrics.table import higher_is_better, limits

# Two timings of one model differ by this share from run to run; sizes and scores do not.
TIMING_NOISE = 0.05
SPLITS = ("validation", "test")
# The latency of runs that no runtime ran all of.
FASTEST = "fastest latency ms"
# Measures of which less is better, beside the metrics that are losses.
COSTS = ("latency ms", "MB", " s")


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation over `n` seeds; a single seed has no deviation."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic:
        """
        >>> Statistic.of([1.0, 3.0])
        Statistic(mean=2.0, deviation=1.4142135623730951, n=2)
        """
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))


@dataclass(kw_only=True)
class Group:
    """Runs of one config, apart from the seed.

    `values` are its values on the axes. `tie` says whether it differs from the best group by less
    than two standard errors: None where one of them has a single seed. `front` says that it is on
    the Pareto front of the metric, latency and size; see `pareto`.
    """

    runs: list[Run]
    values: dict[str, Any]
    statistics: dict[str, Statistic]
    tie: bool | None = None
    front: bool = False


@dataclass(kw_only=True)
class Comparison:
    """What is shown: groups, best first by `metric`, and runs without a result in `others`.

    `metric` is None, and nothing is ranked, where no run was evaluated.
    """

    axes: list[str]
    measures: list[str]
    metric: str | None
    costs: list[str]
    groups: list[Group]
    others: list[Run] = field(default_factory=list)


def compare(runs: Sequence[Run], metric: str | None = None) -> Comparison:
    """Group the measured runs and rank them by `metric`, else by the commonest of validation.

    Raises UserError for a metric that no run has.
    """
    done = [run for run in runs if run.status in MEASURED]
    _add_fastest(done)
    seeds = seed_keys(done) | set(NOT_AXES)
    alike = _alike(done, seeds)
    found = find_axes(alike, seeds)
    groups = [
        Group(
            runs=members,
            values={axis: members[0].config.get(axis) for axis in found},
            statistics=_statistics(members),
        )
        for members in alike
    ]
    counts = Counter(key for group in groups for key in group.statistics)
    measures = list(counts)
    chosen = _metric(counts, metric)
    latencies = [m for m, _ in counts.most_common() if m.endswith("latency ms")][:1]
    costs = latencies + [m for m in ("size MB",) if m in counts]
    if chosen is not None:
        _rank(groups, chosen, costs)
    return Comparison(
        axes=found,
        measures=measures,
        metric=chosen,
        costs=costs,
        groups=groups,
        others=[run for run in runs if run.status not in MEASURED],
    )


def _alike(runs: Sequence[Run], seeds: Collection[str]) -> list[list[Run]]:
    """The runs of each config, apart by their contents where all of them recorded these."""
    by_config: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_config[config_hash(without(run, {*seeds, *CONTENTS}))].append(run)
    found: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for key, members in by_config.items():
        recorded = [
            name
            for name in CONTENTS
            if name not in seeds and all(name in run.config for run in members)
        ]
        for run in members:
            found[key, *(str(run.config[name]) for name in recorded)].append(run)
    return list(found.values())


def _add_fastest(runs: Sequence[Run]) -> None:
    """Give runs that were timed on different runtimes a latency to compare: that of the fastest.

    A sparse student is fast on runtimes that skip zeros, a shaped one on every other too.
    """
    timed = [
        (run, latencies)
        for run in runs
        if (latencies := {m: v for m, v in run.measures.items() if m.endswith("latency ms")})
    ]
    if timed and not set.intersection(*(set(latencies) for _, latencies in timed)):
        for run, latencies in timed:
            run.measures[FASTEST] = min(latencies.values())


def less_is_better(measure: str) -> bool:
    """
    >>> less_is_better("onnxruntime latency ms"), less_is_better("validation log_loss")
    (True, True)
    >>> less_is_better("mse against dense"), less_is_better("validation accuracy")
    (True, False)
    """
    metric = measure.removesuffix(AGAINST).rpartition(" ")[2]
    return measure.endswith(COSTS) or not higher_is_better(metric)


def differ(first: Statistic, second: Statistic) -> bool | None:
    """Whether two means lie two standard errors of their difference apart, or more.

    None if one of them has a single seed, unless they are equal.

    >>> differ(Statistic(0.80, 0.01, 4), Statistic(0.805, 0.01, 4))
    False
    """
    if first.mean == second.mean:
        return False
    if first.deviation is None or second.deviation is None:
        return None
    error = math.sqrt(first.deviation**2 / first.n + second.deviation**2 / second.n)
    return abs(first.mean - second.mean) >= 2 * error


def noise_of(measure: str) -> float:
    """The share by which a measure differs by chance between two runs of one model."""
    return TIMING_NOISE if measure.endswith(("latency ms", "items/s")) else 0.0


def limits_of(measure: str) -> tuple[float, float] | None:
    """The least and the greatest value that a measure can have, where they are known.

    >>> limits_of("validation accuracy"), limits_of("validation log_loss"), limits_of("size MB")
    ((0.0, 1.0), None, None)
    """
    split, _, name = measure.partition(" ")
    if measure in ("sparsity", "heads left", "neurons left"):
        return 0.0, 1.0
    return limits(name) if split in SPLITS else None


def _rank(groups: list[Group], metric: str, costs: Sequence[str]) -> None:
    sign = 1 if less_is_better(metric) else -1
    groups.sort(
        key=lambda g: sign * g.statistics[metric].mean if metric in g.statistics else math.inf
    )
    best = groups[0].statistics[metric]
    for group in groups[1:]:
        if metric in group.statistics:
            apart = differ(best, group.statistics[metric])
            group.tie = None if apart is None else not apart
    measured = [group for group in groups if {metric, *costs} <= group.statistics.keys()]
    points = [
        (sign * g.statistics[metric].mean, *(g.statistics[cost].mean for cost in costs))
        for g in measured
    ]
    noise = [noise_of(cost) for cost in costs]
    for group, front in zip(measured, pareto(points, noise), strict=True):
        group.front = front and bool(costs)


def _metric(counts: Counter[str], wanted: str | None) -> str | None:
    if wanted is not None and wanted not in counts:
        raise UserError(f"no run has {wanted!r}; there are: {', '.join(counts) or 'no measures'}")
    for start in ("validation ", "test "):
        names = [name for name, _ in counts.most_common() if name.startswith(start)]
        if wanted is None and names:
            return names[0]
    return wanted


def _statistics(runs: Sequence[Run]) -> dict[str, Statistic]:
    values: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for key, value in run.measures.items():
            values[key].append(value)
    return {key: Statistic.of(found) for key, found in values.items()}
