"""`engine=sparseml`: refused before it starts where it cannot do as told, and a run of its own."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from project import ROOT
from transformers import AutoModelForSequenceClassification

from sparsekit.compare.load import load
from sparsekit.config.plain import plain
from sparsekit.errors import ConfigError, UserError
from sparsekit.oneshot.shrink_in_memory import shrink
from sparsekit.pipeline.engines.sparsekit import SparsekitEngine
from sparsekit.pipeline.engines.sparseml import SparseML, check_loadable
from sparsekit.pipeline.plan import Plan
from sparsekit.pipeline.run import run
from sparsekit.runtime.answers import predict
from sparsekit.sparseml.engine import run_worker, trainer_arguments
from sparsekit.sparseml.peer import peer_python


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", ["tracking=none", *overrides], return_hydra_config=True)


def values(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    cfg = composed("dataset=quickstart", "teacher=self", f"output_dir={tmp_path}", *overrides)
    return plain(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["training=smoke"], "training.max_steps is 20; set training.max_steps=-1"),
        (["training.precision=bf16"], "trains in fp32, but training.precision is bf16"),
        (["training.sparse_products=on"], "multiplies zeros too"),
        (["training.tokens_per_batch=2048"], "takes batches of rows"),
        (["training.class_weights=balanced"], "knows no training.class_weights"),
        (["teacher=checkpoint", "teacher.checkpoint=[a,b]"], "takes one teacher"),
        (["recipe.modifiers.quantization.per_channel_weights=true"], "no field for per_channel"),
        (
            ["+recipe.modifiers.layers._target_=sparsekit.modifiers.distillation.layers."
             "PerLayerDistillation"],
            "modifiers.layers imitates layers",
        ),
        (["dataset.streaming=true"], "engine=sparseml trains on a table"),
        (["+sweep.trial._target_=x"], "cannot report to a search"),
        (
            ["recipe=dense", "+recipe.modifiers.q._target_=sparsekit.modifiers.quantization.qat."
             "Quantization", "+recipe.modifiers.q.scheme=default"],
            "modifiers.q quantizes by scheme",
        ),
    ],
)  # fmt: skip
def test_what_it_cannot_do(
    overrides: list[str], problem: str, tmp_path: Path, peer_stand_in: str
) -> None:
    assert isinstance(Plan.build(values(tmp_path, "engine=sparseml")).engine, SparseML)
    with pytest.raises(ConfigError, match=problem):
        Plan.build(values(tmp_path, "engine=sparseml", *overrides))


TASKS = {file.stem for file in (ROOT / "conf" / "task").glob("*.yaml")}
SEQUENCES = {"text_classification", "regression", "multi_label"}


@pytest.mark.parametrize("task", sorted(TASKS - SEQUENCES))
def test_tasks_that_its_worker_does_not_load_are_refused(
    task: str, tmp_path: Path, peer_stand_in: str
) -> None:
    with pytest.raises(ConfigError, match="trains models for sequence classification, not for"):
        Plan.build(values(tmp_path, "engine=sparseml", f"task={task}"))


@pytest.mark.parametrize(
    "overrides",
    [
        ["task=text_classification"],
        ["task=regression", "dataset.metrics=[spearman]"],
        ["task=multi_label", "dataset.metrics=[f1_micro]", "+dataset.label_columns=[a,b]"],
    ],
)
def test_tasks_that_its_worker_loads(
    overrides: list[str], tmp_path: Path, peer_stand_in: str
) -> None:
    built = Plan.build(values(tmp_path, "engine=sparseml", *overrides))
    assert isinstance(built.engine, SparseML)


def test_a_shrunken_student_that_only_sparsekit_loads(teacher_folder: str) -> None:
    for shares, loadable in (({"neurons": 0.5, "layers": 0.5}, True), ({"heads": 0.5}, False)):
        model = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
        shrink(model, **shares)
        if loadable:
            check_loadable(model)
            continue
        with pytest.raises(UserError, match="shrink neurons or whole layers alone"):
            check_loadable(model)


def test_without_the_peer_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEKIT_PEER_PYTHON", str(tmp_path / "nothing"))
    assert isinstance(Plan.build(values(tmp_path)).engine, SparsekitEngine)
    with pytest.raises(ConfigError, match=r"2 problems(?s:.*)SPARSEKIT_PEER_PYTHON is .*nothing"):
        Plan.build(values(tmp_path, "engine=sparseml", "training.max_steps=3"))


def test_arguments_in_the_older_names(tmp_path: Path) -> None:
    passed = trainer_arguments(values(tmp_path, "+training.adam_beta2=0.98")["training"])
    assert passed["evaluation_strategy"] == "epoch"
    assert "train_sampling_strategy" not in passed
    assert passed["adam_beta2"] == 0.98
    assert not {"precision", "sparse_products"} & passed.keys() and "eval_strategy" not in passed


def test_a_worker_that_ends_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    said = "echo noise; echo '{\"steps\": 3}'; echo OSError: no room >&2; echo 50% >&2; exit 3"
    python.write_text(f"#!/bin/sh\n{said}\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("SPARSEKIT_PEER_PYTHON", str(python))
    reports: list[dict[str, Any]] = []
    with pytest.raises(
        UserError, match=r"ended with code 3: OSError: no room; see .*log for its whole output"
    ):
        run_worker(tmp_path / "job.json", tmp_path / "log", reports.append)
    assert reports == [{"steps": 3}]


@pytest.mark.slow
@pytest.mark.skipif(peer_python() is None, reason="no peer environment: make peer-env")
def test_the_same_config_through_both(
    tmp_path: Path, csv_files: dict[str, str], student_folder: str, teacher_folder: str
) -> None:
    config = [
        "dataset=csv",
        *(f"dataset.data_files.{split}={path}" for split, path in csv_files.items()),
        f"student.checkpoint={student_folder}",
        "teacher=checkpoint",
        f"teacher.checkpoint={teacher_folder}",
        "recipe.num_epochs=4",
        "recipe.qat_epochs=2",
        "training.disable_tqdm=true",
        "training.per_device_train_batch_size=8",
    ]
    summaries = {}
    for engine in ("sparsekit", "sparseml"):
        folder = tmp_path / engine
        cfg = composed(*config, f"engine={engine}", f"output_dir={folder}")
        run(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), cfg.hydra)
        summaries[engine] = json.loads((folder / "summary.json").read_text())
    ours, theirs = summaries["sparsekit"], summaries["sparseml"]
    assert theirs["status"] == "completed"
    # The same weights and ranges give the same logits here as there.
    assert theirs.pop("sparseml")["max_abs_diff"] < 1e-4
    assert theirs.keys() == ours.keys()
    for key in ("teacher", "sparsity", "quantization"):
        assert theirs[key] == ours[key], key
    assert theirs["train"]["steps"] == ours["train"]["steps"] == 4 * 12
    assert theirs["export"]["verified"] is True
    assert theirs["export"]["int8_matmuls"] == ours["export"]["int8_matmuls"] > 0
    both = {path.relative_to(tmp_path / "sparsekit") for path in files(tmp_path / "sparsekit")}
    missing = both - {
        path.relative_to(tmp_path / "sparseml") for path in files(tmp_path / "sparseml")
    }
    assert {str(path) for path in missing} <= {"model/training_args.bin"}
    saved = yaml.safe_load((tmp_path / "sparseml" / "model" / "recipe.yaml").read_text())
    assert saved["metadata"]["precision"] == "fp32"
    assert predict(tmp_path / "sparseml" / "deployment", ["a fine film"])
    schedules = [json.loads((tmp_path / e / "schedule.json").read_text()) for e in summaries]
    assert schedules[0] == schedules[1]
    rates = [learning_rates(tmp_path / engine) for engine in summaries]
    # Ours is logged after the step, theirs of the step: the rate falls by 1/48 of 1.5e-4 a step.
    assert rates[1] == pytest.approx(rates[0], abs=1.5e-4 / 48 * 1.01)
    runs = load([tmp_path])
    assert {r.config["engine"] for r in runs} == {"sparsekit", "sparseml"}
    assert {r.status for r in runs} == {"completed"}
    assert yaml.safe_load((tmp_path / "sparseml" / "config.yaml").read_text())["engine"]["_target_"]


def files(folder: Path) -> list[Path]:
    """What is kept of a run, but for checkpoints."""
    found = [Path(top) / name for top, _, names in os.walk(folder) for name in names]
    return [path for path in found if "checkpoints" not in path.relative_to(folder).parts]


def learning_rates(folder: Path) -> list[float]:
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [event["learning_rate"] for event in events if "learning_rate" in event]
