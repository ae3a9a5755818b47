"""The run folder's files, and W&B as their mirror: offline runs are read back from disk."""

import json
import logging
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import wandb
import wandb_file

from sparsekit.errors import UserError
from sparsekit.metrics.report import write_report
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.summary import describe, scalars
from sparsekit.runs.tracking import Tracker, TrackingConfig, track
from sparsekit.runs.tracking_callback import TrackerCallback
from sparsekit.runs.wandb_run import CLOUD_HOSTS, wandb_mode
from sparsekit.system import PACKAGES, UNITS, environment

RESOLVED = {"seed": 0, "recipe": {"num_epochs": 3, "modifiers": {"pruning": {"start": 0.0}}}}
SUMMARY = {
    "config": {"hash": "abc"},
    "metrics": {"validation": {"accuracy": 0.8}, "test": {"accuracy": 0.81}},
    "sparsity": {"overall": 0.9, "layers": {"bert.encoder.layer.0": 0.9}},
    "export": {"path": "deployment", "verified": True, "bytes": 1234},
    "runtime": {"onnxruntime": {"latency_ms_p50": 1.5}},
    "environment": {"python": "3"},
}


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summary(folder):
    return RunFolder(folder).summary


def offline_files(folder):
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def one_run(folder, config, overrides=(), group=None):
    folder.mkdir()
    with track(config, RunFolder(folder), RESOLVED, overrides, group) as tracker:
        tracker.log({"loss": 1.0}, step=3)
        tracker.log({"eval_accuracy": 0.7}, step=3)
        tracker.log({"loss": 0.5}, step=6)
        tracker.finish(SUMMARY)


def test_two_offline_runs_in_one_process_stay_two(tmp_path, capfd):
    config = TrackingConfig(project="reviews", tags=["seed", "bert"])
    one_run(tmp_path / "0", config, ["dataset=sst2", "recipe.x=0.5"], group="sweep-1")
    one_run(tmp_path / "1", config, ["dataset=sst2", "recipe.x=1.0"], group="sweep-1")
    assert capfd.readouterr().out == ""
    assert wandb.run is None
    for number, value in enumerate(["0.5", "1.0"]):
        [path] = offline_files(tmp_path / str(number))
        run = wandb_file.read(path)
        assert run.project == "reviews"
        assert run.name == f"dataset=sst2 recipe.x={value}"
        assert run.group == "sweep-1"
        assert run.tags == ["seed", "bert"]
        # The config once, under one key, and beside it what the command line set.
        assert run.config.keys() - {"_wandb"} == {"sparsekit", "dataset", "recipe.x"}
        assert run.config["recipe.x"] == value
        assert run.config["sparsekit"] == RESOLVED
        events = [
            {key: value for key, value in row.items() if not key.startswith("_")}
            for row in run.history
        ]
        assert events == [
            {"step": 3, "loss": 1.0},
            {"step": 3, "eval_accuracy": 0.7},
            {"step": 6, "loss": 0.5},
        ]
        assert run.summary.items() >= scalars(SUMMARY | {"status": "completed"}).items()
        assert run.exit_code == 0


def test_a_resumed_run_goes_on_as_the_same_wandb_run(tmp_path, caplog):
    def tracked(resumed):
        run = RunFolder(tmp_path)
        with track(TrackingConfig(), run, RESOLVED, [], None, resumed):
            return json.loads(run.wandb_id.read_text())["id"]

    first = tracked(resumed=False)
    assert tracked(resumed=True) == first
    assert {path.stem.rpartition("-")[2] for path in offline_files(tmp_path)} == {first}
    another = tracked(resumed=False)
    assert another != first
    RunFolder(tmp_path).wandb_id.write_text("{")
    assert tracked(resumed=True) not in (first, another)
    assert "names no W&B run to go on with" in caplog.text


def test_jobs_of_a_sweep_do_not_share_the_id_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    wandb.teardown()  # W&B reads the environment once
    ids = []
    for number in range(3):
        folder = tmp_path / str(number)
        one_run(folder, TrackingConfig(), group="sweep-1" if number else None)
        ids.append(json.loads(RunFolder(folder).wandb_id.read_text())["id"])
    assert ids[0] == "theirs"  # as an agent of a W&B sweep starts a run
    assert len(set(ids)) == 3
    monkeypatch.delenv("WANDB_RUN_ID")
    wandb.teardown()


@pytest.mark.parametrize("mode", ["auto", "offline"])
@pytest.mark.parametrize("address", ["unix-{folder}/socket", "tcp-localhost-9"])
def test_a_service_that_has_ended_is_left(tmp_path, monkeypatch, address, mode):
    """As a program that used W&B leaves its address to those that it starts later."""
    wandb.teardown()
    monkeypatch.setenv("WANDB_SERVICE", "3-1-" + address.format(folder=tmp_path))
    one_run(tmp_path / "run", TrackingConfig(mode=mode))
    assert offline_files(tmp_path / "run")
    wandb.teardown()


def test_names_of_the_config_win(tmp_path):
    one_run(tmp_path / "run", TrackingConfig(name="mine", group="ours"), ["a=1"], group="sweep")
    run = wandb_file.read(offline_files(tmp_path / "run")[0])
    assert (run.name, run.group) == ("mine", "ours")


def test_without_overrides_the_folder_names_the_run(tmp_path):
    one_run(tmp_path / "12-30-00", TrackingConfig())
    assert wandb_file.read(offline_files(tmp_path / "12-30-00")[0]).name == "12-30-00"


def test_a_long_name_keeps_both_ends(tmp_path):
    overrides = [f"recipe.x{i}=1.0" for i in range(20)] + ["seed=17"]
    one_run(tmp_path / "run", TrackingConfig(), overrides)
    name = wandb_file.read(offline_files(tmp_path / "run")[0]).name
    assert len(name) == 128
    assert name.startswith("recipe.x0=1.0 ")
    assert name.endswith(" seed=17")


def test_files_hold_the_run_when_wandb_is_off(tmp_path):
    one_run(tmp_path / "run", TrackingConfig(mode="disabled"))
    assert not (tmp_path / "run" / "wandb").exists()
    events = [{k: v for k, v in line.items() if k != "time"} for line in lines(tmp_path / "run")]
    assert events[0] == {"step": 3, "loss": 1.0}
    assert len(events) == 3
    written = summary(tmp_path / "run")
    assert written == SUMMARY | {"status": "completed", "error": None}


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_failure_is_recorded_and_raised(tmp_path, mode):
    with (
        pytest.raises(UserError, match="too few zeros"),
        track(TrackingConfig(mode=mode), RunFolder(tmp_path), RESOLVED, [], None) as tracker,
    ):
        tracker.record({"seed": 7, "train": {"steps": 12}})
        raise UserError("too few zeros")
    assert summary(tmp_path) == {
        "seed": 7,
        "train": {"steps": 12},
        "status": "failed",
        "error": "too few zeros",
    }
    assert wandb.run is None
    if mode == "offline":
        run = wandb_file.read(offline_files(tmp_path)[0])
        assert run.exit_code == 1
        assert run.summary["status"] == "failed"
        assert run.summary["train/steps"] == 12


def test_failure_after_finish_is_a_failure(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        track(TrackingConfig(mode="disabled"), RunFolder(tmp_path), {}, [], None) as tracker,
    ):
        tracker.finish(SUMMARY)
        raise KeyboardInterrupt
    assert summary(tmp_path)["status"] == "failed"
    assert summary(tmp_path)["error"] == "stopped by SIGINT"
    assert summary(tmp_path)["metrics"] == SUMMARY["metrics"]


def test_a_block_that_never_finishes_still_has_a_summary(tmp_path):
    with track(TrackingConfig(mode="disabled"), RunFolder(tmp_path), {}, [], None) as tracker:
        tracker.record({"seed": 1})
    assert summary(tmp_path) == {"seed": 1, "status": "completed", "error": None}


def test_wandb_that_breaks_while_training_costs_only_the_mirror(tmp_path, caplog):
    class Broken:
        def log(self, values):
            raise ConnectionError("gone")

    tracker = Tracker(RunFolder(tmp_path), Broken())
    with caplog.at_level(logging.WARNING):
        tracker.log({"loss": 1.0}, step=1)
        tracker.log({"loss": 0.9}, step=2)
    assert [line["loss"] for line in lines(tmp_path)] == [1.0, 0.9]
    assert [record.message.endswith("goes on: gone") for record in caplog.records] == [True]


UNREACHABLE = """
import sys, wandb
from pathlib import Path
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.tracking import TrackingConfig, track

start = wandb.init


def impatient(**given):
    if given["mode"] == "online":
        given["settings"].init_timeout = 2
    return start(**given)


wandb.init = impatient
folder = Path(sys.argv[1])
folder.mkdir()
with track(TrackingConfig(mode=sys.argv[2]), RunFolder(folder), {}, ["a=1"], None) as tracker:
    tracker.log({"loss": 1.0}, step=1)
"""


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_unreachable_wandb(tmp_path, monkeypatch, mode):
    """A key, and a server that is not there; W&B reads its host once, hence the subprocess."""
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    result = subprocess.run(
        [sys.executable, "-c", UNREACHABLE, str(tmp_path / "run"), mode],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == ""
    if mode == "auto":
        assert result.returncode == 0, result.stderr
        assert "recorded offline instead" in result.stderr
        assert [line["loss"] for line in lines(tmp_path / "run")] == [1.0]
        assert wandb_file.read(offline_files(tmp_path / "run")[-1]).name == "a=1"
    else:
        assert "try tracking.mode=offline" in result.stderr
        assert summary(tmp_path / "run")["status"] == "failed"


@pytest.mark.parametrize("mode", ["auto", "offline"])
def test_wandb_that_does_not_start(tmp_path, monkeypatch, caplog, mode):
    """What W&B raises where its own process cannot be reached is no wandb.Error."""

    def init(**settings):
        raise ConnectionError("Failed to connect to service")

    monkeypatch.setattr(wandb, "init", init)
    if mode == "offline":
        with pytest.raises(UserError, match=r"connect to service; try tracking.mode=disabled"):
            one_run(tmp_path / "run", TrackingConfig(mode=mode))
        return
    one_run(tmp_path / "run", TrackingConfig(mode=mode))
    assert "goes on without it: Failed to connect" in caplog.text
    assert summary(tmp_path / "run")["status"] == "completed"


def test_mode_needs_no_question(monkeypatch, tmp_path):
    assert wandb_mode("auto") == "offline"
    with pytest.raises(UserError, match="wandb login"):
        wandb_mode("online")
    for host in sorted(CLOUD_HOSTS):
        (tmp_path / "netrc").write_text(f"machine {host} login user password {'b' * 40}")
        assert wandb_mode("auto") == wandb_mode("online") == "online"
    (tmp_path / "netrc").write_text("machine example.org login user password secret")
    assert wandb_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode("auto") == "disabled"
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "c" * 40)
    assert wandb_mode("auto") == "online"
    assert wandb_mode("offline") == "offline"


def test_unknown_mode():
    with pytest.raises(UserError, match="'onlin' must be one of auto, online"):
        TrackingConfig(mode="onlin")


def test_deployment_is_logged_as_an_artifact(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "run" / "deployment").mkdir(parents=True)
    (tmp_path / "run" / "deployment" / "model.onnx").write_bytes(b"graph")
    with track(TrackingConfig(artifact=True), RunFolder(tmp_path / "run"), {}, [], None) as tracker:
        tracker.finish(SUMMARY)
    [path] = offline_files(tmp_path / "run")
    name = f"deployment-{path.stem.removeprefix('run-')}"
    assert wandb_file.read(path).artifacts == {name: ["model.onnx"]}


def test_scores_by_class_are_mirrored(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.evaluations.mkdir(parents=True)
    labels = np.arange(12) % 3
    logits = np.eye(3)[np.where(labels == 2, 0, labels)]
    write_report(run.evaluations, "validation", logits, labels, ["a", "b", "never"])
    with track(TrackingConfig(), run, {}, [], None) as tracker:
        tracker.finish(SUMMARY)
    [path] = offline_files(run.path)
    contents = wandb_file.read(path)
    assert contents.summary["validation/worst_class"] == "never"
    assert contents.summary["validation/worst_class_f1"] == 0.0
    assert contents.summary["validation/expected_calibration_error"] > 0
    pictures = [event for event in contents.history if any("confusion" in key for key in event)]
    assert len(pictures) == 1
    assert "image-file" in str(pictures[0])


def test_scalars():
    assert scalars(SUMMARY) == {
        "validation/accuracy": 0.8,
        "test/accuracy": 0.81,
        "sparsity": 0.9,
        "export/path": "deployment",
        "export/verified": True,
        "export/bytes": 1234,
        "runtime/onnxruntime/latency_ms_p50": 1.5,
    }


def test_json_has_no_nan_and_no_numpy(tmp_path):
    values = {"a": math.nan, "b": np.float32(0.5), "c": [np.int64(3), math.inf], "d": tmp_path}
    RunFolder(tmp_path).write_summary(values)
    assert summary(tmp_path) == {"a": "nan", "b": 0.5, "c": [3, "inf"], "d": str(tmp_path)}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_describe():
    assert describe(UserError("lower it")) == "lower it"
    assert describe(ValueError("odd")) == "ValueError: odd"


def test_callback_forwards_the_trainers_events(tmp_path):
    callback = TrackerCallback(Tracker(RunFolder(tmp_path)))
    state = SimpleNamespace(global_step=5, is_world_process_zero=True)
    callback.on_log(None, state, None, logs={"loss": 0.25, "epoch": 1.0})
    callback.on_log(None, SimpleNamespace(global_step=6, is_world_process_zero=False), None, {})
    [line] = lines(tmp_path)
    assert line.pop("time") > 1e9
    assert line == {"step": 5, "loss": 0.25, "epoch": 1.0}


def test_environment_is_plain_and_says_what_ran():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"].keys() == {"sparsekit", *PACKAGES}
    assert found["packages"]["torch"].startswith("2.")
    assert found["cores"] >= 1
    if sys.platform == "linux":
        assert found["cpu_units"].keys() == set(UNITS)


def test_imports_are_torch_and_wandb_free():
    code = (
        "import sys, sparsekit.runs.tracking, sparsekit.system;"
        "sys.exit(bool({'torch', 'wandb'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
