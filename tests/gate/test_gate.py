"""`sparsekit gate` on exported runs: what it decides, writes and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from run_folder import quantization, restamp, turn_around, write_run
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.errors import UserError
from sparsekit.gate.gate import GateConfig, checked_metrics, compare_with
from sparsekit.gate.scoring import Scoring
from sparsekit.gate.slices import describe
from sparsekit.gate.write import write_result
from sparsekit.onnx.export import ExportConfig, export
from sparsekit.onnx.parity import Rows
from sparsekit.onnx.sums import check_sums, file_sum, read_sums
from sparsekit.runs.folder import RunFolder
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.multi_label import MultiLabel
from sparsekit.tasks.question_answering import QuestionAnswering
from sparsekit.tasks.regression import Regression
from sparsekit.tasks.text_classification import TextClassification


def exported(folder: Path, student: str, **settings: object) -> RunFolder:
    folder.mkdir()
    run = write_run(folder, student, **settings)  # type: ignore[arg-type]
    export(run, ExportConfig(max_metric_drop=0.1))
    return RunFolder(run)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, student_folder: str) -> dict[str, RunFolder]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "dense": exported(folder / "dense", student_folder, modifier=None),
        "int8": exported(folder / "int8", student_folder, modifier=quantization()),
    }


@pytest.fixture
def int8(runs: dict[str, RunFolder], tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(runs["int8"].path, tmp_path / "int8")))


def test_a_model_is_not_inferior_to_itself(runs: dict[str, RunFolder]) -> None:
    dense = runs["dense"]
    found = compare_with(dense, dense.path, GateConfig(max_drop=10))
    [test] = found["metrics"]
    assert found["passed"]
    assert test["model"] == test["against"] == 56 / 64
    assert test["lower"] == pytest.approx(-(1.6449**2) / (64 + 1.6449**2), abs=1e-4)
    assert found["changes"] == {"both_right": 56, "gained": 0, "lost": 0, "both_wrong": 8}
    assert found["agreement"] == "64 of 64 labels equal"
    assert found["calibration"]["model"] == found["calibration"]["against"]
    assert found["model"]["sha256"] == found["against"]["sha256"] == file_sum(dense.graph)
    for kind in ("class", "length"):
        lines = found["slices"][kind]
        assert len(lines) > 1 and sum(line["rows"] for line in lines) == 64
    # 64 rows cannot show a tenth of a point.
    few = compare_with(dense, dense.path, GateConfig(max_drop=0.1))
    [test] = few["metrics"]
    assert not few["passed"]
    assert test["detectable_drop"] == pytest.approx(-test["lower"])
    assert test["rows_needed"] > 2000


def test_metrics_by_the_names_of_classification_reports(runs: dict[str, RunFolder]) -> None:
    dense = runs["dense"]
    with pytest.raises(UserError, match=r"^f1_macro cannot be tested"):  # nothing changed
        compare_with(dense, dense.path, GateConfig(max_drop=10, metrics=["macro_f1"]))
    with pytest.raises(UserError, match=r"^metric: 'f2' is not known"):
        compare_with(dense, dense.path, GateConfig(max_drop=10, metrics=["f2"]))


def test_a_model_in_torch_is_the_baseline_of_its_own_export(runs: dict[str, RunFolder]) -> None:
    found = compare_with(runs["dense"], runs["dense"].model, GateConfig(max_drop=10))
    assert found["against"]["runtime"] == "torch"
    assert found["changes"]["gained"] == found["changes"]["lost"] == 0
    with pytest.raises(UserError, match="is quantized, and transformers would load it in float32"):
        compare_with(runs["dense"], runs["int8"].model, GateConfig(max_drop=10))


def test_the_labels_of_the_baseline_are_matched_by_name(
    student_folder: str, tmp_path: Path
) -> None:
    """A baseline whose three labels have changed places in a cycle answers the next one."""
    run = exported(tmp_path / "run", student_folder, modifier=None, labels=["bad", "fair", "good"])
    turned = Path(shutil.copytree(run.model, tmp_path / "turned"))
    config = json.loads((turned / "config.json").read_text())
    config["id2label"] = {"0": "fair", "1": "good", "2": "bad"}
    config["label2id"] = {name: int(index) for index, name in config["id2label"].items()}
    (turned / "config.json").write_text(json.dumps(config))
    found = compare_with(run, turned, GateConfig(max_drop=10))
    # On each eighth row the next label is the right one.
    assert found["changes"] == {"both_right": 0, "gained": 56, "lost": 8, "both_wrong": 0}
    changed, following = found["changed_rows"], {"bad": "fair", "fair": "good", "good": "bad"}
    assert [row["row"] for row in changed] == [*range(64)]
    assert all(row["against"] == following[row["model"]] for row in changed)
    right = {"gained": "model", "lost": "against"}
    assert all(row[right[row["change"]]] == row["label"] for row in changed)
    assert sum(row["change"] == "gained" for row in changed) == 56


def test_other_metrics_are_bootstrapped(runs: dict[str, RunFolder]) -> None:
    names = ["accuracy", "expected_calibration_error", "log_loss"]
    config = GateConfig(max_drop=20, metrics=names, resamples=100)
    accuracy, error, loss = compare_with(runs["int8"], runs["dense"].path, config)["metrics"]
    assert [accuracy["metric"], error["metric"], loss["metric"]] == names
    assert accuracy["max_drop"] == error["max_drop"] == 0.2
    assert error["lower"] < error["upper"]
    assert error["difference"] == pytest.approx(error["against"] - error["model"])
    # A loss is better where it is smaller, and has no points.
    assert loss["max_drop"] == 20
    assert loss["difference"] == pytest.approx(loss["against"] - loss["model"])


def test_the_command_writes_the_certificate(int8: RunFolder, runs: dict[str, RunFolder]) -> None:
    graph = file_sum(int8.graph)
    command = ["gate", str(int8), "--against", str(runs["dense"]), "--max-drop"]
    for _ in range(2):  # the second replaces the first's section
        passed = CliRunner().invoke(app, [*command, "40"], env={"COLUMNS": "200"})
        assert passed.exit_code == 0, passed.output
    assert "PASSED: accuracy drops by less than 40 points (confidence 95%)" in passed.stdout
    found = json.loads(int8.gate.read_text())
    assert found["passed"] and found["data"]["sha256"] == file_sum(int8.evaluation("validation"))
    card = (int8.deployment / "README.md").read_text()
    assert card.count("## Compared with the dense model") == 1
    assert graph in card and file_sum(runs["dense"].graph) in card
    assert str(int8.path) not in card
    assert "changed_rows" not in found
    assert int8.gate_changed.is_file()
    # A task without one class a row has none, and does not leave those of an earlier comparison.
    write_result(int8, {**found, "changed_rows": None})
    assert not int8.gate_changed.exists()
    page = int8.gate_page.read_text()
    assert "PASSED: accuracy drops by less than 40 points" in page and graph in page
    check_sums(int8.deployment)
    failed = CliRunner().invoke(app, [*command, "0.01"], env={"COLUMNS": "200"})
    assert failed.exit_code == 1
    assert "rows are too few" in failed.stdout and "0.01 points takes about" in failed.stdout
    assert not json.loads(int8.gate.read_text())["passed"]


def test_only_the_model_card_gets_a_new_sum(int8: RunFolder, runs: dict[str, RunFolder]) -> None:
    """A folder is left alone, and a file that no export wrote is refused, not signed."""
    before = read_sums(int8.deployment)
    command = ["gate", str(int8), "--against", str(runs["dense"]), "--max-drop", "40"]
    (int8.deployment / ".ipynb_checkpoints").mkdir()
    assert CliRunner().invoke(app, command).exit_code == 0
    after = read_sums(int8.deployment)
    assert {name for name in after if after[name] != before.get(name)} == {"README.md"}
    assert check_sums(int8.deployment) == len(before)
    (int8.deployment / "other.py").write_text("")
    refused = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert refused.exit_code == 1 and "other.py was added" in refused.output
    assert read_sums(int8.deployment) == after


def test_a_worse_model_fails(
    runs: dict[str, RunFolder], student_folder: str, tmp_path: Path
) -> None:
    opposite = exported(tmp_path / "opposite", student_folder, modifier=None, change=turn_around)
    # Both answer the rows of the first run, on which the second is wrong.
    shutil.copy(runs["dense"].evaluation("validation"), opposite.evaluations)
    restamp(opposite.path)
    result = CliRunner().invoke(
        app, ["gate", str(opposite), "--against", str(runs["dense"]), "--max-drop", "5"]
    )
    assert result.exit_code == 1
    assert "FAILED: accuracy drops by 5 points or more" in result.stdout
    found = json.loads(opposite.gate.read_text())
    assert found["changes"]["lost"] > found["changes"]["gained"] > 0
    changed = [json.loads(line) for line in opposite.gate_changed.read_text().splitlines()]
    table = pq.read_table(opposite.evaluation("validation")).to_pydict()
    names = ["negative", "positive"]
    assert [row["label"] for row in changed] == [names[table["label"][r["row"]]] for r in changed]
    for change in ("gained", "lost"):
        rows = [row for row in changed if row["change"] == change]
        assert len(rows) == found["changes"][change]
        assert all((row["model"] == row["label"]) == (change == "gained") for row in rows)


def write_genres(run: RunFolder, folder: Path) -> None:
    """Give the run a data set with two columns besides its texts: genre, of two values, and id."""
    rows = pq.read_table(run.evaluation("validation")).to_pydict()
    genres = ["drama" if row % 4 else "comedy" for row in range(64)]
    lines = [
        {"text": text, "label": label, "genre": genre, "id": str(row)}
        for row, (text, label, genre) in enumerate(
            zip(rows["text"], rows["label"], genres, strict=True)
        )
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset = {
        "_target_": "sparsekit.data.datasets.FileDataset",
        "data_files": {"train": str(file), "validation": str(file)},
        "metrics": ["accuracy"],
        "max_length": 32,
    }
    run.write_config({"dataset": dataset})
    restamp(run.path)


def test_slices_by_a_column(int8: RunFolder, runs: dict[str, RunFolder], tmp_path: Path) -> None:
    write_genres(int8, tmp_path)
    config = GateConfig(max_drop=40, slices=["genre"])
    found = compare_with(int8, runs["dense"].path, config)["slices"]["column genre"]
    assert [(line["slice"], line["rows"]) for line in found] == [("comedy", 16), ("drama", 48)]
    with pytest.raises(UserError, match="column 'id' has 64 values, more than 20"):
        compare_with(int8, runs["dense"].path, GateConfig(max_drop=40, slices=["id"]))
    with pytest.raises(UserError, match="have no column 'gender' to slice by; did you mean genre"):
        compare_with(int8, runs["dense"].path, GateConfig(max_drop=40, slices=["gender"]))
    with pytest.raises(UserError, match=r"choose from [^_]+$"):
        compare_with(int8, runs["dense"].path, GateConfig(max_drop=40, slices=["__place__"]))


def test_an_empty_cell_of_the_sliced_column_drops_no_row(
    int8: RunFolder, runs: dict[str, RunFolder], tmp_path: Path
) -> None:
    write_genres(int8, tmp_path)
    rows = tmp_path / "rows.jsonl"
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    lines[3]["genre"] = " "
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_config = int8.config
    run_config["dataset"]["drop_empty"] = True
    int8.write_config(run_config)
    restamp(int8.path)
    config = GateConfig(max_drop=40, slices=["genre"])
    found = compare_with(int8, runs["dense"].path, config)["slices"]["column genre"]
    assert sum(line["rows"] for line in found) == 64
    assert [line["rows"] for line in found if not line["slice"].strip()] == [1]


def test_the_command_takes_what_is_tested_and_shown(
    int8: RunFolder, runs: dict[str, RunFolder], tmp_path: Path
) -> None:
    write_genres(int8, tmp_path)
    options = ["--alpha", "0.2", "--slice", "genre", "--slice", "label"]
    options += ["--metric", "log_loss", "--metric", "accuracy"]
    command = ["gate", str(int8), "--against", str(runs["dense"]), "--max-drop", "40", *options]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "PASSED: accuracy drops by less than 40 points (confidence 80%)" in result.stdout
    found = json.loads(int8.gate.read_text())
    assert found["alpha"] == 0.2
    assert [test["metric"] for test in found["metrics"]] == ["log_loss", "accuracy"]
    assert set(found["slices"]) == {"class", "length", "column genre", "column label"}


def test_changed_rows_are_refused(int8: RunFolder, runs: dict[str, RunFolder]) -> None:
    shutil.copy(runs["dense"].evaluation("validation"), int8.evaluations)
    with pytest.raises(UserError, match=r"validation\.parquet .* was changed or cut short"):
        compare_with(int8, runs["dense"].path, GateConfig(max_drop=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_drop": 0}, "max_drop is 0, it must be above 0"),
        ({"max_drop": 1, "alpha": 0.5}, "alpha is 0.5, it must lie between 0 and 0.5"),
        ({"max_drop": 1, "resamples": 10}, "resamples is 10, it must be at least 100"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GateConfig(**settings)  # type: ignore[arg-type]


def test_what_is_no_model_is_refused(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no model to compare with: give a run folder"):
        compare_with(runs["dense"], tmp_path, GateConfig(max_drop=1))
    deployment = RunFolder(runs["int8"].deployment)
    with pytest.raises(UserError, match="is a deployment, without the rows to compare on"):
        compare_with(deployment, runs["dense"].path, GateConfig(max_drop=1))
    with pytest.raises(UserError, match="has no deployment to compare; export it"):
        compare_with(RunFolder(tmp_path), runs["dense"].path, GateConfig(max_drop=1))
    with pytest.raises(UserError, match="'recal' is not known; did you mean recall"):
        compare_with(runs["dense"], runs["dense"].path, GateConfig(max_drop=1, metrics=["recal"]))


def test_a_difference_below_zero_is_worse_whatever_the_metric() -> None:
    """Also of a slice too small to bootstrap, where only the estimate is shown."""
    labels = [1.0, 2.0, 3.0, 5.0]
    better, worse = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[3.0], [1.0], [2.0], [0.0]])
    rows = Rows(label_names=["score"], labels=labels, encodings=[], outputs={})
    scoring = Scoring(Regression(), rows, {"logits": worse}, {"logits": better}, Regression())
    every = np.arange(4)
    # 4 + 1 + 1 + 25 against 1, over 4 rows.
    assert scoring.difference("mse", every) == pytest.approx(-7.5)
    assert scoring.difference("pearson", every) < 0
    [line] = describe(scoring, "mse", {"all": every}, 1.0, 0.05, 100, 0)
    assert line == {
        "slice": "all",
        "rows": 4,
        "difference": pytest.approx(-7.5),
        "lower": None,
        "upper": None,
    }


def test_metrics_that_compare_rows_are_refused() -> None:
    """Whether the task has them by itself or the test names them."""
    scored = Embedding(text_columns=["a", "b"], score_column="c", metrics=["spearman"])
    assert checked_metrics(scored, GateConfig(max_drop=1.0)) == ["spearman"]
    named = GateConfig(max_drop=1.0, metrics=["spearman", "neighbours"])
    for task, config in ((Embedding(), GateConfig(max_drop=1.0)), (scored, named)):
        with pytest.raises(UserError, match="neighbours compares each row with all others"):
            checked_metrics(task, config)


def test_each_multi_label_model_has_its_own_threshold() -> None:
    """At the threshold of the run, 0.16, the baseline would give every row the label."""
    labels = [[1.0], [0.0]] * 30
    low, high = np.array([[-1.0], [-3.0]] * 30), np.array([[3.0], [1.0]] * 30)
    untuned = MultiLabel(label_columns=["a"])
    tasks = [untuned.tuned(lambda e=e: ({"logits": e}, labels)) for e in (low, high)]  # type: ignore[misc]
    rows = Rows(label_names=["a"], labels=labels, encodings=[], outputs={})
    scoring = Scoring(tasks[0], rows, {"logits": low}, {"logits": high}, tasks[1])
    assert scoring.scores("f1_micro", np.arange(60)) == (1.0, 1.0)
    shared = Scoring(tasks[0], rows, {"logits": low}, {"logits": high}, tasks[0])
    assert shared.scores("f1_micro", np.arange(60)) == (1.0, pytest.approx(2 / 3))


def test_rows_without_a_change_bound_means_alone() -> None:
    """Two rows of a rare class cost macro F1 far more than 2 / rows."""
    logits = np.array([[2.0, -2.0]] * 990 + [[-2.0, 2.0]] * 10)
    labels = [0] * 990 + [1] * 10
    rows = Rows(label_names=["a", "b"], labels=labels, encodings=[], outputs={})
    task = TextClassification()
    scoring = Scoring(task, rows, {"logits": logits}, {"logits": logits}, task)
    found = scoring.compare("zero_one_loss", np.arange(1000), 0.01, 0.05, 100, 0)
    assert found.lower == pytest.approx(-(1 - 0.05 ** (1 / 1000)))
    for metric in ("f1_macro", "balanced_accuracy", "roc_auc"):
        with pytest.raises(UserError, match=f"{metric} cannot be tested: no resample shows a drop"):
            scoring.compare(metric, np.arange(1000), 0.01, 0.05, 100, 0)
    assert QuestionAnswering.means == {"exact_match", "f1"}
    # A slice then has a difference, and no interval.
    [line] = describe(scoring, "f1_macro", {"all": np.arange(1000)}, 0.01, 0.05, 100, 0)
    assert (line["difference"], line["lower"], line["upper"]) == (0.0, None, None)
