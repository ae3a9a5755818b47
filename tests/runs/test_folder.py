"""RunFolder: damaged files, the lock, and what a run may replace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsekit.errors import UserError
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.launch_record import (
    Launch,
    accept_record,
    keep_record,
    launched_from,
    overrides_of,
    restore_record,
)
from sparsekit.runs.paths import ENTRIES, RunPaths
from sparsekit.runs.replacement import check_replaceable, mark, remove_results

NESTED = "[" * 100_000
# Expanded, 9 ** 9 values.
ALIASES = "- &a0 [x, x]\n" + "".join(
    f"- &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)


def test_a_missing_or_damaged_summary_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(UserError, match=r"is not a run folder: it has no summary\.json"):
        _ = run.summary
    for text in ('{"status": ', "[]", NESTED):
        run.summary_file.write_text(text)
        with pytest.raises(UserError, match=r"cannot read .*summary\.json"):
            _ = run.summary
    run.write_summary({"status": "completed"})
    assert run.summary == {"status": "completed"}


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe\xff", b"date: 2026-99-99", b""])
def test_a_damaged_config_is_named(tmp_path: Path, content: bytes) -> None:
    run = RunFolder(tmp_path)
    run.config_file.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.yaml.*restore it, or train again"):
        _ = run.config
    assert run.text_columns == []


def test_a_path_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^there is no folder .*nope$"):
        _ = RunFolder(tmp_path / "nope").config
    (tmp_path / "train.csv").touch()
    with pytest.raises(UserError, match=r"train\.csv is not a run folder: it is a file$"):
        _ = RunFolder(tmp_path / "train.csv").config


@pytest.mark.parametrize(
    ("dataset", "columns"),
    [
        ({"text_columns": ["a", "b"]}, ["a", "b"]),
        ({"token_column": "words", "tag_column": "tags"}, ["words"]),
        ({"question_column": "q", "context_column": "c"}, ["q", "c"]),
        ({"other": "x"}, []),
    ],
)
def test_the_columns_that_a_model_reads(
    tmp_path: Path, dataset: dict[str, Any], columns: list[str]
) -> None:
    run = RunFolder(tmp_path)
    run.write_config({"dataset": dataset})
    assert run.text_columns == columns


def test_a_config_without_metrics_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for config in ({}, {"dataset": {}}, {"dataset": 3}, {"dataset": {"metrics": "accuracy"}}):
        run.write_config(config)
        with pytest.raises(UserError, match="is not the config of a run"):
            _ = run.metric_names
    run.write_config({"dataset": {"metrics": ["accuracy"]}})
    assert run.metric_names == ["accuracy"]


def test_a_node_without_a_target_is_a_stage_left_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_config({"export": {"_target_": "x"}, "runtime": {}, "teacher": None})
    assert run.node("export") == {"_target_": "x"}
    assert run.node("runtime") is run.node("teacher") is run.node("nowhere") is None


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (None, "unfinished"),
        (b'{"status": "completed", "config": {"hash": "ab"}}', "completed"),
        (b'{"status": "failed", "config": 3}', "failed"),
        (b'{"status": "won"}', "broken"),
        (b"\xff", "broken"),
        (NESTED.encode(), "broken"),
    ],
)
def test_how_a_run_ended(tmp_path: Path, content: bytes | None, status: str) -> None:
    run = RunFolder(tmp_path)
    if content is not None:
        run.summary_file.write_bytes(content)
    assert run.ending.status == status
    assert run.ending.hash == ("ab" if status == "completed" else None)


def test_a_full_disk_leaves_the_earlier_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    run.write_summary({"status": "completed"})

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        run.write_summary({"status": "failed"})
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
    assert run.summary == {"status": "completed"}


def test_the_lock_keeps_others_out_and_lets_its_own_process_in(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    with (
        first.lock(),
        pytest.raises(UserError, match="another process is running in"),
        second.lock(),
    ):
        pass
    code = (
        "import sys; from pathlib import Path; from sparsekit.runs.folder import RunFolder\n"
        "run = RunFolder(Path(sys.argv[1])); run.hold()\n"
        "with run.lock(): pass\n"
        "print('in', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    with pytest.raises(UserError, match="another process is running in"), first.lock():
        pass
    holder.communicate()
    with first.lock():
        pass


def test_a_held_lock_lets_its_own_process_in_under_any_name_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from sparsekit.runs.folder import RunFolder\n"
        "RunFolder(Path(sys.argv[1])).hold()\n"
        "for name in sys.argv[2:]:\n"
        "    with RunFolder(Path(name)).lock(): pass\n"
    )
    names = [str(tmp_path / name) for name in ("run/../run", "run", "link")]
    for first in names:
        subprocess.run([sys.executable, "-c", code, first, *names], check=True)


def test_a_folder_of_another_tool_is_not_replaceable(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    check_replaceable(run)
    (tmp_path / "src").mkdir()
    check_replaceable(run)
    (tmp_path / "deployment").symlink_to("nowhere")
    with pytest.raises(UserError, match="holds deployment, which no run wrote"):
        check_replaceable(run)
    # Neither another tool's summary nor another tool's config makes it a run's.
    run.summary_file.write_text('{"status": "completed"}')
    run.config_file.write_text("replicas: 3")
    with pytest.raises(UserError, match=r"holds config\.yaml, summary\.json, deployment, which"):
        check_replaceable(run)


def test_a_folder_that_a_run_made_is_replaceable(tmp_path: Path) -> None:
    marked, older = RunFolder(tmp_path / "marked"), RunFolder(tmp_path / "older")
    for run in (marked, older):
        run.deployment.mkdir(parents=True)
    mark(marked)
    older.write_summary({"status": "failed", "config": {"hash": "abc"}})
    check_replaceable(marked)
    check_replaceable(older)


def test_results_are_removed_and_the_model_stays(tmp_path: Path) -> None:
    run, other = RunFolder(tmp_path / "run"), tmp_path / "other"
    for folder in (run.deployment, run.model, other):
        folder.mkdir(parents=True)
    for file in (run.metrics, run.benchmark, run.summary_file, other / "kept"):
        file.write_text("{}")
    remove_results(run, resumed_step=4)
    assert {path.name for path in run.path.iterdir()} == {"model", "metrics.jsonl"}
    # Of a link the link alone.
    run.deployment.symlink_to(other)
    remove_results(run, resumed_step=None)
    assert {path.name for path in run.path.iterdir()} == {"model"}
    assert (other / "kept").is_file()


def test_a_resumed_run_logs_no_step_twice(tmp_path: Path) -> None:
    """Events past the checkpoint go, and the line that the killed run did not finish."""
    run = RunFolder(tmp_path)
    events = [
        {"step": 2, "loss": 0.5},
        {"step": 4, "loss": 0.4},
        {"step": 4, "eval_accuracy": 0.5},
        {"step": 4, "train_runtime": 3.0},
        {"step": 6, "loss": 0.3},
        {"note": "without a step"},
    ]
    lines = [*map(json.dumps, events), "[]", "null", '{"step": "x"}', '{"step": 1, "lo']
    run.metrics.write_text("\n".join(lines))
    remove_results(run, resumed_step=4)
    left = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert left == [events[0], events[1], events[2], events[5]]


def test_it_imports_neither_torch_nor_hydra() -> None:
    code = (
        "import sys, sparsekit.runs.folder, sparsekit.runs.find, sparsekit.runs.replacement;"
        "print(sorted({'torch', 'hydra', 'omegaconf', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{a: 1}", b"\xff", b"[" * 200_000, b"- &a [*a]", ALIASES.encode()]
)
def test_overrides_that_cannot_be_read_are_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / ".hydra" / "overrides.yaml"
    file.parent.mkdir()
    file.write_bytes(content)
    assert overrides_of(RunFolder(tmp_path)) == []
    file.write_text("- seed=1\n")
    assert overrides_of(RunFolder(tmp_path)) == ["seed=1"]


HYDRA = """\
hydra:
  overrides:
    hydra: []
    task:
    - dataset=csv
    - seed=3
  runtime:
    cwd: /where
    config_sources:
    - path: hydra.conf
      schema: pkg
      provider: hydra
    - path: /added
      schema: file
      provider: command-line
    output_dir: /where/run
  verbose: false
"""


def test_a_killed_run_is_resumed_with_all_of_its_overrides(tmp_path: Path) -> None:
    """Hydra writes overrides.yaml last: a run that was killed then has an empty one, or none."""
    folder = tmp_path / ".hydra"
    folder.mkdir()
    (folder / "hydra.yaml").write_text(HYDRA)
    (folder / "overrides.yaml").touch()
    launched = launched_from(RunFolder(tmp_path))
    assert launched == Launch(Path("/where"), ["dataset=csv", "seed=3"], [Path("/added")])


def test_the_search_path_of_the_command_line_is_launched_again(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    path = "hydra.searchpath=[file://own]"
    hydra = HYDRA.replace("hydra: []", f"hydra: ['{path}', hydra.run.dir=run, hydra.mode=RUN]")
    (tmp_path / ".hydra" / "hydra.yaml").write_text(hydra)
    assert launched_from(RunFolder(tmp_path)).overrides == ["dataset=csv", "seed=3", path]


@pytest.mark.parametrize("accepted", [False, True])
def test_the_earlier_record_is_kept_until_a_job_is_accepted(tmp_path: Path, accepted: bool) -> None:
    run, file = RunFolder(tmp_path), tmp_path / ".hydra" / "overrides.yaml"
    file.parent.mkdir()
    file.write_text("- seed=1\n")
    run.config_file.touch()
    keep_record(run)
    file.write_text("- seed=2\n")
    if accepted:
        accept_record(run)
    restore_record()
    assert overrides_of(run) == ["seed=2" if accepted else "seed=1"]


def test_a_run_in_another_output_dir_has_the_record_too(tmp_path: Path) -> None:
    launched, run = RunFolder(tmp_path / "launched"), RunFolder(tmp_path / "output")
    (launched.path / ".hydra").mkdir(parents=True)
    run.path.mkdir()
    keep_record(launched)
    (launched.path / ".hydra" / "hydra.yaml").write_text(HYDRA)
    accept_record(run)
    assert launched_from(run).directory == Path("/where")


@pytest.mark.parametrize("end", range(0, len(HYDRA) - 20, 9))
def test_a_launch_that_is_recorded_in_part_is_refused(tmp_path: Path, end: int) -> None:
    folder = tmp_path / ".hydra"
    folder.mkdir()
    (folder / "hydra.yaml").write_text(HYDRA[:end])
    with pytest.raises(UserError, match="start the run again"):
        launched_from(RunFolder(tmp_path))


def test_no_name_of_a_run_is_forgotten(tmp_path: Path) -> None:
    """What a run replaces is what another tool's folder is refused for, and has a fate."""
    run = RunFolder(tmp_path)
    paths = {name: getattr(run, name) for name in dir(RunPaths) if not name.startswith("_")}
    tops = {
        path.relative_to(tmp_path).parts[0]
        for path in paths.values()
        if isinstance(path, Path) and path != tmp_path
    }
    # The reserve goes with the summary.
    assert tops - {run.reserve.name} == {entry.name for entry in ENTRIES}


@pytest.mark.parametrize("resumed_step", [None, 4])
def test_no_result_of_an_earlier_run_is_left(tmp_path: Path, resumed_step: int | None) -> None:
    run = RunFolder(tmp_path)
    for folder in (run.evaluations, run.deployment, run.model):
        folder.mkdir()
    for file in (run.evaluation("test"), run.evaluations / "validation_report.json"):
        file.write_bytes(b"")
    for name in ("benchmark.png", "benchmark.json", "SHA256SUMS", "gate.json", "data.json"):
        (tmp_path / name).write_bytes(b"")
    remove_results(run, resumed_step)
    left = {"model"} if resumed_step is None else {"model", "data.json"}
    assert {path.name for path in tmp_path.iterdir()} == left
