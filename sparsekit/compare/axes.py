"""What distinguishes runs: the keys of their configs, apart from seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sparsekit.compare.load import Run

# Keys that change what is measured or shown of a run, not the run.
NOT_AXES = (
    "dataset.metrics",
    *("training.disable_tqdm", "training.logging_steps", "training.logging_strategy"),
    "training.report_to",
    # A new head is drawn by the seed.
    "weights.others",
)


def seed_keys(runs: Sequence[Run]) -> set[str]:
    """The keys that hold the run's seed in all `runs`: `seed`, and those interpolated from it.

    A data set's own `seed: 0` is not one, although it equals the seed of a run with seed 0.
    """
    keys = {key for run in runs for key in run.config if key.rpartition(".")[2] == "seed"}
    return {key for key in keys if all(run.config.get(key, run.seed) == run.seed for run in runs)}


def find_axes(groups: Sequence[Sequence[Run]], seeds: Collection[str] = ()) -> list[str]:
    """The config keys, without `seeds`, that distinguish the groups.

    A key is left out where those before it determine its value, as `recipe.qat_epochs` does that
    of `recipe.qat_start_epoch`; keys that somebody overrode come first, then choices, then short
    names.
    """
    configs = [without(members[0], seeds) for members in groups]
    varied = varied_keys(configs)
    given = {
        text.lstrip("+~").partition("=")[0]
        for members in groups
        for run in members
        for text in run.overrides
    }
    varied.sort(key=lambda key: (key not in given, "." in key, len(key), key))
    kept: list[str] = []
    cells = [""] * len(configs)
    for key in varied:
        finer = [f"{cell}|{config.get(key)}" for cell, config in zip(cells, configs, strict=True)]
        if len(set(finer)) > len(set(cells)):
            kept.append(key)
            cells = finer
    return kept


def varied_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values, as text, are not the same in all configs.

    >>> varied_keys([{"seed": 1, "epochs": 3}, {"seed": 2, "epochs": 3}])
    ['seed']
    """
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if _varies([config.get(key) for config in configs])]


def _varies(values: Sequence[Any]) -> bool:
    first, text = values[0], str(values[0])
    # Most values are one object in all configs, and need not become text.
    return any(value is not first and str(value) != text for value in values)


def without(run: Run, seeds: Collection[str]) -> dict[str, Any]:
    """The config of a run without `seeds`."""
    return {key: value for key, value in run.config.items() if key not in seeds}
