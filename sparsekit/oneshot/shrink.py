"""Writes a copy of a checkpoint with smaller matrices, completely or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsekit.errors import ConfigError, UserError
from sparsekit.models.hub import fetch
from sparsekit.models.inspection import inspect
from sparsekit.models.loading import check_encoder, load_weights, read_config
from sparsekit.oneshot.checkpoint import Data, architecture_of, calibration, write_copy
from sparsekit.shape.blocks import blocks
from sparsekit.shape.choice import Shares, choose
from sparsekit.shape.config import describe
from sparsekit.shape.kept import hidden_width
from sparsekit.shape.ranking import METHODS, compensate, rank
from sparsekit.shape.removal import remove
from sparsekit.shape.statistics import measure


@dataclass(frozen=True, kw_only=True)
class Shrink:
    """The settings of one-shot shrinking.

    shares: what is removed. method: one of `sparsekit.shape.ranking.METHODS`.
    global_ranking: whether the heads and neurons of all layers are ranked together.
    rows: number of rows on which `first_order` and `obs` measure.
    """

    shares: Shares
    method: str = "magnitude"
    global_ranking: bool = False
    rows: int = 512
    seed: int = 0

    def problems(self) -> list[str]:
        """Problems of the settings, each with the option, its limit and the fix."""
        found = self.shares.problems("--")
        if self.method not in METHODS:
            found.append(f"--method {self.method} is not one of {', '.join(METHODS)}")
        if self.rows < 1:
            found.append(f"--rows {self.rows} must be 1 or more")
        return found


def shrink(
    model: PreTrainedModel, config: Shrink, batches: Iterable[Mapping[str, Tensor]] | None
) -> None:
    """Remove structures from `model` in place, and write its sizes into its config.

    batches: batches with labels, which all methods but magnitude need.
    """
    statistics = None if batches is None else measure(model, batches)
    rankings = rank(model, config.method, statistics)
    kept = choose(model, rankings, config.shares, config.global_ranking)
    if config.method == "obs":
        assert statistics is not None
        compensate(model, statistics, kept.heads, kept.neurons)
    remove(model, kept)
    describe(model)


def shrink_checkpoint(
    source: str, output: Path, config: Shrink, data: Data | None
) -> dict[str, Any]:
    """Write a smaller copy of `source` (run folder, model folder, Hub id) to the folder `output`.

    Returns the sizes before and after. Raises UserError, for wrong settings before anything is
    read; `output` then does not exist.
    """
    problems = config.problems()
    if config.method != "magnitude" and data is None:
        problems.append(f"--method {config.method} measures on texts: add --data FILE.csv")
    if output.exists():
        problems.append(f"--output {output} exists already; remove it or choose another folder")
    if problems:
        raise ConfigError(problems)
    folder = _unquantized_folder(source)
    architecture = read_config(folder)
    check_encoder(folder, architecture)
    model, missing = load_weights(folder, architecture_of(architecture), "shrinking")
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    before = sizes(model)
    batches = None
    if config.method != "magnitude":
        assert data is not None
        measured = f"--method {config.method}"
        instead = ", or use --method magnitude"
        draw = calibration(folder, model, missing, data, measured, instead)
        batches = draw(config.rows, config.seed, 1)
    try:
        shrink(model, config, batches)
    except ConfigError as error:
        raise ConfigError([f"--{problem}" for problem in error.problems]) from error
    changed = {"before": before, "after": sizes(model)}
    record = {"source": source, **asdict(config), "data": str(data.file) if data else None}
    write_copy(model, folder, output, "shrinking.json", record | changed)
    return changed


def sizes(model: PreTrainedModel) -> dict[str, Any]:
    """The heads and neurons of each layer, the hidden width, and the number of parameters."""
    layers = blocks(model)
    return {
        "heads": [block.heads for block in layers],
        "neurons": [block.neurons for block in layers],
        "hidden": hidden_width(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


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
