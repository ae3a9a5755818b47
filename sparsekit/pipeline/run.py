"""One run: its folder, its tracking, and what is printed when it ends; see `experiment`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from hydra.conf import HydraConf
from hydra.types import RunMode
from omegaconf import DictConfig

from sparsekit.config.build import build
from sparsekit.config.plain import plain
from sparsekit.config.unread import idle_variables, unread_keys, unread_variables
from sparsekit.distributed import FIRST_PROCESS
from sparsekit.errors import ConfigError, UserError
from sparsekit.pipeline import stages
from sparsekit.pipeline.experiment import experiment
from sparsekit.pipeline.plan import Plan
from sparsekit.runs.faults import explained
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.launch_record import accept_record
from sparsekit.runs.progress import quiet_libraries
from sparsekit.runs.replacement import check_replaceable, mark, remove_results
from sparsekit.runs.report import show_closing
from sparsekit.runs.summary import describe
from sparsekit.runs.tracking import TrackingConfig, track
from sparsekit.training.processes import leave
from sparsekit.training.resume import resumed_step
from sparsekit.training.settings import check_unchanged, trained_by

log = logging.getLogger(__name__)


def run(cfg: DictConfig, hydra: HydraConf) -> Path:
    """Run the composed config and return the path of its run folder.

    Nothing is written where a run would replace files that no run wrote, or where another run is
    at work; both raise UserError. Any later error is in `summary.json` before it is raised.
    """
    folder = RunFolder(Path(cfg.output_dir))
    if not FIRST_PROCESS:
        _run(cfg, hydra, folder)
        return folder.path
    check_replaceable(folder)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run folder: {error}; set hydra.run.dir=FOLDER") from error
    with folder.lock():
        mark(folder)
        _run(cfg, hydra, folder)
    show_closing(folder.summary, folder)
    return folder.path


def _run(cfg: DictConfig, hydra: HydraConf, folder: RunFolder) -> None:
    quiet_libraries()
    names = {key: name for key, name in hydra.runtime.choices.items() if key in cfg}
    plan, tracking = _checked(cfg, hydra, names, folder)
    if FIRST_PROCESS:
        for warning in idle_variables(cfg, hydra.overrides.task):
            log.warning("%s", warning)
        _replace_earlier(folder, plan)
    # The sweep's date and time, as Hydra names its folder.
    sweep = "/".join(Path(hydra.sweep.dir).parts[-2:]) if hydra.mode == RunMode.MULTIRUN else None
    overrides, resumed = list(hydra.overrides.task), bool(plan.training.resume_from_checkpoint)
    tracked = track(tracking, folder, plan.values, overrides, sweep, resumed)
    # Inside, so that the summary has the sentence too; outside, for the summary's own writing.
    with explained(folder), tracked as tracker, explained(folder):
        experiment(plan, names, folder, tracker)
    leave()


def _checked(
    cfg: DictConfig, hydra: HydraConf, names: Mapping[str, str], folder: RunFolder
) -> tuple[Plan, TrackingConfig]:
    """The plan and the tracking that the config describes.

    The error of a refused config is written to `summary.json`, unless an earlier run began in
    `folder`: its files are left alone.
    """
    values = {}
    try:
        values = plain(cfg)
        if unread := [*unread_variables(cfg, hydra.overrides.task), *unread_keys(cfg)]:
            raise ConfigError(unread)
        plan, tracking = Plan.build(values), build(values["tracking"], "tracking", trusted=True)
        resumed, allow = plan.training.resume_from_checkpoint, plan.training.resume_despite_changes
        check_unchanged(resumed, trained_by(values), allow)
    except UserError as error:
        if FIRST_PROCESS and not folder.config_file.exists():
            known = stages.identity(values, names) if values else {}
            folder.write_summary({**known, "status": "failed", "error": describe(error)})
        raise
    return plan, tracking if FIRST_PROCESS else TrackingConfig(mode="disabled")


def _replace_earlier(folder: RunFolder, plan: Plan) -> None:
    """Remove an earlier run's results; those events stay that this run does not log again."""
    checkpoint = plan.training.resume_from_checkpoint
    if folder.summary_file.exists() and not checkpoint:
        if folder.ending.status == "completed":
            # A mistake in its data or its student costs no finished run.
            stages.load_data(plan)
        log.warning("%s holds an earlier run, which this one replaces", folder)
    accept_record(folder)
    remove_results(folder, resumed_step(checkpoint))
