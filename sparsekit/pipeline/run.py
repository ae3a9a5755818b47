"""One run: its folder, its tracking, and what is printed when it ends; see `experiment`."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from pathlib import Path

from hydra.conf import HydraConf
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from sparsekit.config.build import build
from sparsekit.config.plain import plain
from sparsekit.config.unread import unread_keys, unread_variables
from sparsekit.distributed import FIRST_PROCESS
from sparsekit.errors import ConfigError, UserError
from sparsekit.pipeline.experiment import experiment
from sparsekit.runs.folder import held
from sparsekit.runs.progress import quiet_libraries
from sparsekit.runs.report import closing_table
from sparsekit.runs.summary import describe, write_summary
from sparsekit.runs.tracking import TrackingConfig, track

log = logging.getLogger(__name__)


def run(cfg: DictConfig, hydra: HydraConf) -> Path:
    """Run the composed config and return its run folder.

    Whatever goes wrong, the folder's `summary.json` says so before the exception goes on.
    """
    folder = Path(cfg.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run folder: {error}; set output_dir=FOLDER") from error
    with held(folder) if FIRST_PROCESS else contextlib.nullcontext():
        return _run(cfg, hydra, folder)


def _run(cfg: DictConfig, hydra: HydraConf, folder: Path) -> Path:
    quiet_libraries()
    try:
        values = plain(cfg)
        remove_results(folder, resumed=bool(values["training"].get("resume_from_checkpoint")))
        if unread := [*unread_variables(cfg, hydra.overrides.task), *unread_keys(cfg)]:
            raise ConfigError(unread)
        tracking = build(values["tracking"], "tracking")
        if not FIRST_PROCESS:
            tracking = TrackingConfig(mode="disabled")
    except UserError as error:
        write_summary(folder, {"status": "failed", "error": describe(error)})
        raise
    names = {key: name for key, name in hydra.runtime.choices.items() if key in values}
    # The sweep's date and time, as Hydra names its folder.
    sweep = "/".join(Path(hydra.sweep.dir).parts[-2:]) if hydra.mode == RunMode.MULTIRUN else None
    with track(tracking, folder, values, list(hydra.overrides.task), sweep) as tracker:
        experiment(values, names, folder, tracker)
    if not FIRST_PROCESS:
        return folder
    Console().print(closing_table(json.loads((folder / "summary.json").read_text()), folder))
    return folder


def remove_results(folder: Path, resumed: bool) -> None:
    """Remove what an earlier run left in `folder`, so that it is not taken for this run's.

    Events stay where this run goes on after an earlier one. `model/` stays, to be overwritten by
    training: it may be this run's student.
    """
    if (folder / "summary.json").exists() and not resumed:
        log.warning("%s holds an earlier run, which this one replaces", folder)
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    for name in ("summary.json", "benchmark.json", "recipe.sparseml.yaml", "sparseml.log"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "deployment", ignore_errors=True)
