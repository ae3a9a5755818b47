"""A newcomer's messy ticket file, from the first look at it to predictions."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import hub_seed
import pyarrow.parquet as pq
import pytest
from hub import serve
from launching import run_here
from project import ROOT
from tickets import CLASSES, write_tickets
from typer.testing import CliRunner

from sparsekit.cli.app import app
from sparsekit.errors import UserError
from sparsekit.pipeline.data_check import check_data, composed, overrides_of
from sparsekit.runs.folder import RunFolder

COLUMNS = "dataset.text_columns=[subject,body]"


def looked_at(*words: str) -> tuple[int, str]:
    """The exit code and the output of `sparsekit data`."""
    result = CliRunner().invoke(app, ["data", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def found(lines: list[int]) -> str:
    """Lines of the file as a message lists them."""
    more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
    return f"line{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines[:5]))}{more}"


@pytest.fixture
def tickets(tmp_path: Path) -> tuple[Path, dict[str, list[int]]]:
    path = tmp_path / "tickets.csv"
    return path, write_tickets(path)


def test_every_fault_is_named_at_once(
    tickets: tuple[Path, dict[str, list[int]]],
    student_folder: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, lines = tickets
    student = f"student.checkpoint={student_folder}"
    code, output = looked_at(str(path), COLUMNS, student, "dataset.max_length=32")
    assert code == 1
    for part in (
        f"error: {path}, {found(lines['no subject'])}: column 'subject' has no text",
        f"error: {path}, {found(lines['no label'])}: column 'label': the label is missing",
        f"'Billing' (3 rows); make them equal in the file ({path}, {found(lines['case'])})",
        "dataset.label_case=ignore",
        "dataset.drop_empty=true",
        "fewer than 10 training rows are hardly learned: 'other' (5)",
        "is longer than 32 tokens",
        f"rows of train have a text that has another label elsewhere: correct them ({path}, "
        f"{found(lines['contradiction'])})",
        "training rows repeat the text of an earlier one",
        "the figures are those with dataset.drop_empty=true dataset.label_case=ignore",
    ):
        assert part in output
    assert f"{path}, {found(lines['blanks'])}: column 'label': blanks around 4" in caplog.text
    assert caplog.text.count("validation is 31 of the 309 training rows") == 1
    assert caplog.text.count("validation is") == 1
    assert caplog.text.count(f"{path}: fields are separated by semicolons") == 1
    assert f"line {lines['no body'][0]}" not in output


def test_the_fixes_that_are_named_work(
    tickets: tuple[Path, dict[str, list[int]]], student_folder: str
) -> None:
    path, _ = tickets
    words = [str(path), COLUMNS, f"student.checkpoint={student_folder}", "dataset.max_length=32"]
    fixes = ["dataset.drop_empty=true", "dataset.label_case=ignore"]
    _, output = looked_at(*words)
    fixes += shlex.split(output.partition("leave them out: ")[2].partition("\n")[0])
    assert fixes[2] == "dataset.drop_labels=[other]"
    code, output = looked_at(*words, *fixes, "--json")
    found = json.loads(output[output.index("{") :])
    assert code == 0
    assert found["problems"] == []
    train, validation = found["splits"]["train"], found["splits"]["validation"]
    assert set(train["classes"]) == set(CLASSES) - {"other"}
    assert train["rows"] + validation["rows"] == 120 + 100 + 80 + 6 - 3
    assert validation["in_train"]["rows"] == 0
    assert train["tokens"]["cut"] > 0
    assert not any("fewer than" in warning for warning in found["warnings"])


def test_a_run_of_it_reports_what_it_read(
    tickets: tuple[Path, dict[str, list[int]]],
    tmp_path: Path,
    student_folder: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, _ = tickets
    words = [
        f"dataset.data_files.train={path}",
        COLUMNS,
        "dataset.drop_empty=true",
        "dataset.label_case=ignore",
        "dataset.max_length=32",
        f"student.checkpoint={student_folder}",
    ]
    run = RunFolder(tmp_path / "run")
    short = ["recipe=dense", "recipe.num_epochs=1", "runtime=none"]
    summary = run_here(run.path, "dataset=files", *words, *short)
    assert summary["status"] == "completed"
    shown = capsys.readouterr().err
    assert "class billing" in shown
    assert "warning: classes with fewer than 10 training rows" in shown
    figures = json.loads(run.data.read_text())
    assert check_data(composed(overrides_of(words), None)).figures == figures
    labels = pq.read_table(run.evaluation("validation"), columns=["label"])["label"].to_pylist()
    counts = figures["splits"]["validation"]["classes"]
    assert [labels.count(index) for index in range(4)] == list(counts.values())

    with path.open(newline="", encoding="utf-8-sig") as file:
        texts = [row[:2] for row in csv.reader(file, delimiter=";")][1:4]
    pairs = [text for row in texts for text in row]
    result = CliRunner().invoke(app, ["predict", str(run), "--pairs", *pairs])
    assert result.exit_code == 0, result.output
    answers = [line.split("\t")[0] for line in result.output.splitlines()]
    assert len(answers) == 3
    assert set(answers) <= set(counts)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["a.csv", "b.csv", "c.csv", "d.csv"], "give the files of train, validation, test"),
        (["nowhere.csv"], "dataset.data_files.train: there is no file nowhere.csv"),
        (["nowhere.csv", "dataset.no_such=1"], "no_such"),
        (["nowhere.csv", "dataset.drop_labels=x"], "dataset.drop_labels is 'x'; it must be a list"),
        (["nowhere.csv", "dataset.validation_fraction=2"], "set a share from 0 to 0.9"),
        (["nowhere.csv", "dataset.delimiter=ab"], "must be one character"),
    ],
)
def test_what_cannot_be_read_is_one_error(words: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(problem)):
        check_data(composed(overrides_of(words), None))


def test_near_duplicates_of_another_file_are_named_and_left_out(
    tmp_path: Path, student_folder: str
) -> None:
    train, validation = tmp_path / "tickets.csv", tmp_path / "forwarded.csv"
    write_tickets(train, faulty=False)
    head, *tickets = train.read_text(encoding="utf-8-sig").splitlines()
    forwarded = [f"Fwd: {ticket.upper().rpartition(';')[0]}" for ticket in tickets[:50]]
    labels = [ticket.rpartition(";")[2] for ticket in tickets[:50]]
    rows = [f"{text};{label}" for text, label in zip(forwarded, labels, strict=True)]
    validation.write_text("\n".join([head, *rows]) + "\n")
    words = [str(train), str(validation), COLUMNS, f"student.checkpoint={student_folder}"]
    code, output = looked_at(*words)
    assert code == 0
    warning = re.search("warning: (.* rows of validation are near-duplicates .*)", output)
    assert warning and warning[1].endswith(
        f"({validation}, {found(list(range(2, 52)))}; the first one's is {train}, line 2): "
        "dataset.drop_leaked=near"
    )
    _, output = looked_at(*words, "dataset.drop_leaked=near", "--json")
    figures = json.loads(output[output.index("{") :])["splits"]
    assert figures["train"]["rows"] == sum(CLASSES.values()) - 50
    assert figures["validation"]["near_train"]["rows"] == 0


def test_what_was_read_is_logged_once_where_no_row_can_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text("text,label\na,1\nb,\n ,2\nc,1\n")
    with pytest.raises(UserError, match="line 3: column 'label': the label is missing"):
        check_data(composed(overrides_of([str(path)]), None))
    (message,) = caplog.messages
    assert "validation is 1 of the 4 training rows" in message


def test_data_of_any_group_can_be_looked_at(tmp_path: Path, student_folder: str) -> None:
    student = f"student.checkpoint={student_folder}"
    code, output = looked_at("dataset=quickstart", student, "dataset.source.seed=1")
    assert code == 0
    assert "6,000" in output
    folder = tmp_path / "my conf"
    (folder / "dataset").mkdir(parents=True)
    path = tmp_path / "tickets.csv"
    write_tickets(path, faulty=False)
    mine = f"_target_: sparsekit.data.datasets.FileDataset\ndata_files: {{train: {path}}}\n"
    (folder / "dataset" / "mine.yaml").write_text(mine)
    code, output = looked_at("dataset=mine", COLUMNS, student, "--config-dir", str(folder))
    assert code == 0
    assert "class shipping" in output


def test_without_the_students_tokenizer_lengths_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    write_tickets(path, faulty=False)
    code, output = looked_at(str(path), COLUMNS, f"student.checkpoint={tmp_path / 'nowhere'}")
    assert code == 0
    assert "note: lengths are left out without the student's tokenizer" in output
    assert "class billing" in output


def test_a_data_set_of_the_hub_needs_no_weights(seed_folder: Path, tmp_path: Path) -> None:
    overrides = [
        "dataset=hub",
        "dataset.path=cornell-movie-review-data/rotten_tomatoes",
        "dataset.splits.validation=null",
        f"student.checkpoint={hub_seed.STUDENT}",
        "dataset.max_length=32",
    ]
    with serve(seed_folder) as hub:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-m", "sparsekit", "data", *overrides],
            cwd=tmp_path,
            env=kept | hub.environment(tmp_path / "hf") | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "validation is" in done.stderr
    assert "tokens: median, 99 %, longest" in done.stdout
    assert "class neg" in done.stdout
    files = [path.name for path in (tmp_path / "hf").rglob("*")]
    assert "tokenizer.json" in files or "vocab.txt" in files
    assert not [name for name in files if name.endswith((".bin", ".safetensors"))]
