"""`experiments/wandb/`: what an agent would run composes, and the metric is one that is logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from project import ROOT

from sparsekit.config.plain import plain

SWEEPS = sorted((ROOT / "experiments" / "wandb").glob("wandb_*.yaml"))


def test_the_walk_finds_them() -> None:
    assert len(SWEEPS) == 2


def drawn(parameter: dict[str, Any]) -> Any:
    """A value that W&B might choose."""
    return parameter["values"][-1] if "values" in parameter else parameter["max"]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_an_agents_command_composes(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sweep = yaml.safe_load(path.read_text())
    assert (ROOT / sweep["program"]).is_file()
    assert sweep["command"][:3] == ["${env}", "${interpreter}", "${program}"]
    # The agent puts KEY=VALUE for ${args_no_hyphens}.
    assert sweep["command"][-1] == "${args_no_hyphens}"
    chosen = {key: drawn(parameter) for key, parameter in sweep["parameters"].items()}
    arguments = [*sweep["command"][3:-1], *(f"{key}={value}" for key, value in chosen.items())]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        values = plain(compose("config", [f"output_dir={tmp_path}", *arguments]))
    for key, value in chosen.items():
        group, name = key.split(".")
        assert values[group][name] == value
    # The summary has validation/NAME, the history eval_NAME, which stopping early needs.
    start = "eval_" if "early_terminate" in sweep else "validation/"
    assert sweep["metric"]["name"].startswith(start)
    assert sweep["metric"]["name"].removeprefix(start) in values["dataset"]["metrics"]
