"""`benchmarks/training_vs_sparseml.py` trains with both systems and prints their ratios."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from project import ROOT

from sparsekit.sparseml.peer import peer_python


@pytest.mark.slow
@pytest.mark.skipif(peer_python() is None, reason="no peer environment: make peer-env")
def test_both_systems_train() -> None:
    script = ROOT / "benchmarks" / "training_vs_sparseml.py"
    done = subprocess.run(
        [sys.executable, str(script), "--rows", "64", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ratio"].keys() == {"run", "before_qat", "qat"}
    for each in found["results"].values():
        assert each["sparsity"] == pytest.approx(0.8, abs=1e-5)
