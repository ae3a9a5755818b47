"""`benchmarks/overhead.py` trains every kind and prints their ratios."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from project import ROOT


@pytest.mark.slow
def test_it_times_every_kind() -> None:
    script = ROOT / "benchmarks" / "overhead.py"
    sizes = ["--steps", "4", "--block", "2", "--length", "8", "--batch-size", "2"]
    done = subprocess.run(
        [sys.executable, str(script), *sizes, "--json"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ratio"].keys() == {"dense", "sparse_kd", "qat"}
    assert found["ratio"]["dense"] == 1
    assert all(found[kind]["wall_ms"] > 0 for kind in found["ratio"])
