"""Writes a pruned copy of a checkpoint, completely or not at all."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from sparsekit.errors import ConfigError, UserError
from sparsekit.models.hub import fetch_model
from sparsekit.models.inspection import inspect
from sparsekit.models.loading import check_body, check_encoder, load_weights, read_config
from sparsekit.oneshot import methods
from sparsekit.oneshot.calibration import draw
from sparsekit.oneshot.checkpoint import Data, architecture_of, calibration_rows, write_copy
from sparsekit.oneshot.methods import OneShot
from sparsekit.sparsity.prunable import nothing_prunable, prunable
from sparsekit.sparsity.surgeon import Layers


def prune_checkpoint(source: str, output: Path, config: OneShot, data: Data | None) -> None:
    """Write a pruned copy of `source` (run folder, model folder, Hub id) to the folder `output`.

    Raises UserError, for wrong settings before anything is read; `output` then does not exist.
    """
    problems = config.problems()
    if config.method != "magnitude" and data is None:
        problems.append(f"--method {config.method} measures on texts: add --data FILE.csv")
    if output.exists():
        problems.append(f"--output {output} exists already; remove it or choose another folder")
    if problems:
        raise ConfigError(problems)
    folder = _dense_folder(source, config)
    architecture = read_config(folder)
    if config.method != "magnitude":
        # Its decoder would need texts too.
        check_encoder(folder, architecture)
    model, missing = load_weights(folder, architecture_of(architecture), "pruning")
    check_body(folder, missing)
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    layers = prunable(model)
    check_layers(model, layers, config)
    batches = None
    if config.method != "magnitude":
        assert data is not None
        measured = "--method obs" if config.method == "obs" else None
        instead = ", or use --method wanda"
        of_file = calibration_rows(source, folder, model, missing, data, measured, instead)
        batches = partial(draw, *of_file)
    methods.prune(model, layers, batches, config)
    check_zeros(layers, config)
    record = {"source": source, **asdict(config), "data": str(data.file) if data else None}
    write_copy(model, missing, folder, output, "pruning.json", record)


def _dense_folder(source: str, config: OneShot) -> Path:
    """The checkpoint's folder; raises UserError where it is quantized or too sparse already."""
    folder = fetch_model(source)
    inspected = inspect(str(folder))
    if inspected.quantized:
        raise UserError(f"{source} is quantized already; prune the model before it is quantized")
    if inspected.sparsity > config.target:
        raise UserError(
            f"{source} has {inspected.sparsity:.1%} zeros already, more than --sparsity "
            f"{config.target:g}; existing zeros stay, so set a higher sparsity"
        )
    return folder


def check_layers(model: PreTrainedModel, layers: Layers, config: OneShot) -> None:
    """Raise UserError where no layer can be pruned, or the pattern does not divide one."""
    if problem := nothing_prunable(model):
        raise UserError(problem)
    problems = [
        f"--pattern {config.pattern} does not divide {name} of shape {tuple(layer.weight.shape)}; "
        "use --pattern unstructured"
        for name, layer in layers.items()
        if not config.mask_pattern.divides(layer.weight.shape)
    ]
    if problems:
        raise ConfigError(problems)


def check_zeros(layers: Layers, config: OneShot) -> None:
    """Raise RuntimeError, a bug in sparsekit, where fewer weights are zero than requested."""
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers.values())
    size = sum(layer.weight.numel() for layer in layers.values())
    # Each layer is exact to half a block of weights.
    if zeros < config.target * size - 4 * len(layers):
        raise RuntimeError(f"{zeros} of {size} weights are zero, not {config.target:.1%}")
