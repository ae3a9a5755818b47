"""The scripts of `benchmarks/` that take seconds, in their smallest runs."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

from sparsekit.runtime.sparse.native import compiled

pytestmark = pytest.mark.slow


def output(name: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_fisher_information() -> None:
    words = ["--layers", "1", "--hidden", "64", "--gradients", "32", "--rounds", "1"]
    lines = output("fisher", *words).splitlines()
    assert [line.split(" | ")[0] for line in lines[3:]] == [
        "| passes",
        "| accumulation",
        "| saliency",
        "| update",
        "| all",
    ]


def test_sparse_products() -> None:
    shown = output("sparse_products", "--tokens", "64", "--rounds", "1", "--json")
    assert json.loads(shown.splitlines()[-1])


def test_tiles() -> None:
    if not compiled().has_amx():
        pytest.skip("this processor has no AMX")
    words = ["--layers", "1", "--sparsity", "0.8", "--tokens", "16", "--rounds", "1"]
    last = output("tiles", *words).splitlines()[-1]
    assert last.startswith("| 80% | 16 | ") and last.count("|") == 7


def test_attention_in_tiles() -> None:
    if not compiled().has_amx():
        pytest.skip("this processor has no AMX")
    last = output("attention_tiles", "--layers", "1", "--tokens", "16", "--rounds", "1")
    assert last.splitlines()[-1].startswith("| 16 | ") and last.splitlines()[-1].count("|") == 6


def test_the_profile_of_a_step_names_our_kernels() -> None:
    shown = output("step_profile", "--steps", "5", "--batch-size", "2", "--operators")
    assert "\nadamw " in shown and "\nquantize " in shown


def test_compared_runs() -> None:
    found = json.loads(output("compare_runs", "--runs", "40"))
    assert found["runs"] == 40 and found["page_mb"] > 0


def test_observers(teacher_folder: str, tmp_path: Path) -> None:
    files = [tmp_path / "train.csv", tmp_path / "validation.csv"]
    for file in files:
        with file.open("w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerows([["text"], *([f"a good film {number}"] for number in range(8))])
    words = ["--model", teacher_folder, "--data", str(files[0]), "--validation", str(files[1])]
    shown = output("observers", *words, "--rows", "8", "--compared", "8")
    assert shown.count("| minmax |") >= 3
