"""A sweep's view in W&B: what it shows, and what is said where it cannot be saved."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb_workspaces.workspaces.interface as interface
import wandb_workspaces.workspaces.internal as transport
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.errors import UserError
from sparsekit.runs.tracking import TrackingConfig
from sparsekit.sweep.workspace import save_workspace, workspace

SUMMARY = {
    "status": "completed",
    "metrics": {"validation": {"accuracy": 0.8}},
    "sparsity": {"overall": 0.9},
    "runtime": {"onnxruntime": {"latency_ms_p50": 1.5}},
}
AXES = ["student", "recipe.distill_hardness"]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "2026-01-02" / "03-04-05"
    (folder / "0").mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"key": "k", "axes": AXES, "jobs": []}))
    (folder / "0" / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "0" / "config.yaml").write_text(
        "tracking: {_target_: sparsekit.runs.tracking.TrackingConfig, entity: me, mode: offline}"
    )
    return folder


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The views that would have gone to W&B; a key is configured."""
    views: list[Any] = []

    def keep(view: Any) -> dict[str, Any]:
        views.append(json.loads(view.model_dump_json(by_alias=True, exclude_none=True)))
        return {"upsertView": {"view": {"name": "nw-abc-v", "id": "1"}}}

    monkeypatch.setattr(transport, "upsert_view2", keep)
    monkeypatch.setattr(interface, "get_app_url", lambda api: "https://wandb.ai")
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(default_entity="me"))
    monkeypatch.setenv("WANDB_API_KEY", "c" * 40)
    return views


def test_what_is_saved(sweep: Path, sent: list[Any]) -> None:
    address = save_workspace(sweep, TrackingConfig(entity="me", project="films", mode="online"))
    assert "me/films" in address
    [view] = sent
    [section] = view["spec"]["section"]["panelBankConfig"]["sections"]
    parallel, scatter = (panel["config"] for panel in section["panels"])
    assert [column["accessor"] for column in parallel["columns"]] == [
        "config:student.value",
        "config:sparsekit.value.recipe.distill_hardness",
        "summary:validation/accuracy",
        "summary:sparsity",
        "summary:runtime/onnxruntime/latency_ms_p50",
    ]
    assert scatter["xAxis"] == "summary:runtime/onnxruntime/latency_ms_p50"
    assert scatter["yAxis"] == "summary:validation/accuracy"
    [filtered] = view["spec"]["section"]["runSets"][0]["filters"]["filters"]
    assert filtered["key"]["name"] == "group"
    assert filtered["value"] == "2026-01-02/03-04-05"


def test_the_command_saves_it_later(sweep: Path, sent: list[Any]) -> None:
    result = CliRunner().invoke(app, ["workspace", str(sweep)])
    assert result.exit_code == 0, result.output
    assert "workspace: https://" in result.output
    assert len(sent) == 1


def test_offline_says_what_to_do(sweep: Path) -> None:
    with pytest.raises(UserError, match=r"offline here; upload .*then: sparsekit workspace .*03"):
        save_workspace(sweep, TrackingConfig(mode="offline"))


def test_a_sweep_without_results(sweep: Path, sent: list[Any]) -> None:
    (sweep / "0" / "summary.json").unlink()
    config = TrackingConfig(entity="me", mode="online")
    with pytest.raises(UserError, match=r"no job in .* is completed"):
        save_workspace(sweep, config)
    (sweep / "0" / "summary.json").write_text(json.dumps(SUMMARY))
    (sweep / "sweep.json").unlink()
    with pytest.raises(UserError, match=r"not a sweep's folder: it has no readable sweep.json"):
        save_workspace(sweep, config)
    assert sent == []


def test_a_group_of_its_own_names_the_view() -> None:
    view = workspace("me", TrackingConfig(group="mine"), "date/time", AXES, SUMMARY)
    assert view.name == "sweep mine"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'sparsekit\[workspaces\]'"):
        TrackingConfig(workspace=True)
