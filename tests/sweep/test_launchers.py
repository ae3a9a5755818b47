"""One sweep on each launcher: a job that exits and a killed one fail alone there too."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from sweeping import poison, ran, statuses, sweep

LAUNCHERS = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra.launcher.timeout_min=5"],
    "ray": ["+hydra.launcher.ray.init.num_cpus=2"],
}


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
