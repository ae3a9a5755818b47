"""What the process is told before torch loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsekit import system
from sparsekit.cli.app import app
from sparsekit.config.command_line import arranged
from sparsekit.errors import UserError
from sparsekit.system import SPIN_COUNT, available_memory, command, cpu_units, expanded

PROBE = "from sparsekit.system import bound_spinning; bound_spinning(); import torch"


@pytest.mark.parametrize(
    ("cpuinfo", "unit"),
    [("flags\t\t: fpu avx2 avx512_vnni", "avx512_vnni"), ("Features\t: fp asimddp", "asimddp")],
    ids=["x86", "arm"],
)
def test_units_are_read_from_cpuinfo(
    cpuinfo: str, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"processor\t: 0\n{cpuinfo}\n\n")
    units = cpu_units()
    assert units is not None and units[unit] and not units["i8mm"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"meminfo": "MemTotal: 99 kB\nMemAvailable:       8 kB\n"}, 8 * 1024),
        (
            {"meminfo": "MemAvailable: 8 kB\n", "memory.max": "max\n", "memory.current": "1\n"},
            8 * 1024,
        ),
        (
            {
                "meminfo": "MemAvailable: 8 kB\n",
                "memory.max": "5000\n",
                "memory.current": "4000\n",
                "memory.stat": "anon 3700\ninactive_file 300\n",
            },
            1300,
        ),
        ({"memory.max": "5000\n", "memory.current": "6000\n"}, 0),
    ],
    ids=["elsewhere", "machine", "no limit", "limit", "above the limit"],
)
def test_available_memory(
    files: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(system, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(system, "_CGROUP", tmp_path)
    assert available_memory() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_this_machine_tells_its_memory() -> None:
    assert (available_memory() or 0) > 2**20


def without_openmp() -> dict[str, str]:
    """The environment without what the tests of OpenMP set."""
    own = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    return {name: value for name, value in os.environ.items() if name not in own}


@pytest.mark.skipif(sys.platform != "linux", reason="torch has GNU OpenMP on Linux")
@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, SPIN_COUNT), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_openmp_takes_the_bound_unless_the_user_set_one(own: dict[str, str], expected: str) -> None:
    environment = without_openmp() | own | {"OMP_DISPLAY_ENV": "verbose"}
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
    command = [sys.executable, "-c", probe]
    done = subprocess.run(command, env=without_openmp(), capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == SPIN_COUNT


@pytest.mark.parametrize(
    ("on_path", "in_environment", "expected"),
    [
        ("env/bin", True, "sparsekit"),
        ("user/bin", False, "sparsekit"),
        ("other/bin", True, "env/bin/sparsekit"),
        ("nothing", True, "env/bin/sparsekit"),
        ("nothing", False, "{folder}/env/bin/python -m sparsekit"),
    ],
)
def test_the_command_is_one_that_the_shell_finds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    on_path: str,
    in_environment: bool,
    expected: str,
) -> None:
    for folder in {"user/bin", "other/bin"} | ({"env/bin"} if in_environment else set()):
        script = tmp_path / folder / "sparsekit"
        script.parent.mkdir(parents=True)
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "env" / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / on_path))
    monkeypatch.chdir(tmp_path)
    assert command() == expected.format(folder=tmp_path)


def test_a_name_of_no_user_is_part_of_a_path() -> None:
    """Whatever takes a path: a command ends in one sentence, as for any file that is not there."""
    path = "~no-such-user/model"
    assert expanded(path) == Path(path)
    assert expanded("~/model") == Path.home() / "model"
    for words in (["inspect", path], ["recipe", "show", f"{path}.yaml"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 1 and isinstance(done.exception, SystemExit | UserError)
    override = f"dataset.data_files.train={path}/${{x}}.csv"
    with pytest.raises(UserError, match="Hydra cannot read this value"):
        arranged([override])
