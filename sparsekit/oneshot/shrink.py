"""Writes a copy of a checkpoint with smaller matrices, completely or not at all."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from sparsekit.errors import ConfigError, UserError
from sparsekit.models.hub import fetch
from sparsekit.models.inspection import inspect
from sparsekit.models.loading import check_body, check_encoder, load_weights, read_config
from sparsekit.oneshot.checkpoint import Data, architecture_of, calibration, write_copy
from sparsekit.oneshot.checkpoint_task import task_of_checkpoint
from sparsekit.shape.choice import Shares, choose
from sparsekit.shape.config import describe
from sparsekit.shape.ranking import METHODS, Rankings, compensate, rank
from sparsekit.shape.removal import remove
from sparsekit.shape.sizes import sizes
from sparsekit.shape.statistics import Statistics, measure
from sparsekit.shape.target import Target, within_latency


@dataclass(frozen=True, kw_only=True)
class Shrink:
    """The settings of one-shot shrinking.

    shares: what is removed. target: a latency instead, which heads and neurons are removed for.
    method: one of `sparsekit.shape.ranking.METHODS`.
    global_ranking: whether the heads and neurons of all layers are ranked together.
    rows: number of rows on which `first_order` and `obs` measure.
    """

    shares: Shares = field(default_factory=Shares)
    target: Target | None = None
    method: str = "magnitude"
    global_ranking: bool = False
    rows: int = 512
    seed: int = 0

    def problems(self) -> list[str]:
        """Problems of the settings, each with the option, its limit and the fix."""
        found = [] if self.target and self.shares == Shares() else self.shares.problems("--")
        if self.target is not None and self.shares != Shares():
            found.append(
                "--max-latency finds the heads and neurons by itself: leave out the shares; for "
                "fewer layers or a narrower model, shrink twice, with a table of the first result"
            )
        if self.target is not None:
            found += [f"--max-latency: {problem}" for problem in self.target.problems()]
        if self.method not in METHODS:
            found.append(f"--method {self.method} is not one of {', '.join(METHODS)}")
        if self.rows < 1:
            found.append(f"--rows {self.rows} must be 1 or more")
        return found


def shrink(
    model: PreTrainedModel, config: Shrink, rankings: Rankings, statistics: Statistics | None
) -> None:
    """Remove structures from `model` in place, and write its sizes into its config.

    rankings: of the config's method; statistics: what they were computed of, None for magnitude.
    """
    if config.target is None:
        kept = choose(model, rankings, config.shares, config.global_ranking)
    else:
        kept = within_latency(model, rankings, config.target)
    if config.method == "obs":
        assert statistics is not None
        compensate(model, statistics, kept.heads, kept.neurons)
    remove(model, kept)
    describe(model)


def shrink_checkpoint(
    source: str, outputs: Mapping[Path, Shrink], data: Data | None
) -> list[dict[str, Any]]:
    """Write smaller copies of `source` (run folder, model folder, Hub id) to new folders.

    outputs: the settings for each folder, which share method, rows and seed: structures are scored
    once. Returns the sizes before and after for each. Raises UserError, for wrong settings before
    anything is read; the folder concerned then does not exist.
    """
    config = next(iter(outputs.values()))
    _check(outputs, config, data)
    folder = _unquantized_folder(source)
    architecture = read_config(folder)
    check_encoder(folder, architecture)
    model, missing = load_weights(folder, architecture_of(architecture), "shrinking")
    check_body(folder, missing)
    if task := task_of_checkpoint(source, model.config, type(model).__name__):
        for settings in outputs.values():
            if settings.target is not None:
                settings.target.read().check_tokens(not task.first_token)
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    statistics = None
    if config.method != "magnitude":
        assert data is not None
        measured = f"--method {config.method}"
        instead = ", or use --method magnitude"
        draw = calibration(source, folder, model, missing, data, measured, instead)
        statistics = measure(model, draw(config.rows, config.seed, 1))
    rankings, found = rank(model, config.method, statistics), []
    for output, settings in outputs.items():
        made = copy.deepcopy(model)
        try:
            shrink(made, settings, rankings, statistics)
        except ConfigError as error:
            raise ConfigError([f"--{problem}" for problem in error.problems]) from error
        changed = {"before": sizes(model), "after": sizes(made)}
        record = {"source": source, **asdict(settings), "data": str(data.file) if data else None}
        write_copy(made, missing, folder, output, "shrinking.json", record | changed)
        found.append(changed)
    return found


def _check(outputs: Mapping[Path, Shrink], config: Shrink, data: Data | None) -> None:
    problems = [problem for each in outputs.values() for problem in each.problems()]
    if config.method != "magnitude" and data is None:
        problems.append(f"--method {config.method} measures on texts: add --data FILE.csv")
    problems += [
        f"--output {output} exists already; remove it or choose another folder"
        for output in outputs
        if output.exists()
    ]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _unquantized_folder(source: str) -> Path:
    """The checkpoint's folder; raises UserError where its weights are quantized."""
    inner = Path(source).expanduser() / "model"
    folder = fetch(str(inner) if inner.is_dir() else source)
    if any(layer.weights.startswith("int8") for layer in inspect(str(folder)).layers):
        raise UserError(
            f"{source} is quantized: its ranges were learned for the sizes that it has; shrink the "
            "model before it is quantized"
        )
    return folder
