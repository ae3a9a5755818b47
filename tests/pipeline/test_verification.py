"""`sparsekit verify`: a sound run passes, and whatever is changed in it is named."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from run_folder import LINEARS, quantization, restamp, write_run
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.errors import UserError
from sparsekit.models.pruning import prune, sparsity
from sparsekit.onnx.export import ExportConfig, export
from sparsekit.onnx.sums import check_sums, write_sums
from sparsekit.onnx.trace import load_model
from sparsekit.pipeline.verification import verify_run
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.tasks.text_classification import TextClassification

TASK = TextClassification(max_length=64)

BENCHMARK = "sparsekit.benchmark.requests.BenchmarkConfig"
PRUNING = {
    "_target_": "sparsekit.modifiers.pruning.constant.ConstantPruning",
    "params": "__ALL_PRUNABLE__",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"), student_folder, quantization())
    recipe = Recipe.build({"num_epochs": 2, "modifiers": {"pruning": PRUNING}})
    recipe.save(run / "model" / "recipe.yaml", {})
    recipe.save(run / "recipe.yaml", {})
    node = {"_target_": "sparsekit.onnx.export.ExportConfig", "max_metric_drop": 0.1}
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
    found = verify_run(RunFolder(run), summary_of(run))
    assert found["accuracy"] == f"{summary_of(run)['export']['metrics']['accuracy']:.4f}"


def test_a_run_that_failed_while_it_was_timed_says_so(run: Path) -> None:
    ended = {"status": "failed", "error": "stopped by SIGTERM: see [runtime]\nand more"}
    summary = summary_of(run) | ended
    summary["metrics"] = {"validation": {}}
    (run / "summary.json").write_text(json.dumps(summary))
    result = CliRunner().invoke(app, ["verify", str(run)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "files verified, but the run failed" in result.stdout
    assert "FAILED, after its model was evaluated: stopped by SIGTERM: see [run" in result.stdout
    assert f"{LINEARS} of {LINEARS}" in result.stdout


@pytest.mark.parametrize(
    ("ended", "why"),
    [
        ({"status": "failed", "error": "no room\nleft"}, "no room"),
        ({"status": None}, "summary.json has no status completed"),
    ],
)
def test_a_run_that_failed_before_its_evaluation_is_refused(
    run: Path, ended: dict[str, str | None], why: str
) -> None:
    """`sparsekit export` was run by hand, on a `model/` that an earlier run may have left."""
    (run / "summary.json").write_text(json.dumps(summary_of(run) | ended))
    refused = CliRunner().invoke(app, ["verify", str(run)])
    assert refused.exit_code == 1
    assert "failed before its model was evaluated, so model/ may be" in refused.stderr
    assert f"{why}; run it again" in refused.stderr


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
        "recipe.yaml",
        "evaluation/validation.parquet",
    ],
)
@pytest.mark.parametrize("change", [cut, Path.unlink])
def test_a_changed_file_is_named(run: Path, name: str, change: Callable[[Path], None]) -> None:
    change(run / name)
    with pytest.raises(UserError, match=rf"{Path(name).name}.*(cut short|missing)"):
        verify_run(RunFolder(run), summary_of(run))


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not isinstance(value, dict):
        yield path
        return
    for key, inner in value.items():
        yield from leaves(inner, (*path, key))


def test_every_changed_value_of_the_summary_is_found(run: Path) -> None:
    """Also those that nothing computes again: seed, config hash, times, latencies, environment."""
    folder = RunFolder(run)
    summary = summary_of(run) | {
        "config": {"hash": "abc", "dataset": "csv"},
        "seed": 42,
        "train": {"seconds": 1.5, "steps": 10},
        "runtime": {"sparse": {"latency_ms_p50": 0.5}},
        "environment": {"python": "3.12"},
    }
    folder.write_summary(summary)
    assert folder.summary_intact
    names = list(leaves(summary))
    assert len(names) > 12
    for path in names:
        changed = json.loads((run / "summary.json").read_text())
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = 7 if inner[path[-1]] != 7 else 8
        copy = RunFolder(run / "copy")
        copy.path.mkdir(exist_ok=True)
        copy.summary_file.write_text(json.dumps(changed))
        assert not copy.summary_intact, path
    verify_run(folder, folder.summary)
    folder.summary_file.write_text(folder.summary_file.read_text().replace("3.12", "3.13"))
    with pytest.raises(UserError, match="check 'summary' failed"):
        verify_run(folder, folder.summary)


def test_what_was_added_to_the_deployment_is_found(run: Path) -> None:
    inner = run / "deployment" / "onnx"
    inner.mkdir()
    (inner / "other.onnx").write_bytes(b"graph")
    with pytest.raises(UserError, match=r"onnx/other.onnx was added"):
        verify_run(RunFolder(run), summary_of(run))
    shutil.rmtree(inner)
    inner.symlink_to(run)
    with pytest.raises(UserError, match="onnx is a link"):
        verify_run(RunFolder(run), summary_of(run))


def test_filled_zeros_are_found_behind_right_sums(run: Path) -> None:
    file = run / "model" / "model.safetensors"
    state = load_file(file)
    state["bert.encoder.layer.0.intermediate.dense.weight"].fill_(0.01)
    save_file(state, file, metadata={"format": "pt"})
    restamp(run, run / "deployment")
    with pytest.raises(UserError, match=r"check 'weights' failed.*layer.0.intermediate"):
        verify_run(RunFolder(run), summary_of(run))


QUERY = "bert.encoder.layer.0.attention.self.query"
MAGNITUDE = {
    "_target_": "sparsekit.modifiers.pruning.magnitude.MagnitudePruning",
    "params": "__ENCODER__",
    "start": 0.0,
    "end": 1.0,
    "init_sparsity": 0.1,
    "final_sparsity": 0.9,
}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> Path:
    """A run of 90 % zeros in each layer, before its export."""
    return write_run(
        tmp_path_factory.mktemp("pruned"), student_folder, None, change=lambda m: prune(m, 0.9)
    )


def exported(run: Path, modifier: dict[str, Any], **summary: Any) -> RunFolder:
    """A deployment of `run`, and a summary with the sparsity that the weights have."""
    modifiers = {"pruning": modifier}
    Recipe.build({"num_epochs": 2, "modifiers": modifiers}).save(run / "model" / "recipe.yaml", {})
    result = export(run, ExportConfig(verify=False))
    found = sparsity(load_model(run / "model", TASK)[0])
    folder = RunFolder(run)
    folder.write_summary({"status": "completed", "export": result, "sparsity": found, **summary})
    return folder


def fill_zeros(run: Path, share: float) -> None:
    """Make a share of the zeros of one layer tiny weights, by which no metric changes."""
    file = run / "model" / "model.safetensors"
    state = load_file(file)
    weight = state[f"{QUERY}.weight"]
    zeros = (weight == 0).nonzero()
    weight[tuple(zeros[: round(share * len(zeros))].T)] = 1e-6
    save_file(state, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("modifier", "student", "message"),
    [
        (MAGNITUDE, {}, rf"80\.0.% of {QUERY}\.weight are zero, the recipe plans 90\.00%"),
        (PRUNING, {"sparsity": 0.9}, rf"80\.0.% of {QUERY}\.weight are zero, .* 90\.00%"),
        (
            MAGNITUDE | {"_target_": MAGNITUDE["_target_"].replace(".Mag", ".GlobalMag")},
            {},
            r"89\.\d\d% of .*query\.weight and 11 others are zero, the recipe plans 90\.00%",
        ),
    ],
    ids=["magnitude", "constant", "global"],
)
def test_filled_zeros_are_found_behind_a_new_export_and_summary(
    pruned: Path, tmp_path: Path, modifier: dict[str, Any], student: Any, message: str
) -> None:
    run = Path(shutil.copytree(pruned, tmp_path / "run"))
    settings = yaml.safe_load((run / "config.yaml").read_text()) | {"student": student}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    honest = exported(run, modifier)
    found = verify_run(honest, honest.summary)
    assert found["recipe"] == "2 epochs; the saved weights have the zeros that it plans"
    fill_zeros(run, 1 / 9)
    forged = exported(run, modifier)
    with pytest.raises(UserError, match=rf"check 'masks' failed in .*model: .*{message}; the weig"):
        verify_run(forged, forged.summary)


def test_zeros_that_the_recipe_does_not_plan_are_not_missed(pruned: Path, tmp_path: Path) -> None:
    """After training that a callback stopped, and after masks that were let go."""
    run = Path(shutil.copytree(pruned, tmp_path / "run"))
    fill_zeros(run, 1 / 9)
    let_go = exported(run, MAGNITUDE | {"leave_enabled": False})
    assert verify_run(let_go, let_go.summary)["recipe"] == "2 epochs; it plans no zeros"
    # At a quarter of the window 0.9 - 0.8 * 0.75^3 = 56 % are planned.
    stopped = exported(run, MAGNITUDE, train={"steps": 1})
    stopped.schedule.write_text(json.dumps({"total_steps": 8}))
    found = verify_run(stopped, stopped.summary)["recipe"]
    assert found == "0.25 epochs; the saved weights have the zeros that it plans"


@pytest.mark.parametrize(
    ("key", "value"), [("int8_matmuls", 3), ("zero_fraction", 0.5), ("bytes", 1)]
)
def test_a_summary_that_claims_more(run: Path, key: str, value: float) -> None:
    summary = summary_of(run)
    summary["export"][key] = value
    with pytest.raises(UserError, match=rf"check '{key}' failed.*summary.json says {value}"):
        verify_run(RunFolder(run), summary)


def test_metrics_that_the_logits_do_not_have(run: Path) -> None:
    columns = pq.read_table(run / "evaluation" / "validation.parquet").to_pydict()
    right = [
        np.argmax(row) == label
        for row, label in zip(columns["logits"], columns["label"], strict=True)
    ]
    accuracy = sum(right) / len(right)
    summary = summary_of(run) | {"metrics": {"validation": {"accuracy": accuracy}}}
    assert verify_run(RunFolder(run), summary)
    summary["metrics"]["validation"]["accuracy"] = accuracy + 0.01
    with pytest.raises(UserError, match="check 'validation accuracy' failed: it is"):
        verify_run(RunFolder(run), summary)
    summary["metrics"] = {"test": {"accuracy": 1.0}}
    with pytest.raises(UserError, match=r"there is no .*test\.parquet"):
        verify_run(RunFolder(run), summary)


def test_no_deployment(run: Path) -> None:
    with pytest.raises(UserError, match="has no deployment to verify; export it first"):
        verify_run(RunFolder(run), {"status": "completed"})


def test_no_sums(run: Path) -> None:
    (run / "deployment" / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=r"there is no .*SHA256SUMS.*sparsekit export RUN"):
        verify_run(RunFolder(run), summary_of(run))


def test_sums_are_those_of_sha256sum(run: Path) -> None:
    (run / "small").mkdir()
    (run / "small" / "a").write_bytes(b"abc")
    write_sums(run / "small", [run / "small" / "a"])
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (run / "small" / "SHA256SUMS").read_text() == f"{known}  a\n"
    assert check_sums(run / "small") == 1


def test_a_changed_bias_is_found_behind_right_sums(run: Path) -> None:
    file = run / "model" / "model.safetensors"
    state = load_file(file)
    state["bert.encoder.layer.0.attention.self.query.bias"] += 0.5
    save_file(state, file, metadata={"format": "pt"})
    restamp(run, run / "deployment")
    with pytest.raises(
        UserError, match=r"check 'weights' failed: .*query.bias in the file differs"
    ):
        verify_run(RunFolder(run), summary_of(run))


def test_swapped_label_names_are_found_behind_right_sums(run: Path) -> None:
    file = run / "deployment" / "config.json"
    config = json.loads(file.read_text())
    config["id2label"] = {"0": "positive", "1": "negative"}
    file.write_text(json.dumps(config))
    restamp(run, run / "deployment")
    with pytest.raises(UserError, match=r"check 'copies' failed: .*config.json differs from"):
        verify_run(RunFolder(run), summary_of(run))


@pytest.mark.parametrize("name", ["deployment/vocab.json", "model/adapter_config.json"])
def test_an_added_file_is_named(run: Path, name: str) -> None:
    (run / name).write_text("{}")
    with pytest.raises(UserError, match=rf"{Path(name).name} was added; remove it"):
        verify_run(RunFolder(run), summary_of(run))


def test_a_sum_that_was_removed_is_missed(run: Path) -> None:
    sums = run / "SHA256SUMS"
    lines = sums.read_text().splitlines()
    sums.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    with pytest.raises(UserError, match=f"{lines[1].partition('  ')[2]} was added"):
        verify_run(RunFolder(run), summary_of(run))


@pytest.mark.parametrize(
    "line", ["hello", "", "0" * 64 + "  ../other", "0" * 64 + "  /etc/hostname"]
)
def test_a_line_that_is_no_sum(run: Path, line: str) -> None:
    with (run / "SHA256SUMS").open("a") as sums:
        sums.write(line + "\n")
    with pytest.raises(
        UserError, match=r"line \d+ of .*SHA256SUMS is not the sum of a file in this"
    ):
        verify_run(RunFolder(run), summary_of(run))


def test_a_changed_config_is_named(run: Path) -> None:
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("0.1", "1.0"))
    with pytest.raises(UserError, match=r"config.yaml .* was changed"):
        verify_run(RunFolder(run), summary_of(run))


def test_a_comparison_that_was_switched_off(run: Path) -> None:
    settings = json.loads((run / "config.yaml").read_text())
    settings["export"]["verify"] = False
    (run / "config.yaml").write_text(json.dumps(settings))
    restamp(run, run / "deployment")
    with pytest.raises(UserError, match=r"config.yaml has export.verify=false, summary.json says"):
        verify_run(RunFolder(run), summary_of(run))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("export/metrics/f1", 0.99, "'exported f1' failed: it is None, summary.json says 0.99"),
        ("export/int8_matmuls", None, "'int8_matmuls' failed: .* says None"),
        ("export/zero_fraction", "much", "'zero_fraction' failed: .* says much"),
        ("sparsity", {"overall": "0.9"}, "'sparsity' failed: .* says 0.9"),
        ("sparsity", [], None),
        ("sparsity", 3, "sparsity is 3, it must be a mapping"),
        ("metrics", {"validation": {"f1": 1.0}}, "'validation f1' failed: it is None"),
        ("metrics", {"validation": 1.0}, "validation is 1.0, it must be a mapping"),
    ],
)
def test_a_summary_that_claims_what_nobody_found(
    run: Path, path: str, value: Any, message: str | None
) -> None:
    summary = summary_of(run)
    *above, name = path.split("/")
    node = summary
    for key in above:
        node = node[key]
    node[name] = value
    if message is None:
        assert verify_run(RunFolder(run), summary)
        return
    with pytest.raises(UserError, match=message):
        verify_run(RunFolder(run), summary)


def test_the_sparsity_of_each_layer_is_compared(run: Path) -> None:
    name = "bert.encoder.layer.0.intermediate.dense"
    summary = summary_of(run) | {"sparsity": sparsity(load_model(run / "model", TASK)[0])}
    assert verify_run(RunFolder(run), summary)
    summary["sparsity"]["layers"][name] = 0.99
    with pytest.raises(UserError, match=f"check 'sparsity of {name}' failed"):
        verify_run(RunFolder(run), summary)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deployment/model.onnx", "cannot read .*model.onnx: .*export the run again"),
        ("evaluation/validation.parquet", "cannot read .*validation.parquet: .*train again"),
    ],
)
def test_broken_files_are_named_behind_right_sums(run: Path, name: str, message: str) -> None:
    (run / name).write_bytes((run / name).read_bytes()[:400])
    restamp(run, run / "deployment")
    with pytest.raises(UserError, match=message):
        verify_run(RunFolder(run), summary_of(run))


def test_a_run_of_others_calls_nothing_but_what_belongs_there(run: Path) -> None:
    """A run folder is data: its yaml files name classes of ours, no function that is called."""
    made = run / "made"
    call = {"_target_": "os.mkdir", "path": str(made)}
    recipe = run / "model" / "recipe.yaml"
    recipe.write_text(json.dumps({"num_epochs": 2, "modifiers": {"pruning": call}}))
    restamp(run, run / "deployment")
    with pytest.raises(
        UserError, match=r"recipe.modifiers.pruning: os.mkdir is not a subclass of Modifier"
    ):
        verify_run(RunFolder(run), summary_of(run))
    settings = json.loads((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(json.dumps(settings | {"export": call, "runtime": call}))
    for verb, name in (("export", "ExportConfig"), ("benchmark", "BenchmarkConfig")):
        refused = CliRunner().invoke(app, [verb, str(run)])
        assert (
            f"{verb.replace('benchmark', 'runtime')}: os.mkdir is not a subclass of {name}"
            in refused.stderr
        )
    assert not made.exists()


def test_a_run_of_others_imports_no_foreign_module(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing a module runs its code, so the name is checked first."""
    (tmp_path / "planted.py").write_text("raise SystemExit('the module was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "planted.Modifier"}
    settings = json.loads((run / "config.yaml").read_text())
    recipe = run / "model" / "recipe.yaml"
    recipe.write_text(json.dumps({"num_epochs": 2, "modifiers": {"pruning": node}}))
    restamp(run, run / "deployment")
    with pytest.raises(UserError, match=r"'planted.Modifier' is not a class of sparsekit"):
        verify_run(RunFolder(run), summary_of(run))
    (run / "config.yaml").write_text(json.dumps(settings | {"export": node, "runtime": node}))
    for verb in ("export", "benchmark"):
        refused = CliRunner().invoke(app, [verb, str(run)])
        assert refused.exit_code == 1
        assert "'planted.Modifier' is not a class of sparsekit" in refused.stderr
    (run / "config.yaml").write_text(
        json.dumps(settings | {"runtime": {"_target_": BENCHMARK, "runtime": "planted.Modifier"}})
    )
    refused = CliRunner().invoke(app, ["benchmark", str(run)])
    assert refused.exit_code == 1
    assert "runtime.runtime 'planted.Modifier' is not a class of sparsekit" in refused.stderr


OWN_CODE = """
from dataclasses import dataclass
from sparsekit.onnx.export import ExportConfig
from sparsekit.modifiers.base import Modifier
from sparsekit.runtime.onnxruntime import OnnxRuntime


@dataclass(kw_only=True)
class Own(Modifier):
    pass


@dataclass(kw_only=True)
class OwnExport(ExportConfig):
    pass


class OwnRuntime(OnnxRuntime):
    pass
"""


@pytest.mark.slow
def test_a_run_with_own_code_is_checked_once_allowed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_code.py").write_text(OWN_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    settings = json.loads((run / "config.yaml").read_text())
    export_node = settings["export"] | {"_target_": "own_code.OwnExport"}
    runtime_node = {"_target_": BENCHMARK, "runtime": "own_code.OwnRuntime", "requests": 2}
    changed = settings | {"export": export_node, "runtime": runtime_node | {"batches": 1}}
    (run / "config.yaml").write_text(json.dumps(changed))
    recipe = run / "model" / "recipe.yaml"
    values = yaml.safe_load(recipe.read_text())
    values["modifiers"]["own"] = {"_target_": "own_code.Own"}
    recipe.write_text(json.dumps(values))
    restamp(run, run / "deployment")
    commands = (
        ["export", str(run)],
        ["verify", str(run)],
        ["benchmark", str(run), "--batch=1", "--sequence=8", "--rounds=1", "--repetitions=1"],
    )
    for command in commands:
        sys.modules.pop("own_code", None)
        refused = CliRunner().invoke(app, command)
        assert refused.exit_code == 1
        assert "add --allow own_code to the command" in refused.stderr
        done = CliRunner().invoke(app, [*command, "--allow", "own_code"])
        assert done.exit_code == 0, done.output
    sys.modules.pop("own_code", None)
