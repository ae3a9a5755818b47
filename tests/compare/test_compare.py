"""`sparsekit compare`: groups, ties and fronts; the three files."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from compared_sweep import compared_sweep
from made_runs import write_made_run, write_made_sweep
from rich.console import Console
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.compare.axes import find_axes
from sparsekit.compare.load import load
from sparsekit.compare.page import page
from sparsekit.compare.pareto import pareto
from sparsekit.compare.statistics import Statistic, compare, differ
from sparsekit.compare.write import table, write_comparison
from sparsekit.errors import UserError
from sparsekit.runs.report import show
from sparsekit.sweep.jobs import Job, write_record


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compared_sweep(tmp_path_factory.mktemp("compare"))


def test_groups_are_configs_without_their_seed(sweep: Path) -> None:
    comparison = compare(load([sweep]))
    assert len(comparison.groups) == 8
    assert {len(group.runs) for group in comparison.groups} == {3}
    # What follows from an axis (qat_start_epoch, the modifier's hardness) is none.
    axes = ["student.sparsity", "recipe.qat_epochs", "recipe.distill_hardness"]
    assert sorted(comparison.axes) == sorted(axes)
    best = comparison.groups[0]
    values = [run.measures["validation accuracy"] for run in best.runs]
    assert best.statistics["validation accuracy"] == Statistic.of(values)
    assert comparison.metric == "validation accuracy"
    assert comparison.costs == ["onnxruntime latency ms", "size MB"]
    assert [run.status for run in comparison.others] == ["broken", "failed", "unfinished"]


def test_two_standard_errors_decide_about_ties() -> None:
    # Standard error of the difference: sqrt(0.01^2/4 + 0.01^2/4) = 0.00707; twice it 0.01414.
    first = Statistic(0.9, 0.01, 4)
    assert differ(first, Statistic(0.8858, 0.01, 4)) is True
    assert differ(first, Statistic(0.8860, 0.01, 4)) is False
    assert differ(first, Statistic(0.5, None, 1)) is None
    assert differ(Statistic(0.5, None, 1), Statistic(0.5, None, 1)) is False


def test_the_front_is_what_nothing_beats(sweep: Path) -> None:
    assert pareto([(0, 0), (0, 0), (1, -1)]) == [True, True, True]
    comparison = compare(load([sweep]))
    points = [
        (
            -g.statistics["validation accuracy"].mean,
            *(g.statistics[c].mean for c in comparison.costs),
        )
        for g in comparison.groups
    ]
    for group, point in zip(comparison.groups, points, strict=True):
        beaten = any(
            # The costs are a latency, which varies by chance, and a size, which does not.
            (a < point[0] and b <= 1.05 * point[1] and c <= point[2])
            or ((a, b, c) != point and a <= point[0] and b <= point[1] and c <= point[2])
            for a, b, c in points
        )
        assert group.front == (not beaten)
    assert 0 < sum(group.front for group in comparison.groups) < 8


def test_the_front_is_what_comparing_each_two_points_gives() -> None:
    chance = random.Random(0)
    for costs in (0, 1, 2):
        noise = [0.05] * costs
        # Few values, so that points share some, or lie within the noise.
        points = [[chance.choice([1, 1.04, 1.2, 2]) for _ in range(1 + costs)] for _ in range(40)]
        expected = [not any(_beats(other, point, noise) for other in points) for point in points]
        assert pareto(points, noise) == expected


def _beats(other: list[float], point: list[float], noise: list[float]) -> bool:
    if other[0] < point[0]:
        costs = zip(other[1:], point[1:], noise, strict=True)
        return all(a <= b * (1 + share) for a, b, share in costs)
    return all(a <= b for a, b in zip(other, point, strict=True)) and other != point


def test_a_quiet_moment_puts_no_poor_model_on_the_front(tmp_path: Path) -> None:
    """A latency 2 % lower is chance, and no merit at half the accuracy."""
    for number, (accuracy, latency) in enumerate([(0.968, 1.02), (0.576, 1.0), (0.95, 0.5)]):
        run = write_made_run(tmp_path / str(number), 0.5 + number / 10, 1.0, 2, 0, accuracy)
        summary = json.loads((run / "summary.json").read_text())
        summary["runtime"]["onnxruntime"]["latency_ms_p50"] = latency
        summary["export"]["bytes"] = 1_000_000
        (run / "summary.json").write_text(json.dumps(summary))
    groups = compare(load([tmp_path])).groups
    assert [group.front for group in groups] == [True, True, False]


def test_metrics_are_no_axis(tmp_path: Path) -> None:
    """A run that computes more of the same model is no other config."""
    for seed, metrics in enumerate((["accuracy"], ["accuracy", "f1"])):
        run = write_made_run(tmp_path / str(seed), 0.5, 1.0, 2, seed, 0.9)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["dataset"] = {"metrics": metrics}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    comparison = compare(load([tmp_path]))
    assert comparison.axes == []
    assert [len(group.runs) for group in comparison.groups] == [2]


def test_the_table_has_every_metric_of_the_ranking_split(tmp_path: Path) -> None:
    run = write_made_run(tmp_path / "0", 0.5, 1.0, 2, 0, 0.9)
    summary = json.loads((run / "summary.json").read_text())
    summary["metrics"] = {
        "validation": {"accuracy": 0.9, "f1": 0.8125, "balanced_accuracy": 0.75},
        "test": {"accuracy": 0.123},
    }
    (run / "summary.json").write_text(json.dumps(summary))
    console = Console(record=True, width=100)
    console.print(table(compare(load([tmp_path]))))
    text = console.export_text()
    assert "0.812" in text
    assert "0.750" in text
    assert "f1" in text
    assert "balanced" in text
    assert "0.123" not in text


def test_overridden_keys_come_before_shorter_ones(tmp_path: Path) -> None:
    for number, epochs in enumerate((1, 2)):
        run = write_made_run(tmp_path / str(number), 0.5, 1.0, epochs, 0, 0.9)
        (run / ".hydra").mkdir()
        (run / ".hydra" / "overrides.yaml").write_text(f"- recipe.qat_start_epoch={6 - epochs}\n")
    runs = load([tmp_path])
    assert find_axes([[run] for run in runs]) == ["recipe.qat_start_epoch"]


def test_a_data_sets_own_seed_is_not_the_runs(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        run = write_made_run(tmp_path / str(seed), 0.5, 1.0, 0, seed, 0.9 + seed / 100)
        path = run / "config.yaml"
        config = yaml.safe_load(path.read_text())
        # One of its own, which one run's seed happens to equal, and one that follows the run's.
        config["dataset"] = {"source": {"seed": 0}, "shuffle": {"seed": seed}}
        path.write_text(yaml.safe_dump(config))
    (group,) = compare(load([tmp_path])).groups
    assert len(group.runs) == 3
    assert group.statistics["validation accuracy"].mean == pytest.approx(0.91)


def test_the_table_fits_a_narrow_terminal(tmp_path: Path) -> None:
    write_made_sweep(tmp_path)
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(table(compare(load([tmp_path]))))
    text = console.export_text()
    assert "…" not in text
    for word in ("sparsity", "hardness", "epochs", "±", "best", "ms: onnxruntime latency"):
        assert word in text


def test_a_ranking_by_latency_names_each_runtime(tmp_path: Path) -> None:
    """Of two columns of milliseconds it can be told whose they are."""
    write_made_sweep(tmp_path)
    for path in tmp_path.glob("*/summary.json"):
        summary = json.loads(path.read_text())
        usual = summary["runtime"]["onnxruntime"]
        summary["runtime"]["sparse"] = {key: value / 4 for key, value in usual.items()}
        path.write_text(json.dumps(summary))
    runs = load([tmp_path])
    headings = [str(c.header) for c in table(compare(runs, "sparse latency ms")).columns]
    assert headings[4:] == ["sparse\nms", "zeros", "ms", "MB", "rank"]
    # What it is ranked by is not shown twice.
    headings = [str(c.header) for c in table(compare(runs, "onnxruntime latency ms")).columns]
    assert headings[4:] == ["onnxruntime\nms", "zeros", "MB", "rank"]


def test_students_of_different_runtimes_share_a_front(tmp_path: Path) -> None:
    """Sparse students ran on runtime=sparse, shaped and dense ones on others."""
    for number, (kind, accuracy, runtimes) in enumerate(
        (
            ("dense", 0.90, {"onnxruntime": 9.0, "openvino": 8.0}),
            ("sparse", 0.89, {"sparse": 2.0}),
            ("shaped", 0.88, {"openvino": 1.0}),
            ("slow", 0.87, {"onnxruntime": 9.5}),
        )
    ):
        folder = write_made_run(tmp_path / kind, number / 10, 0.0, 2, 1, accuracy)
        summary = json.loads((folder / "summary.json").read_text())
        usual = summary["runtime"]["onnxruntime"]
        summary["runtime"] = {
            name: usual | {"latency_ms_p50": latency} for name, latency in runtimes.items()
        }
        summary["export"]["bytes"] = int(min(runtimes.values()) * 1e6)
        if kind == "shaped":
            sizes = {"heads": [1, 0], "neurons": [16, 32]}
            summary["shape"] = sizes | {"before": {"heads": [2, 2], "neurons": [64, 64]}}
        (folder / "summary.json").write_text(json.dumps(summary))
    found = compare(load([tmp_path]))
    assert found.costs == ["fastest latency ms", "size MB"]
    front = {group.runs[0].folder.name for group in found.groups if group.front}
    assert front == {"dense", "sparse", "shaped"}
    latencies = [group.statistics["fastest latency ms"].mean for group in found.groups]
    assert latencies == [8.0, 2.0, 1.0, 9.5]
    (shaped,) = (g for g in found.groups if g.runs[0].folder.name == "shaped")
    assert shaped.statistics["heads left"].mean == 0.25
    assert shaped.statistics["neurons left"].mean == 0.375


def test_a_runtime_that_all_were_timed_on_is_compared(tmp_path: Path) -> None:
    write_made_run(tmp_path / "0", 0.5, 0.0, 2, 1, 0.8)
    folder = write_made_run(tmp_path / "1", 0.8, 0.0, 2, 1, 0.8)
    summary = json.loads((folder / "summary.json").read_text())
    summary["runtime"]["sparse"] = summary["runtime"]["onnxruntime"] | {"latency_ms_p50": 0.1}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert compare(load([tmp_path])).costs == ["onnxruntime latency ms", "size MB"]


def test_a_table_too_wide_for_the_terminal_keeps_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        run = write_made_run(tmp_path / str(seed), 0.1 * seed, 0.5 * seed, seed, 1, 0.8)
        path = run / "config.yaml"
        config = yaml.safe_load(path.read_text())
        config["training"] = {"learning_rate_multiplier": seed}
        path.write_text(yaml.safe_dump(config))
        path = run / "summary.json"
        summary = json.loads(path.read_text())
        # Where it is logged is no difference.
        summary["config"]["tracking"] = f"tracking {seed}"
        path.write_text(json.dumps(summary))
    comparison = compare(load([tmp_path]))
    monkeypatch.setenv("COLUMNS", "50")
    show(table(comparison))
    lines = capsys.readouterr().out.splitlines()
    assert sum("1.00" in line.split() for line in lines) == 2
    assert "tracking" not in comparison.axes
    assert max(map(len, lines)) > 50


def write_configs(folder: Path, *configs: Sequence[float]) -> None:
    """Runs of as many configs, whose sparsities are 0.1, 0.2, ...; each has a run per accuracy."""
    for number, accuracies in enumerate(configs, 1):
        for seed, accuracy in enumerate(accuracies):
            write_made_run(folder / f"{number}-{seed}", number / 10, 0.0, 2, seed, accuracy)


def test_a_tie_differs_from_the_best_by_chance(tmp_path: Path) -> None:
    # Each deviation is 0.0141, so that two standard errors of a difference are 0.0283.
    write_configs(tmp_path, [0.89, 0.91], [0.87, 0.89], [0.86, 0.88], [0.85])
    best, *others = compare(load([tmp_path])).groups
    assert best.statistics["validation accuracy"].mean == pytest.approx(0.9)
    assert [group.tie for group in others] == [True, False, None]


@pytest.mark.parametrize(
    ("metric", "order"),
    [("validation log_loss", [0.2, 0.1, 0.3]), ("sparse latency ms", [0.1, 0.3, 0.2])],
)
def test_the_least_loss_or_latency_is_best(tmp_path: Path, metric: str, order: list[float]) -> None:
    # 0.1 beats 0.3 in loss and latency; 0.2 has the least loss and the smallest file.
    for sparsity, loss, latency, size in (
        (0.1, 0.3, 2.0, 4_000_000),
        (0.2, 0.2, 3.0, 2_000_000),
        (0.3, 0.4, 2.5, 4_000_000),
    ):
        folder = write_made_run(tmp_path / str(sparsity), sparsity, 0.0, 2, 1, loss, "log_loss")
        summary = json.loads((folder / "summary.json").read_text())
        usual = summary["runtime"]["onnxruntime"]
        summary["runtime"] = {"sparse": usual | {"latency_ms_p50": latency}}
        summary["export"]["bytes"] = size
        (folder / "summary.json").write_text(json.dumps(summary))
    groups = compare(load([tmp_path]), metric).groups
    assert [group.values["student.sparsity"] for group in groups] == order
    assert {group.values["student.sparsity"] for group in groups if group.front} == {0.1, 0.2}


def test_sweeps_of_different_metrics(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_made_run(tmp_path / "a" / str(seed), 0.5, 0.0, 0, seed, 0.8)
        write_made_run(tmp_path / "b" / str(seed), 0.8, 0.0, 0, seed, 0.7, metric="f1")
    comparison, files = write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path)
    assert comparison.metric == "validation accuracy"
    first, second = (group.statistics for group in comparison.groups)
    assert "validation f1" not in first
    assert "validation accuracy" not in second
    assert comparison.groups[1].tie is None
    assert "validation f1" in files[0].read_text()
    assert compare(load([tmp_path]), "validation f1").groups[0].values == {"student.sparsity": 0.8}
    with pytest.raises(UserError, match="no run has 'bleu'; there are: validation accuracy"):
        compare(load([tmp_path]), "bleu")


def test_a_repeated_failure_is_gone_and_runs_of_other_sweeps_are_followed(tmp_path: Path) -> None:
    done = write_made_run(tmp_path / "old" / "0", 0.5, 0.0, 0, 1, 0.8)
    failed = write_made_run(tmp_path / "new" / "0", 0.5, 0.0, 0, 1, 0.8)
    other = write_made_run(tmp_path / "new" / "1", 0.8, 0.0, 0, 1, 0.8)
    for run in (failed, other):
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps({**summary, "status": "failed"}))
    assert [run.status for run in load([tmp_path / "new"])] == ["failed", "failed"]
    write_record(tmp_path / "new", "key", ["a"], [Job(overrides=["a=1"], hash="x", folder=done)])
    runs = load([tmp_path / "new"])
    assert [(run.status, run.folder.resolve()) for run in runs] == [
        ("failed", other),
        ("completed", done),
    ]


def write_contents(run: Path, **contents: Any) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["config"] |= contents
    (run / "summary.json").write_text(json.dumps(summary))


def test_runs_on_other_data_or_models_are_others(tmp_path: Path) -> None:
    def run(name: str, seed: int = 1, **contents: Any) -> Path:
        folder = write_made_run(tmp_path / name, 0.5, 0.0, 0, seed, 0.8)
        write_contents(folder, **contents)
        return folder

    run("0", models="old")
    run("1", models="new", data_files="a")
    again = run("2", models="new", data_files="a")
    other = run("3", models="new", data_files="b")
    runs = load([tmp_path])
    assert [each.folder.name for each in runs] == ["0", again.name, other.name]
    found = compare(runs)
    assert len(found.groups) == 2 and found.axes == ["models"]
    # What an earlier version did not record tells nothing apart.
    run("4")
    assert [each.folder.name for each in load([tmp_path])] == ["4"]


def test_the_last_run_of_a_config_is_the_one_that_ended_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new, old = (
        write_made_run(tmp_path / name, 0.5, 0.0, 0, 1, accuracy)
        for name, accuracy in (("a_new", 0.9), ("z_old", 0.8))
    )
    os.utime(old / "summary.json", (0, 0))
    assert [each.folder for each in load([tmp_path])] == [new]
    assert f"{old} is left out: {new} is a later run of the same config" in caplog.text


def test_runs_of_earlier_versions_are_seeds_of_the_same_config(tmp_path: Path) -> None:
    """A key that a later version added has the value that its absence meant."""
    for seed in (0, 1):
        folder = write_made_run(tmp_path / str(seed), 0.5, 0.0, 0, seed, 0.8)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["dataset"] = {"max_length": 64, **({"quotes": True} if seed else {})}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    found = compare(load([tmp_path]))
    assert len(found.groups) == 1 and not found.axes


def test_runs_of_other_weights_in_memory_are_others_but_for_new_heads(tmp_path: Path) -> None:
    for name, seed, layers, others in (
        *(("0", 1, "dense", "a"), ("1", 2, "dense", "b"), ("2", 1, "sparse", "a")),
        ("3", 1, "dense", "c"),
    ):
        folder = write_made_run(tmp_path / name, 0.5, 0.0, 0, seed, 0.8)
        write_contents(folder, weights={"layers": layers, "others": others})
    found = compare(load([tmp_path]))
    assert found.axes == ["weights.layers"]
    assert sorted(len(group.runs) for group in found.groups) == [1, 3]


def test_a_run_that_its_gate_stopped_is_compared(tmp_path: Path) -> None:
    """It was trained and scored; only its deployment is missing."""
    write_made_run(tmp_path / "0", 0.5, 0.0, 0, 1, 0.8)
    stopped = write_made_run(tmp_path / "1", 0.8, 0.0, 0, 1, 0.7)
    summary = json.loads((stopped / "summary.json").read_text())
    gate = {"passed": False, "metrics": {"accuracy": {"difference": -0.1, "lower": -0.2}}}
    summary |= {"status": "failed", "error": "the gate stopped the deployment", "gate": gate}
    (stopped / "summary.json").write_text(json.dumps(summary))
    runs = load([tmp_path])
    assert [run.status for run in runs] == ["completed", "stopped by its gate"]
    found = compare(runs)
    assert found.axes == ["student.sparsity"] and not found.others
    assert found.groups[1].statistics["accuracy against dense"].mean == -0.1
    # A loss counts as worse below 0 in the gate, and is shown as the model minus the baseline.
    summary["gate"]["metrics"] = {"log_loss": {"difference": -0.1, "lower": -0.2}}
    (stopped / "summary.json").write_text(json.dumps(summary))
    assert load([tmp_path])[1].measures["log_loss against dense"] == 0.1


def test_a_model_without_neurons_before_has_no_share_of_them(tmp_path: Path) -> None:
    run = write_made_run(tmp_path / "0", 0.5, 0.0, 0, 1, 0.8)
    summary = json.loads((run / "summary.json").read_text())
    shape = {"heads": [2], "neurons": [0], "before": {"heads": [4], "neurons": [0]}}
    (run / "summary.json").write_text(json.dumps(summary | {"shape": shape}))
    (read,) = load([tmp_path])
    assert read.status == "completed" and read.measures["heads left"] == 0.5
    assert "neurons left" not in read.measures and "validation accuracy" in read.measures


def test_a_broken_summary_never_stops_the_rest(tmp_path: Path) -> None:
    write_made_run(tmp_path / "0", 0.5, 0.0, 0, 1, 0.8)
    broken: list[Any] = [[], {"status": "completed", "metrics": [1]}, {"metrics": {}}, "text"]
    for number, summary in enumerate(broken, 1):
        run = write_made_run(tmp_path / str(number), 0.5, 0.0, 0, 1 + number, 0.8)
        (run / "summary.json").write_text(json.dumps(summary))
    binary = write_made_run(tmp_path / "9", 0.5, 0.0, 0, 9, 0.8)
    (binary / "summary.json").write_bytes(b"\xff\xfe\x00")
    runs = load([tmp_path])
    assert [run.status for run in runs] == ["completed"] + ["broken"] * 5
    assert len(compare(runs).groups) == 1


def test_folders_without_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        load([tmp_path])
    with pytest.raises(UserError, match=r"there is no folder .*/nowhere; give one that the last"):
        load([tmp_path / "nowhere"])


def test_runs_that_were_never_evaluated_are_not_ranked(tmp_path: Path) -> None:
    """As a SparseTrainer without eval_dataset leaves them."""
    for seed, sparsity in enumerate((0.5, 0.8)):
        run = write_made_run(tmp_path / str(seed), sparsity, 0.0, 0, seed, 0.8)
        summary = json.loads((run / "summary.json").read_text())
        del summary["metrics"]
        (run / "summary.json").write_text(json.dumps(summary))
    done = CliRunner().invoke(app, ["compare", str(tmp_path)])
    assert "2 configs, none evaluated" in done.output, done.output
    assert not {"best", "tie", "Pareto"} & set(done.output.split())
    text = (tmp_path / "compare.md").read_text()
    assert "2 configs, 2 runs, not ranked, because none was evaluated" in text
    by_size = CliRunner().invoke(app, ["compare", str(tmp_path), "--metric", "size MB"])
    assert "2 configs by size MB" in by_size.output


def test_one_config_is_singular(tmp_path: Path) -> None:
    write_made_run(tmp_path / "run", 0.5, 1.0, 2, 1, 0.9)
    done = CliRunner().invoke(app, ["compare", str(tmp_path)])
    assert "1 config by validation accuracy" in done.output, done.output


@pytest.mark.parametrize("name", ["file", "file/inner"])
def test_a_file_is_no_output(sweep: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["compare", str(sweep), "--output", str(tmp_path / name)])
    assert done.exit_code == 1
    assert "is a file; choose a folder" in done.output


def test_the_command_writes_three_files(sweep: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compare", str(sweep), "--out", str(tmp_path / "here")])
    assert done.exit_code == 0, done.output
    assert "8 configs by validation accuracy" in done.output
    assert "broken: " in done.stderr
    rows = list(csv.DictReader((tmp_path / "here" / "compare.csv").read_text().splitlines()))
    assert len(rows) == 27
    assert {row["status"] for row in rows} == {"completed", "broken", "failed", "unfinished"}
    text = (tmp_path / "here" / "compare.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| 0.")]
    assert len(table) == 8
    assert table[0].count("best") == 1
    link = text.split("](")[1].split(")")[0]
    assert (tmp_path / "here" / link / "summary.json").is_file()
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "nothing")])
    assert (done.exit_code, "error: there is no folder" in done.stderr) == (1, True)


def test_it_imports_no_torch(sweep: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sparsekit.compare.write import *;"
        f"write_comparison([Path({str(sweep)!r})]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_thousand_runs_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = [i / 100 for i in range(84)]
    assert write_made_sweep(tmp_path, grid, (0.0, 1.0), (0, 2)) == 1008
    read = Counter[Path]()
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        read[path] += 1
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    comparison, files = write_comparison([tmp_path])
    of_runs = {path: count for path, count in read.items() if path.parent.parent == tmp_path}
    assert len(of_runs) == 2 * 1008 and set(of_runs.values()) == {1}
    assert len(comparison.groups) == 336
    assert files[2].stat().st_size < 1_000_000


def test_text_cannot_leave_the_data(sweep: Path, tmp_path: Path) -> None:
    runs = load([sweep])
    runs[0].config["dataset"] = "</script><script>alert(1)</script>"
    text = page(compare(runs), tmp_path)
    assert "<script>alert(1)" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


HOSTILE = "=1+1\x1b[31m</script><img src=x onerror=alert(1)>[a](javascript:b)|"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Runs whose config, metric, error and folder names try to be more than text."""
    for seed in (1, 2):
        run = write_made_run(tmp_path / str(seed), 0.5, 0.0, 0, seed, 0.8)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["recipe"]["note"] = HOSTILE + str(seed)
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        summary = json.loads((run / "summary.json").read_text())
        summary["metrics"]["validation"][HOSTILE] = 0.5
        (run / "summary.json").write_text(json.dumps(summary))
    failed = tmp_path / "\x1b[31mred (a)"
    failed.mkdir()
    (failed / "summary.json").write_text(json.dumps({"status": "failed", "error": HOSTILE}))
    return tmp_path


def test_text_from_runs_stays_text(hostile: Path) -> None:
    """No escape reaches the terminal, no formula a spreadsheet, no HTML or link the Markdown."""
    done = CliRunner().invoke(app, ["compare", str(hostile)])
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output + done.stderr
    assert "failed: " in done.stderr and r"\x1b[31m</script>" in done.stderr
    text = (hostile / "compare.md").read_text()
    assert "\x1b" not in text and "<img" not in text and "[a](" not in text
    rows = list(csv.reader((hostile / "compare.csv").read_text().splitlines()))
    assert {len(row) for row in rows} == {len(rows[0])} | {4 + rows[0].count("recipe.note")}
    cells = [cell for row in rows for cell in row]
    assert any(cell.startswith("'=1+1") for cell in cells)
    assert not any(cell.startswith(("=", "@", "+")) for cell in cells)
    assert "\x1b" not in "".join(cells)
    assert "</script><img" not in (hostile / "compare.html").read_text()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_metric_that_is_no_number_is_missing(tmp_path: Path, value: str) -> None:
    """As text, as `write_summary` has it, and as Python's own JSON would."""
    for seed, written in ((1, f'"{value}"'), (2, value.replace("inf", "Infinity"))):
        run = write_made_run(tmp_path / str(seed), 0.5, 0.0, 0, seed, 0.8, metric="f1")
        text = (run / "summary.json").read_text().replace('"f1": 0.8', f'"f1": {written}')
        (run / "summary.json").write_text(text.replace("nan", "NaN") if seed == 2 else text)
    write_made_run(tmp_path / "3", 0.5, 0.0, 0, 3, 0.7, metric="f1")
    write_made_run(tmp_path / "4", 0.8, 0.0, 0, 4, 0.6, metric="f1")
    comparison, files = write_comparison([tmp_path])
    first, second = (group.statistics["validation f1"] for group in comparison.groups)
    assert (first, second) == (Statistic(0.7, None, 1), Statistic(0.6, None, 1))
    data = files[2].read_text().split('id="data">')[1].split("</script>")[0]

    def refuse(constant: str) -> None:
        raise AssertionError(f"the browser cannot parse {constant}")

    assert json.loads(data, parse_constant=refuse)["metric"] == "validation f1"


def test_damaged_files_of_a_run_never_stop_the_rest(tmp_path: Path) -> None:
    write_made_run(tmp_path / "0", 0.5, 0.0, 0, 1, 0.8)
    odd: list[tuple[str, str]] = [
        ("config.yaml", "training: [1]"),
        ("config.yaml", "1: 2\na: 3\nb: {c: {1: 2, d: 3}}"),
        ("config.yaml", "date: 2026-99-99"),
        ("summary.json", '{"status": "completed", "error": 3, "config": {"hash": [1]}}'),
        ("summary.json", '{"status": "completed", "metrics": {"validation": {"f1": 1%s}}}'),
        ("summary.json", "[" * 100_000),
    ]
    for number, (name, text) in enumerate(odd, 1):
        run = write_made_run(tmp_path / str(number), 0.5, 0.0, 0, 1 + number, 0.8)
        (run / name).write_text(text.replace("%s", "0" * 400))
    for text in ('{"jobs": null}', "[1]", "1", '{"jobs": [{"folder": "' + "x" * 5000 + '"}]}'):
        (tmp_path / "sweep.json").write_text(text)
        assert "completed" in [run.status for run in load([tmp_path])]
    _, files = write_comparison([tmp_path])
    assert files[2].stat().st_size
