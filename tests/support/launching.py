"""Runs through the launcher: in this process, or in one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from project import CONF, ROOT

from sparsekit.config.plain import plain
from sparsekit.pipeline.plan import Plan
from sparsekit.pipeline.run import run

# For a student whose head is new: beside the labels it may learn what that answers, not alone.
TAUGHT_BY_ITSELF = ("teacher=self", "recipe.distill_hardness=0.5")


def launch(
    arguments: str, folder: Path, environment: dict[str, str], timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """`python launch.py <arguments>` from another working directory."""
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *arguments.split()],
        cwd=folder,
        # W&B in an earlier test of this process leaves the address of its own process there.
        env={key: value for key, value in environment.items() if key != "WANDB_SERVICE"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def composed(*overrides: str) -> DictConfig:
    """The config of a run; its folder is `run` where no override says otherwise."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["output_dir=run", *overrides])


def planned(*overrides: str) -> Plan:
    """What a run would do. Raises ConfigError as the run would."""
    return Plan.build(plain(composed(*overrides)))


def run_here(folder: Path, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "config",
            [f"output_dir={folder}", "tracking=none", "training.disable_tqdm=true", *overrides],
            return_hydra_config=True,
        )
    run(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), cfg.hydra)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def local(csv_files: dict[str, str], student: str) -> list[str]:
    return [
        "dataset=csv",
        *(f"dataset.data_files.{split}={path}" for split, path in csv_files.items()),
        f"student.checkpoint={student}",
        "training=smoke",
        "training.max_steps=4",
        "runtime=none",
    ]
