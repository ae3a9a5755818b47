"""What the process is told before torch loads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sparsekit.system import SPIN_COUNT

PROBE = "from sparsekit.system import bound_spinning; bound_spinning(); import torch"


@pytest.mark.skipif(sys.platform != "linux", reason="torch has GNU OpenMP on Linux")
@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, SPIN_COUNT), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_openmp_takes_the_bound_unless_the_user_set_one(own: dict[str, str], expected: str) -> None:
    inherited = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT",)}
    environment = inherited | own | {"OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=True
    )
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr


def test_the_command_line_sets_it() -> None:
    probe = (
        "import os; from typer.testing import CliRunner; from sparsekit.cli.app import app\n"
        "CliRunner().invoke(app, ['inspect', 'nothing'])\n"
        "print(os.environ['GOMP_SPINCOUNT'])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == SPIN_COUNT
