"""Files of every kind are read to the same rows, and a wrong kind is named as what it is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from sparsekit.data.columns import values
from sparsekit.data.conll import ConllDataset
from sparsekit.data.datasets import FileDataset
from sparsekit.data.delimited import CsvFormat
from sparsekit.data.file_blocks import file_blocks
from sparsekit.data.file_kinds import Kind
from sparsekit.data.origin import column_names, where
from sparsekit.data.readers import read_files
from sparsekit.data.schema import Column
from sparsekit.errors import UserError

ROWS = [
    {"text": 'good, "really"; a|b', "label": "01"},
    {"text": "two\nlines\tand a tab", "label": "1"},
    {"text": "naïve café", "label": "NA"},
]
NAMES = ("text", "label")
NEEDED = [Column("text", "dataset.text_columns"), Column("label", "dataset.label_column")]


def delimited(delimiter: str) -> bytes:
    def field(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [delimiter.join(NAMES)]
    lines += [delimiter.join(field(row[name]) for name in NAMES) for row in ROWS]
    return ("\n".join(lines) + "\n").encode()


def json_lines() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


def arrow(opened: Callable[[io.BytesIO, pa.Schema], pa.RecordBatchWriter]) -> bytes:
    table, sink = pa.Table.from_pylist(ROWS), io.BytesIO()
    with opened(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


CONTENTS = {
    "rows.csv": delimited(","),
    "rows.tsv": delimited("\t"),
    "semicolons.csv": delimited(";"),
    "bars.txt": delimited("|"),
    "rows.jsonl": json_lines(),
    "rows.json": json.dumps(ROWS).encode(),
    "indented.json": json.dumps(ROWS, indent=2).encode(),
    "rows.parquet": parquet(),
    "rows.arrow": arrow(pa.ipc.new_file),
    "stream.arrow": arrow(pa.ipc.new_stream),
    # What it holds counts, not its name.
    "jsonlines.data": json_lines(),
    "tabs.csv": delimited("\t"),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstd,
    ".bz2": bz2.compress,
}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("name", CONTENTS)
def test_every_kind_gives_the_same_rows(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](CONTENTS[name]))
    rows = read_files(path, NEEDED)
    assert column_names(rows) == list(NAMES)
    assert rows.select_columns(list(NAMES)).to_list() == ROWS


@pytest.mark.parametrize("first", ["[1] first", "{} braces", '{"a": 1} object', "[]", '["a"'])
@pytest.mark.parametrize("kind", [None, "csv"])
def test_a_csv_may_begin_with_a_bracket(tmp_path: Path, first: str, kind: Kind | None) -> None:
    path = tmp_path / "rows"
    path.write_text(f"{first}\tx\nsecond\ty\n")
    form = CsvFormat(columns=NAMES, quotes=False, delimiter="\t")
    assert read_files(path, NEEDED, kind, form)["text"][:] == [first, "second"]


def test_a_path_may_hold_braces_and_commas(tmp_path: Path) -> None:
    folder = tmp_path / "a, b {1} {} {x"
    folder.mkdir()
    path = folder / "rows.jsonl"
    path.write_text('{"text": "\\ud83d", "label": 1}\n')
    with pytest.raises(UserError, match=re.escape(f"{path}, line 1: column 'text' holds")):
        read_files(path, NEEDED)
    path.write_text('{"text": "a", "label": 1}\n')
    assert where(read_files(path, NEEDED), [0]) == f"{path}, line 1"
    pq.write_table(pa.table({"text": [1], "label": ["x"]}), folder / "rows.parquet")
    with pytest.raises(UserError, match=re.escape(f"{path} and {folder / 'rows.parquet'} hold")):
        read_files(folder, NEEDED)


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.csv").write_text("text,label\na,x\n")
    (tmp_path / "rows.conll").write_text("a O\n")
    files = FileDataset(data_files={"train": "~/rows.csv"})
    assert files.raw(NEEDED)["train"]["text"][:] == ["a"]
    assert next(files.blocks(NEEDED, 1))["text"][:] == ["a"]
    words = [Column("words", "key", lists=True), Column("tags", "key", lists=True)]
    conll = ConllDataset(data_files={"train": "~/rows.conll"})
    assert conll.raw(words)["train"]["words"][:] == [["a"]]
    before = files.files_hash(), files.train_hash(), conll.files_hash()
    (tmp_path / "rows.csv").write_text("text,label\nb,x\n")
    (tmp_path / "rows.conll").write_text("b O\n")
    after = files.files_hash(), files.train_hash(), conll.files_hash()
    assert not {*before} & {*after}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_of_unknown_types_are_left_out(tmp_path: Path, kind: str, streamed: bool) -> None:
    """`datasets` has no type for a map; one that the task reads is named."""
    path = tmp_path / f"rows.{kind}"
    table = pa.Table.from_pylist(ROWS)
    kept = pa.array([[("k", "v")]] * 3, pa.map_(pa.string(), pa.string()))
    table = table.add_column(0, "first", kept).append_column("last", kept)
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    def read(columns: list[Column]) -> Dataset:
        return next(file_blocks(path, columns, 3)) if streamed else read_files(path, columns)

    assert read(NEEDED).select_columns(list(NAMES)).to_list() == ROWS
    with pytest.raises(UserError, match=r"column 'last' holds map<.*>, a type that is not read"):
        read([*NEEDED, Column("last", "dataset.text_columns")])


def test_a_row_is_found_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n\na,1\n"b\nc",2\n\nd,3\n')
    rows = read_files(path, NEEDED)
    assert [where(rows, [index]) for index in range(3)] == [
        f"{path}, line {line}" for line in (3, 4, 7)
    ]
    assert where(rows, [0, 2]) == f"{path}, lines 3, 7"
    kept = rows.filter(lambda row: row["label"] != "1")
    assert where(kept, [0]) == f"{path}, line 4"
    path.write_text("text,label\n" + "a,1\n" * 20)
    assert where(read_files(path, NEEDED), range(20)) == f"{path}, lines 2, 3, 4, 5, 6 and 15 more"


def test_a_folder_of_files_is_one_split(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"text": "c", "label": 1}\n')
    (tmp_path / "a.csv").write_text("text,label\na,1\nb,2\n")
    (tmp_path / ".hidden").write_text("no data")
    rows = read_files(tmp_path, NEEDED)
    assert list(values(rows, "text")) == ["a", "b", "c"]
    assert where(rows, [2]) == f"{tmp_path / 'b.jsonl'}, line 1"
    assert where(rows, [0, 1, 2]) == f"{tmp_path / 'a.csv'}, lines 2, 3 and 1 more"


def test_folders_that_hold_no_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no files"):
        read_files(tmp_path, NEEDED)
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"holds the folders train; .*data_files\.train="):
        read_files(tmp_path, NEEDED)


def test_arrow_folders_keep_their_class_names(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]})
    rows = rows.cast_column("label", ClassLabel(names=["no", "yes"]))
    rows.save_to_disk(str(tmp_path / "one"))
    read = read_files(tmp_path / "one", NEEDED)
    assert read.features["label"].names == ["no", "yes"]
    assert where(read, [1]) == f"{tmp_path / 'one'}, row 1 (from 0)"
    DatasetDict(train=rows, test=rows).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(UserError, match=r"holds the splits train, test; .*both.train"):
        read_files(tmp_path / "both", NEEDED)
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(UserError, match="write or download it again"):
        read_files(tmp_path / "one", NEEDED)


def test_repeated_texts_of_parquet_are_plain_texts(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    labels = pa.array(["x", "y", "x"]).dictionary_encode()
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": labels}), path)
    assert list(values(read_files(path, NEEDED), "label")) == ["x", "y", "x"]


def test_a_file_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("1;good, really;pos\n2;bad;neg\n")
    with pytest.raises(UserError, match=r"has no column text, label.*dataset.columns=\[column1,"):
        read_files(path, NEEDED)
    form = CsvFormat(columns=["id", "text", "label"])
    rows = read_files(path, NEEDED, form=form)
    assert list(values(rows, "text")) == ["good, really", "bad"]
    assert where(rows, [0]) == f"{path}, line 1"
    path.write_text("id,text,label\n1,good,pos\n")
    with pytest.raises(UserError, match=r"has a header, line 1, .*leave that key out"):
        read_files(path, NEEDED, form=form)


@pytest.mark.parametrize(
    ("key", "header"),
    [("dataset.label_column", "text,score"), ("dataset.text_columns", "review,label")],
)
def test_the_key_of_the_missing_column_is_named(tmp_path: Path, key: str, header: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\na,1\n")
    with pytest.raises(UserError, match=rf"; set {key}; for a file without a header"):
        read_files(path, NEEDED)
    path = tmp_path / "rows.json"
    wrong = {column.name: [] if column.key == key else "a" for column in NEEDED}
    path.write_text(json.dumps(wrong))
    with pytest.raises(UserError, match=rf"holds lists or objects, .*; set {key} to a column"):
        read_files(path, NEEDED)


def test_quotes_that_are_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\n"so good\t1\n5" wide\t0\n')
    with pytest.raises(UserError, match=r"set dataset\.quotes=false"):
        read_files(path, NEEDED)
    rows = read_files(path, NEEDED, form=CsvFormat(quotes=False))
    assert list(values(rows, "text")) == ['"so good', '5" wide']


def test_a_delimiter_is_found_by_the_needed_columns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a, b; text ;label\nx, y;well;1\n")
    rows = read_files(path, NEEDED)
    assert list(values(rows, "text")) == ["well"]
    assert "fields are separated by semicolons" in caplog.text
    set_by_hand = read_files(
        path, [Column("b; text ;label", "dataset.text_columns")], form=CsvFormat(delimiter=",")
    )
    assert column_names(set_by_hand) == ["a", "b; text ;label"]


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        (CsvFormat(delimiter="::"), "'::' must be one character"),
        (CsvFormat(delimiter='"'), "must be one character"),
        (CsvFormat(columns=["a", "a"]), "must name each column of the file once"),
        (CsvFormat(columns=[]), "must name each column of the file once"),
    ],
)
def test_values_that_describe_no_file(form: CsvFormat, problem: str) -> None:
    (found,) = form.problems()
    assert problem in found


def archive(name: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as made:
        made.writestr(name, "text,label\n")
    return sink.getvalue()


def tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as made:
        made.addfile(tarfile.TarInfo("rows.csv"))
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (archive("xl/workbook.xml"), r"an Excel workbook \(xlsx\); save the table as csv"),
        (archive("rows.csv"), r"a zip archive with rows\.csv; unpack it"),
        (tar(), "a tar archive; unpack it"),
        (b"%PDF-1.7", "a PDF document"),
        (b"SQLite format 3\x00", "a SQLite database"),
        (b"ORC\x11\x00\x00\n\x12", "an ORC file; save it as parquet"),
        (b"Rar!\x1a\x07\x01\x00", "a RAR archive; unpack it"),
        ("text,label\na,1\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html>", "a web page; download the data itself"),
        (pickle.dumps(ROWS), "a Python pickle, which may run code"),
        (b"\n \n", "is empty"),
        (gzip.compress(b"text,label\n" * 9999)[:60], "must be readable and whole"),
        (CONTENTS["rows.parquet"][:100], "as parquet: .*write or download it again"),
        (CONTENTS["stream.arrow"][:100], "as Arrow: .*write or download it again"),
    ],
    # Archives hold the time at which they were made, and processes must name a test alike.
    ids=lambda value: "content" if isinstance(value, bytes) else value,
)
def test_a_wrong_kind_is_named_as_what_it_is(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=problem):
        read_files(path, NEEDED)


@pytest.mark.parametrize(
    "first", ["orcid", "ORC", "PAR1", "ARROW1", "rar!", "Rar!", "obj", "%pdf", "SQLite format 3"]
)
def test_a_header_that_begins_as_a_binary_file_does(tmp_path: Path, first: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{first},text,label\n1,good,a\n2,bad,b\n")
    assert list(values(read_files(path, NEEDED), "text")) == ["good", "bad"]


def test_markup_is_known_in_any_case_and_after_blanks(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for content, problem in (("\n <HTML>", "a web page"), ("<?XML version", "an XML file")):
        path.write_text(content)
        with pytest.raises(UserError, match=problem):
            read_files(path, NEEDED)


@pytest.mark.parametrize("columns", [NEEDED, [Column("text", "key", lists=True)]])
def test_half_of_a_character_is_named_with_its_line(tmp_path: Path, columns: list[Column]) -> None:
    path = tmp_path / "rows.jsonl"
    text = json.dumps("cut \ud83d" if columns is NEEDED else ["whole", "cut \ud83d"])
    path.write_text(f'{{"text": "\U0001f600", "label": 1}}\n{{"text": {text}, "label": 1}}\n')
    if columns is not NEEDED:
        path.write_text(path.read_text().replace('"\U0001f600"', '["\U0001f600"]'))
    place = f"{re.escape(str(path))}, line 2: column 'text' holds '.ud83d'"
    with pytest.raises(UserError, match=place):
        read_files(path, columns)
    with pytest.raises(UserError, match=place):
        list(file_blocks(path, columns, 10))


@pytest.mark.parametrize(
    ("kind", "name", "problem"),
    [
        ("csv", "rows.parquet", "is a parquet file, not csv; set dataset=files"),
        ("csv", "rows.jsonl", "is a json file, not csv; set dataset=json"),
        ("csv", "indented.json", "is a json file, not csv; set dataset=json"),
        ("json", "rows.arrow", "is an Arrow file, not json"),
        ("parquet", "rows.csv", "is not a parquet file: it begins with b'text,label"),
    ],
)
def test_a_kind_other_than_the_one_named(
    tmp_path: Path, kind: str, name: str, problem: str
) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[name])
    with pytest.raises(UserError, match=problem):
        read_files(path, NEEDED, kind)


def test_files_whose_columns_differ_in_type(tmp_path: Path) -> None:
    for name, labels in (("a.parquet", [1, 2]), ("b.parquet", ["x", "y"])):
        pq.write_table(pa.table({"text": ["a", "b"], "label": labels}), tmp_path / name)
    with pytest.raises(UserError, match="hold columns of different types"):
        read_files(tmp_path, NEEDED)
