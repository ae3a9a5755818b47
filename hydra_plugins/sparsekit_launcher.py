"""Hydra launcher `process`: every job of a sweep in a process of its own on this machine."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import (
    JobReturn,
    JobStatus,
    configure_log,
    run_job,
    setup_globals,
)
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from sparsekit.errors import UserError
from sparsekit.system import cores


class ProcessLauncher(Launcher):
    """Runs `n_jobs` jobs at a time, each in a fork of this process.

    The libraries are imported once, before the first fork, when no thread is running and no
    accelerator is in use. With several jobs at a time each uses its share of the cores.
    """

    def __init__(self, n_jobs: int = 1) -> None:
        super().__init__()
        if n_jobs < 1:
            raise UserError(f"hydra.launcher.n_jobs={n_jobs} must be 1 or more")
        self.n_jobs = n_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._config, self._context = config, hydra_context
        self._task = task_function

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs and return how each process ended; results are in the run folders."""
        import sparsekit.pipeline.run  # noqa: F401  # seconds of imports that all forks share

        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        Path(str(self._config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        waiting = list(enumerate(job_overrides, initial_job_idx))
        running: dict[int, Any] = {}
        scratch: dict[int, tempfile.TemporaryDirectory[str]] = {}
        codes: dict[int, int] = {}
        # Which share of the cores each job has.
        free, shares = list(range(self.n_jobs)), dict[int, int]()
        try:
            while waiting or running:
                while waiting and len(running) < self.n_jobs:
                    number, overrides = waiting.pop(0)
                    scratch[number] = tempfile.TemporaryDirectory(prefix="sparsekit-job-")
                    shares[number] = free.pop(0)
                    running[number] = self._start(
                        number, overrides, scratch[number].name, shares[number]
                    )
                multiprocessing.connection.wait([job.sentinel for job in running.values()])
                for number in [n for n, job in running.items() if not job.is_alive()]:
                    running[number].join()
                    codes[number] = running.pop(number).exitcode
                    free.append(shares.pop(number))
                    scratch.pop(number).cleanup()
        finally:
            for job in running.values():
                job.terminate()
            for number, job in running.items():
                job.join()
                scratch[number].cleanup()
        return [_outcome(codes[n], o) for n, o in enumerate(job_overrides, initial_job_idx)]

    def _start(self, number: int, overrides: Sequence[str], scratch: str, share: int) -> Any:
        sys.stdout.flush()
        sys.stderr.flush()
        process = multiprocessing.get_context("fork").Process(
            target=self._job, args=(number, list(overrides), scratch, share), name=f"job {number}"
        )
        process.start()
        return process

    def _job(self, number: int, overrides: list[str], scratch: str, share: int) -> None:
        # A fork, above all a killed one, does not remove its libraries' temporary folders.
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        if self.n_jobs > 1:
            _use_share(share, self.n_jobs)
        loader = self._context.config_loader
        config = loader.load_sweep_config(self._config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        try:
            result = run_job(
                hydra_context=self._context,
                task_function=self._task,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
        except KeyboardInterrupt:
            # The sweep reports the interrupt.
            sys.exit(128 + signal.SIGINT)
        exited = getattr(result._return_value, "__cause__", None)
        if result.status == JobStatus.FAILED and isinstance(exited, SystemExit):
            # A user's mistake: its message without the traceback.
            sys.exit(exited.code if isinstance(exited.code, str) else 1)
        # Raises the job's exception, which ends this process with code 1.
        _ = result.return_value


def _use_share(share: int, shares: int) -> None:
    """Keep this process to its share of the cores, which torch and timings then take for all.

    Where the system cannot do that, only torch and OpenMP are limited.
    """
    import torch

    count = max(1, cores() // shares)
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        first, end = (len(allowed) * n // shares for n in (share, share + 1))
        # With more jobs than cores several have the same one.
        own = allowed[first:end] or [allowed[share % len(allowed)]]
        os.sched_setaffinity(0, own)
        count = len(own)
    torch.set_num_threads(count)
    os.environ["OMP_NUM_THREADS"] = str(count)


def _outcome(code: int, overrides: Sequence[str]) -> JobReturn:
    ended = f"the job's process ended with code {code}"
    if code < 0:
        ended = f"the job's process was killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            ended += (
                ", as the system does where memory runs out: run fewer jobs at a time "
                "(hydra.launcher.n_jobs), or set a smaller training.per_device_train_batch_size"
            )
    result = JobReturn(overrides=list(overrides))
    result.status = JobStatus.FAILED if code else JobStatus.COMPLETED
    result.return_value = RuntimeError(ended) if code else None
    return result
