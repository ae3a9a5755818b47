"""The search for a latency, and the table that it reads."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shaped import classifier

from sparsekit.errors import UserError
from sparsekit.shape.latency import Costs, LatencyTable, duration, machine
from sparsekit.shape.ranking import Ranking, rank
from sparsekit.shape.search import solve
from sparsekit.shape.target import Target, within_latency

HEADS = {0: 0.0, 1: 0.3, 2: 0.5, 3: 0.8, 4: 1.0}
NEURONS = {0: 0.0, 16: 0.4, 32: 0.9, 64: 2.0}
COSTS = Costs(
    base=1.0,
    heads=HEADS,
    neurons=NEURONS,
    last_heads={size: cost / 2 for size, cost in HEADS.items()},
    last_neurons={size: cost / 8 for size, cost in NEURONS.items()},
)


def table(**changes: object) -> LatencyTable:
    made = LatencyTable(
        machine=machine(),
        model={"layers": 3, "heads": 4, "neurons": 64, "hidden": 32},
        runtime="onnxruntime",
        threads=1,
        batch=1,
        sequence=128,
        int8=True,
        costs={"0": COSTS, "0.8": COSTS},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def rankings(layers: int) -> tuple[list[Ranking], list[Ranking]]:
    generator = torch.Generator().manual_seed(1)
    heads = [Ranking.by_score(torch.rand(4, generator=generator)) for _ in range(layers)]
    neurons = [Ranking.by_score(torch.rand(64, generator=generator) / 8) for _ in range(layers)]
    return heads, neurons


@pytest.mark.parametrize("seed", range(20))
def test_the_budget_holds_however_seconds_are_rounded(seed: int) -> None:
    random = np.random.default_rng(seed)
    heads = {n: n * 1e-4 * float(random.uniform(0.9, 1.1)) for n in range(13)}
    neurons = {4 * n: n * 1.5e-4 * float(random.uniform(0.9, 1.1)) for n in range(9)}
    costs = Costs(1e-3, heads, neurons, heads, neurons)
    scores = [torch.from_numpy(random.random(units)).float() for units in [12, 32] * 12]
    ranked = [Ranking.by_score(each) for each in scores]
    budget = float(random.uniform(5e-3, 2e-2))
    found = solve(ranked[::2], ranked[1::2], costs, budget)
    assert 0.99 * budget < found.seconds <= budget


@pytest.mark.parametrize("budget", [1.2, 2.0, 3.0, 4.5])
def test_the_search_finds_the_least_loss(budget: float) -> None:
    heads, neurons = rankings(2)
    found = solve(heads, neurons, COSTS, budget)
    assert found.seconds <= budget
    best = min(
        sum(float(r.losses[4 - n]) for r, n in zip(heads, sizes[:2], strict=True))
        + sum(float(r.losses[64 - n]) for r, n in zip(neurons, sizes[2:], strict=True))
        for sizes in itertools.product(HEADS, HEADS, NEURONS, NEURONS)
        if sum(sizes[:2]) and COSTS.predict(sizes[:2], sizes[2:]) <= budget
    )
    assert found.loss <= best + 1e-5


def test_a_latency_out_of_reach_names_what_is_reachable() -> None:
    with pytest.raises(UserError, match=r"1\.1e\+03 ms is out of reach: .* takes 1\.15e\+03 ms"):
        solve(*rankings(2), COSTS, 1.1)
    assert sum(solve(*rankings(2), COSTS, 1.15).heads) == 1


def test_sizes_between_measured_ones_are_interpolated() -> None:
    assert COSTS.predict([4, 0], [24, 0]) == pytest.approx(1.0 + 1.0 + 0.65)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    table().save(file)
    assert LatencyTable.load(file) == table()


def test_a_table_of_another_machine_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    table(machine=machine() | {"cpu": "another"}).save(file)
    with pytest.raises(UserError, match=r"another machine \(cpu another; here cpu .*--any-machine"):
        LatencyTable.load(file)
    assert LatencyTable.load(file, any_machine=True).machine["cpu"] == "another"


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"costs": {"0": {"base": 1}}})])
def test_another_file_is_no_table(tmp_path: Path, text: str) -> None:
    file = tmp_path / "table.json"
    file.write_text(text)
    with pytest.raises(UserError, match="is not a latency table"):
        LatencyTable.load(file)


def test_a_target_needs_its_sparsity_and_its_model(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    table().save(file)
    model = classifier()
    target = Target(max_latency="3s", table=file, sparsity=0.8)
    assert target.problems() == []
    kept = within_latency(model, rank(model, "magnitude"), target)
    sizes = [list(map(len, each)) for each in (kept.heads, kept.neurons)]
    assert COSTS.predict(*sizes) <= 3.01
    missing = replace(target, sparsity=0.5).problems()
    assert "no sparsity 0.5, it has 0, 0.8" in missing[0]
    with pytest.raises(UserError, match=r"of a model with 3 layers.*this one has 2 layers"):
        small = classifier(layers=2)
        target.solve(small, rank(small, "magnitude"))


@pytest.mark.parametrize("text", ["3 minutes", "0ms", "-1ms", "nan", ""])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a duration above 0"):
        duration(text)


@pytest.mark.parametrize("seed", range(10))
def test_the_fastest_shape_can_be_asked_for(seed: int) -> None:
    """Its steps are rounded, and may add up to more than the budget has."""
    generator = np.random.default_rng(seed)
    heads = {0: generator.uniform(0.1, 0.3), 1: generator.uniform(0.4, 0.6), 4: 4.0}
    neurons = {0: generator.uniform(0.1, 0.3), 64: 2.0}
    costs = Costs(base=1.0, heads=heads, neurons=neurons, last_heads=heads, last_neurons=neurons)
    fastest = 1.0 + 12 * (heads[0] + neurons[0]) + heads[1] - heads[0]
    for budget in (fastest + 1e-9, fastest * 1.0005):
        found = solve(*rankings(12), costs, budget)
        assert found.seconds == pytest.approx(fastest)
        assert sum(found.heads) == 1 and not any(found.neurons)
