"""Run one experiment, or with `-m` a sweep: `python launch.py dataset=rotten_tomatoes`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import sparsekit.sparseml_recipes.load  # noqa: F401  # recipe=sparseml
from sparsekit.config import UserError

# conf/config.yaml finds experiments/ through it, from any working directory.
os.environ.setdefault("SPARSEKIT_ROOT", str(Path(__file__).resolve().parent))


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Run what the config says; a mistake of the user ends in one clear message and code 1."""
    from sparsekit.run import run

    try:
        folder = run(cfg, HydraConfig.get())
    except UserError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"run: {folder}\n")


if __name__ == "__main__":
    main()
