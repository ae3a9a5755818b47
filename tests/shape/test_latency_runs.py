"""A run that names a latency: the table it is solved by, and the latency that its file has."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from launching import launch
from shaped import classifier, some
from transformers import AutoModelForTokenClassification
from typer.testing import CliRunner

from sparsekit.benchmark.latency import least_seconds, random_model
from sparsekit.benchmark.requests import BenchmarkConfig
from sparsekit.cli.app import app
from sparsekit.errors import ConfigError, UserError
from sparsekit.modifiers.pruning.structured import StructuredPruning
from sparsekit.oneshot.shrink import shrink_checkpoint
from sparsekit.pipeline import shaping
from sparsekit.pipeline.shaping import latency_problems, use_latency_tables
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.report import rows
from sparsekit.runtime.base import Runtime
from sparsekit.shape.config import describe
from sparsekit.shape.kept import largest_sizes
from sparsekit.shape.latency import Costs, LatencyTable, machine
from sparsekit.shape.removal import remove
from sparsekit.shape.shrink import Shrink
from sparsekit.shape.target import Target
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.token_classification import TokenClassification

TASK = TextClassification(max_length=64)
COSTS = Costs(
    base=1.0,
    heads={0: 0.0, 4: 1.0},
    neurons={0: 0.0, 64: 1.0},
    last_heads={0: 0.0, 4: 1.0},
    last_neurons={0: 0.0, 64: 1.0},
)
TABLE = LatencyTable(
    machine=machine(),
    model={"layers": 3, "heads": 4, "neurons": 64, "hidden": 32},
    runtime="openvino",
    threads=1,
    batch=1,
    sequence=64,
    int8=True,
    costs={"0": COSTS},
)
OPENVINO = "sparsekit.runtime.openvino.OpenVinoRuntime"


def recipe(**fields: Any) -> Recipe:
    return Recipe(3, {"shape": StructuredPruning(end=1.0, method="magnitude", **fields)}, {})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    TABLE.save(tmp_path / "table.json")
    return tmp_path / "table.json"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The grids that tables were asked for; none is measured."""
    grids: list[Any] = []

    def measure(_: object, kind: Any, grid: Any) -> LatencyTable:
        grids.append(grid)
        costs = {f"{share:g}": COSTS for share in grid.sparsities}
        return replace(TABLE, runtime=kind.name, every_token=grid.every_token, costs=costs)

    monkeypatch.setattr(shaping, "measure_table", measure)
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    return grids


def test_a_table_is_measured_once_for_the_runs_runtime(measured: list[Any], tmp_path: Path) -> None:
    runtime = BenchmarkConfig(runtime=OPENVINO, threads=1)
    for name in ("first", "second"):
        run = RunFolder(tmp_path / name)
        run.path.mkdir()
        made = recipe(max_latency="3s", sparsity=0.5)
        use_latency_tables(made, runtime, classifier(), TASK, run)
        target = made.modifiers["shape"].latency_target
        assert target is not None and target.table == run.latency
        assert list(target.read().costs) == ["0", "0.5"]
    (grid,) = measured
    assert (grid.threads, grid.sequence, grid.sparsities, grid.int8) == (1, 64, (0.0, 0.5), False)


def test_a_resumed_run_keeps_its_table(measured: list[Any], file: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    file.rename(run.latency)
    use_latency_tables(
        recipe(max_latency="3s"), BenchmarkConfig(runtime=OPENVINO), classifier(), TASK, run
    )
    assert not measured


def test_a_given_table_is_kept_with_the_run(file: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    made = recipe(max_latency="3s", latency_table=str(file))
    use_latency_tables(made, None, classifier(), TASK, run)
    assert run.latency.read_bytes() == file.read_bytes()
    short = recipe(max_latency="1s", latency_table=str(file))
    with pytest.raises(UserError, match=r"1e\+03 ms is out of reach: the smallest shape takes"):
        use_latency_tables(short, None, classifier(), TASK, run)


def test_a_table_is_of_models_that_compute_the_tokens_of_the_task(
    measured: list[Any], file: Path, tmp_path: Path
) -> None:
    words, run = TokenClassification(max_length=64), RunFolder(tmp_path / "run")
    run.path.mkdir()
    runtime = BenchmarkConfig(runtime=OPENVINO, threads=1)
    given = recipe(max_latency="3s", latency_table=str(file))
    with pytest.raises(UserError, match=r"task reads every token, .* with --every-token"):
        use_latency_tables(given, runtime, classifier(), words, run)
    run.latency.unlink()
    replace(TABLE, every_token=True).save(file)
    use_latency_tables(given, runtime, classifier(), words, run)
    with pytest.raises(UserError, match=r"task reads one token .* without --every-token"):
        use_latency_tables(given, runtime, classifier(), TASK, run)
    run.latency.unlink()
    for task in (words, TASK):
        made = recipe(max_latency="3s")
        use_latency_tables(made, runtime, classifier(), task, RunFolder(tmp_path))
        (tmp_path / "latency.json").unlink()
    assert [grid.every_token for grid in measured] == [True, False]


def test_a_tagger_is_not_shrunk_by_a_table_of_texts(file: Path, tmp_path: Path) -> None:
    AutoModelForTokenClassification.from_config(classifier().config).save_pretrained(
        tmp_path / "tagger"
    )
    target = Target(max_latency="3s", table=file)
    with pytest.raises(UserError, match=r"task reads every token, .* with --every-token"):
        shrink_checkpoint(
            str(tmp_path / "tagger"), {tmp_path / "small": Shrink(target=target)}, None
        )
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("every_token", [False, True])
def test_a_table_of_a_model_whose_layers_differ(every_token: bool, tmp_path: Path) -> None:
    model = classifier()
    remove(model, some(model, "mixed"))
    describe(model)
    made = random_model(model.config, every_token)
    # As large as its largest layer, and as narrow as it is.
    assert largest_sizes(made) == largest_sizes(model) | {"layers": 2}
    assert largest_sizes(made)["hidden"] == 24
    [(layers, *_)] = [made(torch.ones(1, 5, dtype=torch.long)).logits.shape]
    assert layers == 1


def test_random_tokens_are_those_that_the_model_knows() -> None:
    seen: list[int] = []

    class Timed:
        def seconds(self, inputs: Any) -> float:
            seen.append(int(inputs["input_ids"].max()))
            return 1.0

    least_seconds(cast(Runtime, Timed()), 4, 64, 30)
    assert 20 < max(seen) < 30


def test_a_latency_needs_a_runtime_and_its_table(file: Path) -> None:
    openvino = BenchmarkConfig(runtime=OPENVINO)
    assert latency_problems(recipe(max_latency="3ms"), openvino) == []
    (found,) = latency_problems(recipe(max_latency="3ms"), None)
    assert "max_latency 3ms needs a runtime to be measured on; set runtime=openvino" in found
    given = recipe(max_latency="3ms", latency_table=str(file))
    assert latency_problems(given, openvino) == latency_problems(given, None) == []
    (found,) = latency_problems(given, BenchmarkConfig())
    assert "is of runtime openvino, and the run is timed on onnxruntime; set runtime=openv" in found
    # Whoever trains without the launcher gives a table.
    with pytest.raises(ConfigError, match=r"max_latency needs latency_table, a file that"):
        recipe(max_latency="3ms").attach(classifier())


def test_a_table_of_another_machine_is_refused_everywhere(
    file: Path, teacher_folder: str, tmp_path: Path
) -> None:
    replace(TABLE, machine=machine() | {"cpu": "another"}).save(file)
    named = r"was measured on another machine \(cpu another; here cpu .*recipe.any_machine=true"
    (found,) = recipe(max_latency="3s", latency_table=str(file)).problems()
    assert re.search(named, found)
    assert recipe(max_latency="3s", latency_table=str(file), any_machine=True).problems() == []
    words = ["--max-latency", "3ms", "--latency-table", str(file), "-o", str(tmp_path / "small")]
    result = CliRunner().invoke(app, ["shrink", teacher_folder, *words])
    assert result.exit_code == 1
    assert re.search(named, " ".join(result.output.split()))
    assert not (tmp_path / "small").exists()


def test_the_closing_table_has_what_was_predicted_and_measured() -> None:
    latency = {"predicted_ms": 2.9123, "runtime": "openvino", "batch": 1, "sequence": 128}
    sizes = {"heads": [1, 0], "neurons": [8, 16]}
    shape = {**sizes, "before": {"heads": [4, 4], "neurons": [64, 64]}, "latency": latency}
    found = dict(rows({"status": "completed", "shape": shape}))
    assert found["heads left"] == "1 of 8" and found["neurons left"] == "24 of 128"
    assert found["openvino latency predicted"] == "2.91 ms (1 x 128 tokens)"
    latency["measured_ms"] = 3.0
    found = dict(rows({"status": "completed", "shape": shape}))
    assert found["openvino latency predicted, measured"] == "2.91 ms, 3 ms (1 x 128 tokens)"


@pytest.mark.slow
def test_a_latency_is_named_on_the_command_line(tmp_path: Path) -> None:
    """The table, the search, the training, the export, and the file on the runtime."""
    environment = os.environ | {"SPARSEKIT_CACHE": str(tmp_path / "cache")}
    command = (
        "dataset=quickstart student=quickstart student.sparsity=null teacher=none tracking=none "
        "training=quickstart training.max_steps=30 recipe=shaped recipe.num_epochs=3 "
        "recipe.qat_epochs=1 runtime=openvino runtime.threads=1 runtime.requests=20 "
        "runtime.batches=2 hydra.run.dir=run recipe.max_latency="
    )
    refused = launch(f"{command}1us", tmp_path, environment, timeout=900)
    assert refused.returncode == 1
    assert "first the sizes that layers may have are timed on openvino" in refused.stderr
    smallest = re.search(
        r"the smallest shape takes ([\d.e-]+) ms", " ".join(refused.stderr.split())
    )
    assert smallest, refused.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()
    # Long enough for the smallest shape, too short for the whole model.
    tables = tmp_path.glob("cache/latency-tables/*/[!.]*.json")  # without the cache's own sums
    (table,) = map(LatencyTable.load, tables)
    assert table.sequence == 64 and table.int8
    whole = table.at(0).predict([4, 4], [256, 256])
    longest = (float(smallest[1]) * 1.01 + whole * 1e3) / 2
    done = launch(f"{command}{longest}ms", tmp_path, environment, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "are timed on openvino" not in done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    shape, latency = summary["shape"], summary["shape"]["latency"]
    assert sum(shape["heads"]) + sum(shape["neurons"]) < 8 + 512
    assert latency["predicted_ms"] <= longest * 1.002
    assert latency["measured_ms"] > 0
    assert (latency["runtime"], latency["threads"], latency["sequence"]) == ("openvino", 1, 64)
    assert "openvino latency predicted, measured" in done.stdout
    assert summary["runtime"]["openvino"]["latency_ms_p50"] > 0
    assert (tmp_path / "run" / "deployment" / "shape.png").is_file()
