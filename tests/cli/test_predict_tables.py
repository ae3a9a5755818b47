"""`sparsekit predict` on csv, jsonl and parquet files."""

from __future__ import annotations

import bz2
import csv
import errno
import gzip
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from project import GOLDEN
from typer.testing import CliRunner
from votes import write_votes

from sparsekit.cli.app import app
from sparsekit.runtime.answers import predict
from sparsekit.runtime.tables import predict as table_prediction
from sparsekit.runtime.tables.columns import chosen_columns
from sparsekit.runtime.tables.delimited import DelimitedWriter
from sparsekit.runtime.tables.open import open_table

TEXTS = ['a "fine" film', "bad, bad\nbad", "=1+1\tand\\t", "Ünïcode \U0001f3ac"]
# Texts that fill more than one block of a compression.
LONG = ("text\n" + "".join(f"{i * 7919 % 10007}\n" for i in range(20_000))).encode()


def bad_parquet() -> bytes:
    """A column of text that is not UTF-8."""
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    file = io.BytesIO()
    pq.write_table(pa.table({"text": text}), file)
    return file.getvalue()


BAD_TEXT = bad_parquet()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of single texts, from the column `text`."""
    return Path(shutil.copytree(GOLDEN / "old_run", tmp_path_factory.mktemp("tables") / "run"))


@pytest.fixture(scope="module")
def expected(run: Path) -> list[dict[str, Any]]:
    return predict(run / "deployment", TEXTS)


def label(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_csv_keeps_its_cells_and_gains_the_answers(
    run: Path, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    source = tmp_path / "rows.csv"
    with source.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "text", "label"], *([i, t, "x"] for i, t in enumerate(TEXTS))])
    done = label(run, source)
    assert done.exit_code == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout_bytes.decode(), newline="")))
    assert [row["text"] for row in rows] == TEXTS
    assert [row["label"] for row in rows] == ["x"] * 4
    assert [row["predicted_label"] for row in rows] == [each["label"] for each in expected]
    for row, each in zip(rows, expected, strict=True):
        assert float(row["predicted_score"]) == pytest.approx(each["score"], abs=1e-6)
        assert json.loads(row["predicted_scores"]).keys() == each["scores"].keys()
    assert done.stdout_bytes.count(b"\r\n") == 5
    assert "4 rows" in done.stderr


def test_other_delimiters_stay(run: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text;n\nfine;1\n")
    assert label(run, tmp_path / "rows.csv").stdout.startswith("text;n;predicted_label;")
    (tmp_path / "rows.tsv").write_text("text\tn,m\nfine\t1\n")
    assert label(run, tmp_path / "rows.tsv").stdout.startswith("text\tn,m\tpredicted_label\t")


def test_blank_lines_before_a_header(run: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("\n \ntext;n\nfine;1\n")
    assert label(run, tmp_path / "rows.csv").stdout.startswith("text;n;predicted_label;")
    (tmp_path / "rows.csv").write_text("\n \ntext;n\nfine;1;2\n")
    assert "line 4 has 3 fields" in label(run, tmp_path / "rows.csv").stderr


def test_a_missing_text_is_no_text(run: Path, tmp_path: Path) -> None:
    """pandas writes it as NaN."""
    pq.write_table(
        pa.table({"n": [0, 1], "text": pa.array([math.nan, math.nan])}), tmp_path / "rows.parquet"
    )
    done = label(run, tmp_path / "rows.parquet", "--output", tmp_path / "a.parquet")
    assert done.exit_code == 0, done.stderr
    assert pq.read_table(tmp_path / "a.parquet")["predicted_label"].to_pylist() == [None, None]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_is_read_back_as_it_was(run: Path, tmp_path: Path, end: str) -> None:
    """Of a lone carriage return, a second mark of byte order, blanks, quotes and empty cells."""
    header = ["\ufefftext", "id"]
    texts = ["a\rb", "\r", "c\nd", "e\r\nf", ' g, "h" ', "\ufeffi", "'", "\x00j\u2028\x85k"]
    rows = [[text, text] for text in texts] + [["l", ""]]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    done = label(run, tmp_path / "rows.csv", "--column", header[0], "--output", tmp_path / "a.csv")
    assert done.exit_code == 0, done.stderr
    with open_table(tmp_path / "a.csv") as table:
        [part] = table.parts(100)
        for index, name in enumerate(header):
            assert part.values(name) == [row[index] or None for row in rows]
    assert (tmp_path / "a.csv").read_bytes().endswith(end.encode())


def test_json_lines_keep_every_character(run: Path, tmp_path: Path) -> None:
    lines = ['{"n": 1.00, "text": "f\\u00fcr", "big": 12345678901234567890.10 }', '{"text":null}']
    (tmp_path / "rows.jsonl").write_text("\n\n".join(lines))
    done = label(run, tmp_path / "rows.jsonl", "--prefix", "")
    first, second = done.stdout.splitlines()
    assert first.startswith(lines[0][:-2] + ', "label": ')
    assert json.loads(first)["score"] > 0
    assert json.loads(second) == {"text": None, "label": None, "score": None, "scores": None}
    assert "rows without text, and so without answer: 1" in done.stderr


def test_parquet_keeps_types(run: Path, tmp_path: Path, expected: list[dict[str, Any]]) -> None:
    table = pa.table(
        {"text": pa.array([*TEXTS, None]).dictionary_encode(), "n": pa.array([1, 2, 3, 4, None])}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    assert "--output" in label(run, tmp_path / "rows.parquet").stderr
    done = label(run, tmp_path / "rows.parquet", "--output", tmp_path / "out.parquet")
    assert done.exit_code == 0, done.stderr
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(["text", "n"]).equals(table)
    labels = [each["label"] for each in expected]
    assert found["predicted_label"].to_pylist() == [*labels, None]
    assert found.schema.field("predicted_score").type == pa.float64()


def test_parts_are_written_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_prediction, "PART", 3)
    write_votes(tmp_path / "run" / "deployment")
    counts = [1 + i % 5 for i in range(20)]
    texts = ["good " * count for count in counts]
    lines = "".join(json.dumps({"text": text, "i": i}) + "\n" for i, text in enumerate(texts))
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as file:
        file.write(lines)
    output = tmp_path / "out.jsonl.gz"
    done = label(tmp_path / "run", tmp_path / "rows.jsonl.gz", "--output", output)
    assert done.exit_code == 0, done.stderr
    with gzip.open(output, "rt") as file:
        rows = [json.loads(line) for line in file]
    assert [row["i"] for row in rows] == list(range(20))
    expected = [1 / (1 + math.exp(-2 * count)) for count in counts]
    assert [row["predicted_score"] for row in rows] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("rows.csv", "a,b\nfine,1\n", [], "has the columns a, b: name that of text with --column"),
        ("rows.csv", "a,b\nfine,1\n", ["--column", "aa"], "no column 'aa'; did you mean a?"),
        ("rows.csv", "a,b\nx,1\n", ["--column", "a", "--column", "b"], "--column names 2 columns"),
        ("rows.csv", "fine\ngood\n", [], "'fine': name it with --column, or add a header"),
        ("rows.jsonl", '{"body": "fine"}\n', [], "'body': name it with --column"),
        ("rows.csv", "text,text\nfine,1\n", [], "more than one column 'text'"),
        ("rows.csv", "text,n\nfine,1\na,b,c\n", [], "line 3 has 3 fields, the header 2"),
        ("rows.csv", 'text\nfine\n"open\n', [], "line 3 has a quote that is not closed"),
        ("rows.csv", "", [], "rows.csv is empty"),
        ("rows.csv", b"text\n\xff\xfe\n", [], "save it as UTF-8"),
        ("rows.csv", "text,predicted_label\nfine,1\n", [], "has a column predicted_label already"),
        ("rows.jsonl", '{"text": "a"}\n{"n": 1}\n', [], "line 2, has no 'text'; its keys are n"),
        ("rows.jsonl", '{"text": "a"}\n{"text": {}}\n', [], "line 2, column text, holds '{}'"),
        ("rows.jsonl", '{"text": "a"}\n{\n', [], "as json: line 2"),
        ("rows.jsonl", '{"text": "a"}\n{"n": %s}\n' % ("1" * 5000), [], "as json: line 2: Exceeds"),
        ("rows.jsonl", '{"text": "a"}\n' + "[" * 100_000, [], "line 2: it is nested too deeply"),
        (
            "rows.csv.gz",
            gzip.compress(LONG, mtime=0)[:10_000],
            [],
            "rows.csv.gz: Truncated compressed stream",
        ),
        (
            "rows.csv.gz",
            gzip.compress(LONG, mtime=0)[:12],
            [],
            "stream; write or download it again",
        ),
        ("rows.csv.bz2", bz2.compress(LONG)[:-9], [], "cannot read rows.csv.bz2: Truncated"),
        (
            "rows.parquet",
            BAD_TEXT,
            ["--output", "a.parquet"],
            "column text, from row 0 (from 0) on: 'utf-8' codec can't",
        ),
        ("rows.jsonl", '[{"text": "a"}]', [], "jq -c '.[]'"),
        ("rows.jsonl", "3\n", [], "line 1 is not an object"),
        ("rows.jsonl", '{"text": "\\ud800"}', [], "half of a surrogate pair"),
        ("rows.parquet", "PAR1", [], "cannot read"),
        ("rows.csv", "text\nfine\n", ["--output", "out.jsonl"], "answers are written as csv"),
        ("rows.csv", "text\nfine\n", ["--output", "out.xlsx"], "answers are written as csv"),
        ("rows.csv", "text\nfine\n", ["--output", "rows.csv"], "is the file that is read"),
        ("rows.csv", "text\nfine\n", ["--output", "no/out.csv"], "there is no folder no"),
        ("rows.csv", "text\nfine\n", ["--json"], "a file is written in its own format"),
        ("rows.csv", "a,b\nfine,1\n", ["--pairs"], "--pairs belongs to texts: name the columns"),
    ],
)
def test_mistakes_are_named(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str | bytes,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    done = label(run, name, *options)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert not Path("out.csv").exists()


def test_columns_of_words_are_found() -> None:
    assert chosen_columns(["words", "tags"], [], ["words"], False) == ["words"]
    assert chosen_columns(["tokens", "tags"], [], [], False) == ["tokens"]


def test_a_text_that_ends_like_a_file_is_a_text(run: Path) -> None:
    assert label(run, "I keep it in reviews.csv").exit_code == 0
    assert "there is no file nowhere.csv" in label(run, "nowhere.csv").stderr
    for option in ("--column", "--output", "--prefix"):
        assert f"{option} belongs to a csv" in label(run, "fine", option, "a.csv").stderr


def test_an_error_of_the_output_is_no_error_of_the_source(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a full disk, for which the command line has the fix."""

    def full(self: DelimitedWriter, *arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DelimitedWriter, "write", full)
    (tmp_path / "rows.csv").write_text("text\nfine\n")
    done = label(run, tmp_path / "rows.csv", "--output", tmp_path / "out.csv")
    assert "No space left on device; free some space" in done.stderr


def test_a_failure_leaves_no_output(run: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\n" + "fine\n" * 1100 + "a,b\n")
    done = label(run, tmp_path / "rows.csv", "--output", tmp_path / "out.csv")
    assert "line 1102 has 2 fields" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["rows.csv"]
