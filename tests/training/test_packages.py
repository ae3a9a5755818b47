"""Trackers and optimizers of other packages: one line where one is missing, and a run with each."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from datasets import Dataset
from tiny_training import LoadedModel, recipe, trainer
from transformers.training_args import OptimizerNames

from sparsekit.errors import ConfigError
from sparsekit.training import packages
from sparsekit.training.arguments import SparseTrainingArguments

# Those that torch and transformers have themselves; and one that only runs on other hardware.
BUILT_IN = {"adafactor", "adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop"}
OTHER = {"adamw_torch_xla", "adamw_torch_npu_fused", "adamw_anyprecision", "adamw_apex_fused"}


def test_every_optimizer_of_transformers_is_built_in_or_has_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    named = {optimizer.value for optimizer in OptimizerNames}
    without = {name for name in named if not packages.package_problems([], name)}
    assert without == named & (BUILT_IN | OTHER)
    assert packages.package_problems([], "galore_adamw_8bit_layerwise") == [
        "training.optim=galore_adamw_8bit_layerwise needs a package that is not installed: "
        "pip install galore-torch"
    ]
    assert "pip install bitsandbytes" in packages.package_problems([], "lion_32bit")[0]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda module: None)
    message = f"training.report_to={name} needs a package that is not installed: pip install {name}"
    with pytest.raises(ConfigError, match=message):
        SparseTrainingArguments(report_to=name, use_cpu=True)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "trackio"])
def test_a_tracker_gets_the_trainers_events(
    tmp_path: Path,
    student: LoadedModel,
    rows: dict[str, Dataset],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install {name}")
    monkeypatch.chdir(tmp_path)
    for variable, folder in (
        ("TENSORBOARD_LOGGING_DIR", "tensorboard"),
        ("TRACKIO_DIR", "trackio"),
    ):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = trainer(tmp_path / "checkpoints", student, rows, recipe(), report_to=name, max_steps=2)
    run.train()
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    marks = {"tensorboard": "tfevents", "mlflow": "mlflow.db", "trackio": ".db"}
    assert any(marks[name] in file for file in written), written
