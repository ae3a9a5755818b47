"""Run folders of a sweep, written by hand: what `sparsekit compare` reads, without a training."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sparsekit.config.identity import identity_hash


def write_made_run(
    folder: Path,
    sparsity: float,
    hardness: float,
    qat_epochs: int,
    seed: int,
    accuracy: float,
    metric: str = "accuracy",
) -> Path:
    """A completed run; latency and size follow from sparsity and quantization."""
    config: dict[str, Any] = {
        "student": {"_target_": "sparsekit.models.loading.Student", "sparsity": sparsity},
        "recipe": {
            "num_epochs": 6,
            "qat_epochs": qat_epochs,
            "qat_start_epoch": 6 - qat_epochs,
            "distill_hardness": hardness,
            "modifiers": {"distillation": {"hardness": hardness}},
        },
        "training": {"seed": seed, "output_dir": str(folder / "checkpoints")},
        "tracking": {"mode": "disabled"},
        "seed": seed,
        "output_dir": str(folder),
    }
    size = int(4e6 * (0.25 if qat_epochs else 1))
    summary = {
        "status": "completed",
        "error": None,
        "config": {"student": "quickstart", "hash": identity_hash(config)},
        "seed": seed,
        "metrics": {"validation": {metric: accuracy}},
        "sparsity": {"overall": sparsity, "layers": {}},
        "train": {"seconds": 10.0, "steps": 60, "samples_per_second": 100.0},
        "export": {"bytes": size, "bytes_compressed": int(size * (1.1 - sparsity))},
        "runtime": {
            "onnxruntime": {
                "latency_ms_p50": (2.0 if qat_epochs else 3.0) + seed / 100 - sparsity,
                "latency_ms_p99": 4.0,
                "items_per_second": 500.0,
            }
        },
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_made_sweep(
    folder: Path,
    sparsities: Sequence[float] = (0.5, 0.8),
    hardnesses: Sequence[float] = (0.0, 1.0),
    qat_epochs: Sequence[int] = (0, 2),
    seeds: Sequence[int] = (1, 2, 3),
) -> int:
    """A run for each combination, numbered; returns how many. Accuracy falls with sparsity."""
    chance = random.Random(0)
    grid = list(itertools.product(sparsities, hardnesses, qat_epochs, seeds))
    for number, (sparsity, hardness, epochs, seed) in enumerate(grid):
        accuracy = 0.9 - 0.1 * sparsity**2 + 0.02 * hardness - 0.004 * bool(epochs)
        accuracy += chance.gauss(0, 0.004)
        write_made_run(folder / str(number), sparsity, hardness, epochs, seed, accuracy)
    return len(grid)
