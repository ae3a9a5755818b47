"""One sweep on each launcher: a job that exits and a killed one fail alone there too."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from sweeping import poison, ran, statuses, sweep

from hydra_plugins.sparsekit_launcher import _use_share
from sparsekit.system import cores

LAUNCHERS = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra.launcher.timeout_min=5"],
    "ray": ["+hydra.launcher.ray.init.num_cpus=2"],
}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux keeps a job to its cores")
@pytest.mark.parametrize("shares", [1, 2, 3])
def test_jobs_share_the_cores(shares: int) -> None:
    """What torch, onnxruntime and timings take for all cores is the job's share."""
    everything = cores()
    context = multiprocessing.get_context("fork")
    found = []
    for share in range(shares):
        ours, theirs = context.Pipe()
        job = context.Process(target=_report, args=(share, shares, theirs))
        job.start()
        found.append(ours.recv())
        job.join()
    assert all(len(own) == threads == seen for own, threads, seen in found)
    assert len({core for own, _, _ in found for core in own}) == everything
    if shares <= everything:
        assert sum(seen for _, _, seen in found) == everything


def _report(share: int, shares: int, answers: Connection) -> None:
    import torch

    _use_share(share, shares)
    own = sorted(os.sched_getaffinity(0))
    answers.send((own, torch.get_num_threads(), cores()))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_on(launcher: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher") is None:
        extra = launcher.split("_")[0]
        pytest.skip(f"the launcher is not installed (pip install 'sparsekit[{extra}]')")
    poison(tmp_path, s2="exit", s3="kill")
    settings = [f"hydra/launcher={launcher}", *LAUNCHERS[launcher]]
    done = sweep(tmp_path, *settings, "seed=1,2,3,4", code=1)
    assert sorted(ran(tmp_path)) == ["1", "4"]
    assert list(statuses(tmp_path).values()) == ["completed", "failed", "failed", "completed"]
    assert "2 of 4 jobs failed" in done.stderr
    assert "1 (seed=2): failed: RuntimeError: the job exited: error: a mistake" in done.stderr
    poison(tmp_path)
    sweep(tmp_path, *settings, "seed=1,2,3,4")
    assert sorted(ran(tmp_path)) == ["2", "3"]
