"""Writes a copy of a checkpoint with smaller matrices, completely or not at all."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from sparsekit.errors import ConfigError, UserError
from sparsekit.models.hub import fetch_model
from sparsekit.models.inspection import inspect
from sparsekit.models.loading import check_body, check_encoder, load_weights, read_config
from sparsekit.oneshot.calibration import draw as draw_rows
from sparsekit.oneshot.checkpoint import Data, architecture_of, calibration_rows, write_copy
from sparsekit.oneshot.checkpoint_task import task_of_checkpoint
from sparsekit.shape.ranking import rank
from sparsekit.shape.shrink import RECORD, Shrink, shrink
from sparsekit.shape.sizes import sizes
from sparsekit.shape.statistics import measure
from sparsekit.sparsity.surgeon import Draw


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
    batches = None
    if config.measures:
        assert data is not None
        measured = f"--method {config.method}"
        instead = ", or use --method magnitude"
        of_file = calibration_rows(source, folder, model, missing, data, measured, instead)
        batches = partial(draw_rows, *of_file)
    record = {"source": source, "data": str(data.file) if data else None}
    return write_shrunken(model, missing, folder, outputs, batches, record, "--")


def write_shrunken(
    model: PreTrainedModel,
    missing: Sequence[str],
    folder: Path,
    outputs: Mapping[Path, Shrink],
    draw: Draw | None,
    record: Mapping[str, Any],
    prefix: str,
) -> list[dict[str, Any]]:
    """Write smaller copies of `model` to new folders, as `shrink_checkpoint` does.

    Args:
        model: as it was loaded; it is left as it is.
        missing: the weights that its checkpoint lacks, which the copies lack too.
        folder: the checkpoint, whose tokenizer is copied.
        outputs: the settings for each folder, which share method, rows and seed.
        draw: draws batches with labels, where the method measures.
        record: what `shrinking.json` says besides the settings and the sizes.
        prefix: written before the names of settings in errors.
    """
    config = next(iter(outputs.values()))
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    statistics = None if draw is None else measure(model, draw(config.rows, config.seed, 1))
    rankings, found = rank(model, config.method, statistics), []
    for output, settings in outputs.items():
        made = copy.deepcopy(model)
        try:
            shrink(made, settings, rankings, statistics)
        except ConfigError as error:
            raise ConfigError([f"{prefix}{problem}" for problem in error.problems]) from error
        changed = {"before": sizes(model), "after": sizes(made)}
        write_copy(made, missing, folder, output, RECORD, {**record, **asdict(settings), **changed})
        found.append(changed)
    return found


def _check(outputs: Mapping[Path, Shrink], config: Shrink, data: Data | None) -> None:
    problems = [problem for each in outputs.values() for problem in each.problems("--")]
    if config.measures and data is None:
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
    folder = fetch_model(source)
    check_unquantized(source, folder)
    return folder


def check_unquantized(source: str, folder: Path) -> None:
    """Raise UserError where the weights in `folder`, which the user gave as `source`, are int8."""
    if inspect(str(folder)).quantized:
        raise UserError(
            f"{source} is quantized: its ranges were learned for the sizes that it has; shrink the "
            "model before it is quantized"
        )
