"""Hydra sweeper `sparsekit`: a failed job does not stop the others, and sweeps resume."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sparsekit.cli.stopping import COMPOSING, SIGNALS, handle_signals
from sparsekit.config.build import build
from sparsekit.config.identity import identity_hash
from sparsekit.config.mistakes import explained
from sparsekit.config.plain import plain
from sparsekit.distributed import PROCESSES
from sparsekit.errors import UserError, first_line
from sparsekit.runs.creation import writable_folder
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.replacement import mark
from sparsekit.runs.report import show
from sparsekit.runs.summary import describe
from sparsekit.sweep import jobs as jobs_of
from sparsekit.sweep.jobs import Job
from sparsekit.sweep.table import failures, outcome, summary_table
from sparsekit.sweep.workspace import save_workspace


class ExitAsError:
    """The task, with `sys.exit` turned into an exception: launchers may share the process.

    A class at module level, so that it can be pickled for other processes and machines.
    """

    def __init__(self, task: TaskFunction) -> None:
        self.task = task

    def __call__(self, config: DictConfig) -> Any:
        try:
            return self.task(config)
        except SystemExit as error:
            if error.code in (None, 0):
                return None
            if error.code == 128 + signal.SIGINT:
                # Ctrl-C is meant for the sweep, not for its job alone.
                raise KeyboardInterrupt from error
            raise RuntimeError(f"the job exited: {error.code}") from error


class ResumingSweeper(Sweeper):
    """Runs the missing and failed jobs, each composed and recorded on its own."""

    def __init__(
        self,
        rerun: str,
        fail_fast: bool,
        root: str,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
    ) -> None:
        self.rerun, self.fail_fast, self.root = rerun, fail_fast, Path(root)
        self.max_batch_size = max_batch_size
        self.params = params or {}
        self.launcher: Launcher | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._config, self._context = config, hydra_context
        self._task = ExitAsError(task_function)

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep; exits with the failed jobs' names as the message if there are any."""
        if PROCESSES > 1:
            sys.exit("error: torchrun trains one job; a sweep starts its jobs itself")
        before: dict[int, Any] = {}
        try:
            COMPOSING.end()
            before = {n: signal.getsignal(n) for n in SIGNALS}
            handle_signals()
            failed = self._sweep([*(f"{k}={v}" for k, v in self.params.items()), *arguments])
        except UserError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt as stopped:
            name = str(stopped) or "SIGINT"
            sys.stderr.write(f"stopped by {name}; repeat the command to run the remaining jobs\n")
            sys.exit(128 + signal.Signals[name])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if failed:
            sys.exit(f"error: {failed}")

    def _sweep(self, arguments: list[str]) -> str | None:
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        overrides = parser.parse_overrides(arguments)
        expanded, axes = jobs_of.expand(overrides)
        key = jobs_of.sweep_key(overrides)
        with self._held(self._folder(key)) as folder:
            jobs = [self._compose(job) for job in expanded]
            self._run(jobs, folder, key, axes)
        show(summary_table(jobs, axes, folder))
        self._end(folder)
        return failures(jobs, axes)

    @contextmanager
    def _held(self, path: Path) -> Iterator[Path]:
        """The sweep's folder, writable, with other sweeps kept out: they number jobs as this one.

        Raises UserError where another process runs a sweep in it.
        """
        folder = writable_folder(path, "hydra.sweep.dir")
        lock = FileLock(folder / ".sweep.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"another process runs the sweep in {folder}: wait for it, or start one beside it "
                "with hydra.sweep.dir=FOLDER"
            ) from error
        try:
            yield folder
        finally:
            lock.release()

    def _end(self, folder: Path) -> None:
        """Save the sweep's view in W&B if configured, and print the sweep's folder."""
        tracking = plain(self._config.tracking)
        if tracking.get("workspace"):
            try:
                address = save_workspace(folder, build(tracking, "tracking"))
                sys.stdout.write(f"workspace: {address}\n")
            except UserError as error:
                sys.stderr.write(f"no workspace was saved: {error}\n")
        sys.stdout.write(f"sweep: {folder}\n")

    def _folder(self, key: str) -> Path:
        """The folder of the sweep's earlier call, unless everything is rerun; else a new one."""
        folder = Path(self._config.hydra.sweep.dir)
        chosen = any(
            text.startswith("hydra.sweep.dir=") for text in self._config.hydra.overrides.hydra
        )
        if chosen or self.rerun == "all":
            return folder
        return jobs_of.find_sweep(self.root, key) or folder

    def _compose(self, overrides: list[str]) -> Job:
        """The job with the hash that its run will have, or with the error of its config."""
        before = HydraConfig.instance().cfg
        try:
            config = self._context.config_loader.load_sweep_config(self._config, overrides)
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = 0
                config.hydra.runtime.output_dir = ""
            HydraConfig.instance().set_config(config)
            values = plain(OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"]))
            job = Job(overrides=overrides, hash=identity_hash(values))
            data = {group: values[group] for group in ("task", "dataset") if group in values}
            job.data_files = _data_files(json.dumps(data, default=str))
            job.models = _models(values)
            return job
        except (HydraException, OmegaConfBaseException, UserError) as error:
            return Job(overrides=overrides, error=explained(error, overrides))
        finally:
            HydraConfig.instance().cfg = before

    def _run(self, jobs: list[Job], folder: Path, key: str, axes: Sequence[str]) -> None:
        known = jobs_of.earlier_runs([self.root, folder])
        missing = jobs_of.to_run(jobs, known, self.rerun, _resumable)
        first = jobs_of.next_number(folder)
        invalid = [job for job in jobs if job.hash is None]
        for number, job in enumerate((*missing, *invalid), first):
            job.number, job.folder = number, job.folder or folder / str(number)
        folders = {job.hash: job.folder for job in missing}
        for job in jobs:
            job.folder = job.folder or folders[job.hash]
        jobs_of.write_record(folder, key, axes, jobs)
        for job in invalid:
            _folder_of(job).mkdir()
            _fail(job, job.error or "")
        if missing and not (self.fail_fast and invalid):
            self._launch(missing, folder)

    def _launch(self, jobs: list[Job], folder: Path) -> None:
        """Pass the jobs to the launcher in batches; stop after a failure if `fail_fast` is set."""
        if self.launcher is None:
            self.launcher = self._make_launcher(folder)
        size = self.max_batch_size or (1 if self.fail_fast else len(jobs))
        for start in range(0, len(jobs), size):
            batch = jobs[start : start + size]
            self._launch_batch(batch)
            if self.fail_fast and any(outcome(job).status != "completed" for job in batch):
                break

    def _make_launcher(self, folder: Path) -> Launcher:
        config = self._config
        with open_dict(config):
            # In the overrides too, from which each job's config is composed.
            config.hydra.sweep.dir, config.hydra.sweep.subdir = str(folder), "${hydra.job.num}"
            config.hydra.overrides.hydra += [
                f"hydra.sweep.dir='{folder}'",
                "hydra.sweep.subdir=${hydra.job.num}",
            ]
        OmegaConf.save(config, folder / "multirun.yaml")
        return Plugins.instance().instantiate_launcher(
            hydra_context=self._context, task_function=self._task, config=config
        )

    def _launch_batch(self, batch: list[Job]) -> None:
        """Launch jobs with consecutive numbers and make sure that each has a summary afterwards.

        If one job breaks the launcher (a killed worker of a pool), the unfinished jobs of its batch
        are launched again, one at a time.
        """
        assert self.launcher is not None
        results: Sequence[JobReturn] = []
        first = batch[0].number
        assert first is not None
        try:
            results = self.launcher.launch([job.launched for job in batch], first)
        except Exception as error:
            if len(batch) > 1:
                sys.stderr.write(f"{first_line(error)}: one job at a time\n")
                for job in batch:
                    if outcome(job).status not in ("completed", "failed"):
                        self._launch_batch([job])
                return
            _fail(batch[0], describe(error))
        for job, result in zip(batch, results, strict=bool(results)):
            if result.status == JobStatus.FAILED:
                _fail(job, describe(result._return_value))
            elif outcome(job).status != "completed":
                _fail(job, "the job ended without a summary.json")


@functools.cache
def _data_files(data: str) -> str | None:
    """The hash of the files of a data set; None where none is known.

    data: the config's groups `task` and `dataset` as JSON.

    What is wrong with the data set is the error of its job.
    """
    # Hydra imports this module for every command; a mistake in one need not wait for torch.
    from sparsekit.tasks.config import build_more_texts, build_source, build_task

    try:
        config = json.loads(data)
        source = build_source(config["dataset"], build_task(config, trusted=True))
        return build_more_texts(config["dataset"]).files_hash(source.files_hash())
    except (UserError, OSError):
        return None


def _models(values: Mapping[str, Any]) -> str | None:
    """The hash of the local models that a config names."""
    from sparsekit.models.contents import models_hash

    return models_hash(values)


def _resumable(run: RunFolder, job: Job) -> bool:
    """Whether a run has a whole checkpoint of the job's data and models, and is not at work."""
    from sparsekit.training.checkpoints import newest_whole, record
    from sparsekit.training.settings import FILES, MODELS

    checkpoint = newest_whole(run.checkpoints)
    if checkpoint is None:
        return False
    trained_by = record(checkpoint).get("trained_by") or {}
    for name, content in ((FILES, job.data_files), (MODELS, job.models)):
        if trained_by.get(name) not in (None, content):
            return False
    try:
        with run.lock():
            return True
    except UserError:
        return False


def _folder_of(job: Job) -> Path:
    assert job.folder is not None
    return job.folder


def _fail(job: Job, error: str) -> None:
    """Record the failure in the job's folder if the run could not do so itself."""
    run = RunFolder(_folder_of(job))
    run.path.mkdir(parents=True, exist_ok=True)
    if run.ending.status not in ("completed", "failed"):
        parts: dict[str, Any] = {"status": "failed", "error": error, "overrides": job.overrides}
        if job.hash is not None:
            parts["config"] = {"hash": job.hash}
        mark(run)
        run.write_summary(parts)
        sys.stderr.write(f"{os.path.relpath(run.path)}: {error.splitlines()[0] if error else ''}\n")
