"""Deployments to the Hub and back, on a Hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hub
import pytest
import yaml
from huggingface_hub import HfApi
from run_folder import quantization, write_run
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.errors import UserError
from sparsekit.hub.connection import request_error
from sparsekit.onnx.export import ExportConfig, export
from sparsekit.onnx.hub import pull_deployment, push, push_problem
from sparsekit.onnx.layouts.write import write_layout
from sparsekit.onnx.sums import check_sums, write_sums

PUSH = """
import sys, pathlib
from sparsekit.onnx.hub import push
print(push(pathlib.Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"), student_folder, quantization())
    export(run, ExportConfig(verify=False))
    return run / "deployment"


def on_hub(served: hub.Hub, home: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | served.environment(home)
    return subprocess.run(
        list(map(str, command)), env=environment, cwd=home, capture_output=True, text=True
    )


@pytest.mark.slow
def test_push_and_pull(deployment: Path, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    verb = [str(Path(sys.executable).with_name("sparsekit"))]
    with hub.serve(tmp_path / "hub") as served:
        done = on_hub(served, tmp_path, sys.executable, "-c", PUSH, deployment, "me/reviews")
        assert done.returncode == 0, done.stderr
        pushed = tmp_path / "hub" / "models" / "me" / "reviews"
        names = {file.name for file in deployment.iterdir()}
        # transformers.js reads onnx/.
        assert {file.name for file in pushed.iterdir()} == names | {"onnx"}
        for graph in ("model.onnx", "onnx/model.onnx"):
            assert (pushed / graph).read_bytes() == (deployment / "model.onnx").read_bytes()

        done = on_hub(served, tmp_path, *verb, "pull", "me/reviews", "-o", "here")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("pulled: here (6 files, unchanged since they were pushed)")
        answer = on_hub(served, tmp_path, *verb, "predict", "here", "a warm film")
        assert answer.stdout.split("\t")[0] in ("negative", "positive")

        done = on_hub(served, tmp_path, *verb, "pull", "me/reviews", "-o", "here")
        assert "error: here exists" in done.stderr
        # A folder of `sparsekit export --layout transformers.js`, uploaded as it is.
        browsers = tmp_path / "hub" / "models" / "me"
        write_layout(deployment, "transformers.js", browsers, name="browsers")
        done = on_hub(served, tmp_path, *verb, "pull", "me/browsers")
        assert done.returncode == 0, done.stderr
        assert {file.name for file in (tmp_path / "browsers").iterdir()} == names
        assert check_sums(tmp_path / "browsers") == len(names) - 1
        # A file without a sum was not pushed by us: it is not downloaded.
        (pushed / "pytorch_model.bin").write_bytes(b"large")
        asked = len(served.requests)
        done = on_hub(served, tmp_path, *verb, "pull", "me/reviews", "-o", "listed")
        assert {file.name for file in (tmp_path / "listed").iterdir()} == names
        assert not any("pytorch_model.bin" in request for request in served.requests[asked:])

        (pushed / "model.onnx").write_bytes(b"cut")
        done = on_hub(served, tmp_path, *verb, "pull", "me/reviews", "-o", "cut")
        assert "model.onnx (3 bytes) was changed or cut short" in done.stderr
        assert not (tmp_path / "cut").exists()
        with (pushed / "SHA256SUMS").open("a") as sums:
            sums.write("0" * 64 + "  ../../stolen\n")
        done = on_hub(served, tmp_path, *verb, "pull", "me/reviews", "-o", "outside")
        assert "is not the sum of a file in this folder" in done.stderr
        (pushed / "SHA256SUMS").write_text("0" * 64 + "  pytorch_model.bin\n")
        done = on_hub(served, tmp_path, *verb, "pull", "me/reviews", "-o", "other")
        assert "is not a deployment of sparsekit: it has no model.onnx" in done.stderr
        (pushed / "SHA256SUMS").unlink()
        done = on_hub(served, tmp_path, *verb, "pull", "me/reviews", "-o", "other")
        assert "me/reviews is not a deployment of sparsekit" in done.stderr
        done = on_hub(served, tmp_path, *verb, "pull", "me/nothing")
        assert (
            "cannot pull 'me/nothing' from the Hub: it does not exist, or it is private"
            in done.stderr
        )


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_connection_that_is_lost_in_an_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    def lost(*_: object, **__: object) -> None:
        try:
            raise request_error()("Connection refused")
        except request_error() as error:
            if wrapped:  # As the client raises it for a large file.
                raise RuntimeError("Error while uploading 'model.onnx' to the Hub.") from error
            raise

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: None)
    monkeypatch.setattr(HfApi, "create_commit", lost)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(UserError, match=r"push .* 'me/it': Connection refused; the deployment is"):
        push(tmp_path, "me/it")


def test_no_hub(tmp_path: Path) -> None:
    """Offline, as all tests are."""
    with pytest.raises(UserError, match="cannot pull 'me/reviews' from the Hub"):
        pull_deployment("me/reviews", tmp_path / "new")


@pytest.mark.parametrize("repaired", [True, False])
def test_a_damaged_download_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repaired: bool
) -> None:
    """Once: the Hub's cache would give the damaged file for ever."""
    stored, asked = tmp_path / "stored", []
    stored.mkdir()
    (stored / "model.onnx").write_bytes(b"graph")
    write_sums(stored, [stored / "model.onnx"])
    (stored / "model.onnx").write_bytes(b"grap")

    def downloaded(
        repository: str, revision: str | None, again: bool = False
    ) -> tuple[Path, list[str]]:
        asked.append(again)
        if again and repaired:
            (stored / "model.onnx").write_bytes(b"graph")
        return stored, ["model.onnx"]

    monkeypatch.setattr("sparsekit.onnx.hub._downloaded", downloaded)
    target = tmp_path / "new"
    if repaired:
        assert pull_deployment("me/reviews", target) == 1
        assert (target / "model.onnx").read_bytes() == b"graph"
    else:
        with pytest.raises(UserError, match=r"^me/reviews is not what was exported.*twice"):
            pull_deployment("me/reviews", target)
        assert not target.exists()
    assert asked == [False, True]


def test_a_push_that_fails_keeps_the_deployment_and_its_results(
    tmp_path: Path, student_folder: str
) -> None:
    run = write_run(tmp_path, student_folder, quantization())
    node = {"_target_": "sparsekit.onnx.export.ExportConfig", "verify": False}
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["export"] = node | {"push_to_hub": "me/reviews"}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    (run / "summary.json").write_text('{"status": "completed"}')
    refused = CliRunner().invoke(app, ["export", str(run)])
    assert refused.exit_code == 1
    assert "cannot push to the Hub as 'me/reviews'" in refused.stderr
    assert "HF_TOKEN" in refused.stderr
    assert (run / "deployment" / "model.onnx").is_file()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["export"]["int8_matmuls"] > 0
    assert "pushed" not in summary


def test_a_push_that_must_fail_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"export.push_to_hub 'a/b/c' is not a valid name.*write user/name"
    ):
        ExportConfig(push_to_hub="a/b/c")
    assert push_problem() == "the Hub is switched off by HF_HUB_OFFLINE=1: unset it"
    monkeypatch.setattr("sparsekit.onnx.hub.is_offline_mode", lambda: False)
    monkeypatch.setattr("sparsekit.onnx.hub.get_token", lambda: None)
    assert "you are not logged in" in str(push_problem())
    monkeypatch.setattr("sparsekit.onnx.hub.get_token", lambda: "hf_x")
    assert push_problem() is None
