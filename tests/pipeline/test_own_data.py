"""A newcomer's messy ticket file, from the first look at it to predictions."""

from __future__ import annotations

import contextlib
import csv
import io
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
from csv_files import write_csv
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


def test_lengths_are_those_of_whole_texts(tmp_path: Path, student_folder: str) -> None:
    """The median and the 99th percentile; what is cut is longer than `max_length`, not as long."""
    # Words and the two special tokens; of 8 tokens and more the first word is unknown.
    tokens = [5] * 150 + [8] * 48 + [10, 14]
    texts = [" ".join(["the"] * (length - 2)) for length in tokens[:150]]
    texts += [" ".join(["☃"] + ["the"] * (length - 3)) for length in tokens[150:]]
    rows = [{"text": text, "label": number % 2} for number, text in enumerate(texts)]
    file = write_csv(tmp_path / "rows.csv", rows)
    words = [str(file), str(file), f"student.checkpoint={student_folder}", "dataset.max_length=8"]
    found = check_data(composed(overrides_of(words), None)).figures["splits"]["train"]["tokens"]
    unknown = pytest.approx(50 / (150 * 5 + 50 * 8))
    assert found == {"median": 5, "p99": 10, "max": 14, "cut": 2, "unknown": unknown}


@pytest.fixture(scope="module")
def messy_run(
    tmp_path_factory: pytest.TempPathFactory, student_folder: str
) -> tuple[Path, list[str], RunFolder, str]:
    """The file, the overrides, the run and what it printed to stderr."""
    folder = tmp_path_factory.mktemp("messy")
    path = folder / "tickets.csv"
    write_tickets(path)
    words = [
        f"dataset.data_files.train={path}",
        COLUMNS,
        "dataset.drop_empty=true",
        "dataset.label_case=ignore",
        "dataset.max_length=32",
        f"student.checkpoint={student_folder}",
    ]
    run = RunFolder(folder / "run")
    short = ["recipe=dense", "recipe.num_epochs=1", "runtime=none"]
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        summary = run_here(run.path, "dataset=files", *words, *short)
    assert summary["status"] == "completed"
    return path, words, run, shown.getvalue()


def test_files_are_given_by_any_name() -> None:
    """Hydra would make a sweep of a comma."""
    config = composed(overrides_of(["a,b.csv", "c [1] 'd'.csv"]), None)
    files = config["dataset"]["data_files"]
    assert (files["train"], files["validation"]) == ("a,b.csv", "c [1] 'd'.csv")


def test_a_run_of_it_reports_what_it_read(
    messy_run: tuple[Path, list[str], RunFolder, str],
) -> None:
    _, words, run, shown = messy_run
    assert "class billing" in shown
    assert "warning: classes with fewer than 10 training rows" in shown
    figures = json.loads(run.data.read_text())
    assert check_data(composed(overrides_of(words), None)).figures == figures
    labels = pq.read_table(run.evaluation("validation"), columns=["label"])["label"].to_pylist()
    counts = figures["splits"]["validation"]["classes"]
    assert [labels.count(index) for index in range(4)] == list(counts.values())


def test_its_reports_show_what_the_model_cannot_do(
    messy_run: tuple[Path, list[str], RunFolder, str],
) -> None:
    _, _, run, _ = messy_run
    report = json.loads((run.evaluations / "validation_report.json").read_text())
    assert set(report["classes"]) == set(CLASSES)
    # An epoch does not teach the class with six tickets.
    never = [name for name, each in report["classes"].items() if each["recall"] == 0]
    assert "other" in never
    card = (run.deployment / "README.md").read_text()
    assert "Class 'other' is never recognized: recall 0 of 1 rows" in card
    assert "| class other |" in card
    assert "| near-duplicates of texts in train | - | 0 |" in card
    with (run.evaluations / "validation_mistakes.csv").open(newline="") as file:
        mistakes = list(csv.DictReader(file))
    assert mistakes
    assert {"label", "answer", "text", "text_pair"} <= set(mistakes[0])


def test_the_file_itself_is_labelled(
    messy_run: tuple[Path, list[str], RunFolder, str], tmp_path: Path
) -> None:
    path, _, run, _ = messy_run
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file, delimiter=";"))
    labelled = tmp_path / "labelled.csv"
    result = CliRunner().invoke(app, ["predict", str(run), str(path), "--output", str(labelled)])
    assert result.exit_code == 0, result.output
    with labelled.open(newline="", encoding="utf-8-sig") as file:
        header, *answers = csv.reader(file, delimiter=";")
    assert header == [*rows[0], "predicted_label", "predicted_score", "predicted_scores"]
    assert [row[:3] for row in answers] == rows[1:]
    # Only the tickets without a subject, which training leaves out, have no answer.
    assert {not row[0].strip() for row in answers if row[3] not in CLASSES} == {True}
    assert "rows without text, and so without answer: 2" in result.stderr

    pairs = [text for row in rows[1:4] for text in row[:2]]
    result = CliRunner().invoke(app, ["predict", str(run), "--pairs", *pairs])
    assert result.exit_code == 0, result.output
    assert [line.split("\t")[0] for line in result.output.splitlines()] == [
        row[3] for row in answers[:3]
    ]


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


def test_the_fix_of_a_missing_tokenizer_is_given_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object, key: str, **__: object) -> Path:
        raise UserError(f"the Hub does not answer; give a local folder, as in {key}=FOLDER")

    monkeypatch.setattr("sparsekit.pipeline.data_check.fetch", fetch)
    write_tickets(path := tmp_path / "tickets.csv", faulty=False)
    code, output = looked_at(str(path), COLUMNS)
    assert code == 0
    assert output.count("student.checkpoint=FOLDER") == 1


@pytest.mark.slow
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


@pytest.mark.parametrize("name", ["year=2024.csv", "a,b.csv", "é,a=b (1).csv", "[1].csv"])
def test_files_of_any_name_are_read(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.touch()
    words = overrides_of([str(file), "dataset.max_length=64", "~dataset.label_case"])
    config = composed(words, None)
    assert config["dataset"]["data_files"]["train"] == str(file)
    assert "label_case" not in config["dataset"]
    if "," in name:
        return  # in an override a sweep, as train takes it
    one = composed(["dataset=files", f"dataset.data_files.train={file}"], None)
    assert one["dataset"]["data_files"]["train"] == str(file)


def test_mistakes_are_explained_as_by_train() -> None:
    with pytest.raises(UserError, match=r"dataset=sst22: the group dataset has no sst22.*sst2"):
        composed(["dataset=sst22"], None)
