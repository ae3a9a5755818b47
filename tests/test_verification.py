"""`sparsekit verify`: a sound run passes, and whatever is changed in it is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from run_folder import LINEARS, quantization, write_run
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sparsekit.cli import app
from sparsekit.config import UserError
from sparsekit.export.onnx import ExportConfig, export
from sparsekit.export.sums import check_sums, write_sums
from sparsekit.recipe import Recipe
from sparsekit.verification import verify_run

PRUNING = {"_target_": "sparsekit.modifiers.pruning.ConstantPruning", "params": "__ALL_PRUNABLE__"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"), student_folder, quantization())
    recipe = Recipe.build({"num_epochs": 2, "modifiers": {"pruning": PRUNING}})
    recipe.save(run / "model" / "recipe.yaml", {})
    node = {"_target_": "sparsekit.export.onnx.ExportConfig", "max_metric_drop": 0.1}
    settings = {"dataset": {"metrics": ["accuracy"], "max_length": 32}, "export": node}
    (run / "config.yaml").write_text(json.dumps(settings))
    result = export(run, ExportConfig(max_metric_drop=0.1))
    (run / "summary.json").write_text(json.dumps({"status": "completed", "export": result}))
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def summary_of(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return values


def test_a_sound_run(run: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(run)])
    assert result.exit_code == 0, result.output
    assert f"{LINEARS} of {LINEARS}" in result.stdout
    found = verify_run(run, summary_of(run))
    assert found["accuracy"] == f"{summary_of(run)['export']['metrics']['accuracy']:.4f}"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize(
    "name",
    [
        "deployment/model.onnx",
        "deployment/tokenizer.json",
        "deployment/config.json",
        "model/model.safetensors",
        "model/recipe.yaml",
        "evaluation/validation.parquet",
    ],
)
@pytest.mark.parametrize("change", [cut, Path.unlink])
def test_a_changed_file_is_named(run: Path, name: str, change: Callable[[Path], None]) -> None:
    change(run / name)
    with pytest.raises(UserError, match=rf"{Path(name).name}.*(cut short|missing)"):
        verify_run(run, summary_of(run))


def restamp(run: Path) -> None:
    """Sums for what is there now, as whoever tampers with care would write them."""
    for folder in (run, run / "deployment"):
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        write_sums(folder, [folder / line.partition("  ")[2] for line in lines])


def test_filled_zeros_are_found_behind_right_sums(run: Path) -> None:
    file = run / "model" / "model.safetensors"
    state = load_file(file)
    state["bert.encoder.layer.0.intermediate.dense.weight"].fill_(0.01)
    save_file(state, file, metadata={"format": "pt"})
    restamp(run)
    with pytest.raises(UserError, match=r"check 'weights' failed.*layer.0.intermediate"):
        verify_run(run, summary_of(run))


@pytest.mark.parametrize(
    ("key", "value"), [("int8_matmuls", 3), ("zero_fraction", 0.5), ("bytes", 1)]
)
def test_a_summary_that_claims_more(run: Path, key: str, value: float) -> None:
    summary = summary_of(run)
    summary["export"][key] = value
    with pytest.raises(UserError, match=rf"check '{key}' failed.*summary.json says {value}"):
        verify_run(run, summary)


def test_metrics_that_the_logits_do_not_have(run: Path) -> None:
    columns = pq.read_table(run / "evaluation" / "validation.parquet").to_pydict()
    right = [
        np.argmax(row) == label
        for row, label in zip(columns["logits"], columns["label"], strict=True)
    ]
    accuracy = sum(right) / len(right)
    summary = summary_of(run) | {"metrics": {"validation": {"accuracy": accuracy}}}
    assert verify_run(run, summary)
    summary["metrics"]["validation"]["accuracy"] = accuracy + 0.01
    with pytest.raises(UserError, match="check 'validation accuracy' failed: it is"):
        verify_run(run, summary)
    summary["metrics"] = {"test": {"accuracy": 1.0}}
    with pytest.raises(UserError, match=r"there is no .*test\.parquet"):
        verify_run(run, summary)


def test_no_deployment(run: Path) -> None:
    with pytest.raises(UserError, match="has no deployment to verify; export it first"):
        verify_run(run, {"status": "completed"})


def test_no_sums(run: Path) -> None:
    (run / "deployment" / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=r"there is no .*SHA256SUMS.*sparsekit export RUN"):
        verify_run(run, summary_of(run))


def test_sums_are_those_of_sha256sum(run: Path) -> None:
    (run / "small").mkdir()
    (run / "small" / "a").write_bytes(b"abc")
    write_sums(run / "small", [run / "small" / "a"])
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (run / "small" / "SHA256SUMS").read_text() == f"{known}  a\n"
    assert check_sums(run / "small") == 1
