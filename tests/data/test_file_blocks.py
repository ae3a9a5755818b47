"""Files read block by block hold the rows, and the places of rows, that they hold as a table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, concatenate_datasets
from test_readers import COMPRESSIONS, CONTENTS, NAMES, NEEDED, ROWS

from sparsekit.data.file_blocks import file_blocks
from sparsekit.data.origin import where
from sparsekit.data.readers import read_files
from sparsekit.errors import ConfigError, UserError

WHOLE = {"rows.json", "indented.json"}
UNPACKED = {"rows.parquet", "rows.arrow", "stream.arrow"}
STREAMED = [
    (name, suffix)
    for name in CONTENTS
    for suffix in COMPRESSIONS
    if name not in WHOLE and not (suffix and name in UNPACKED)
]


@pytest.mark.parametrize(("name", "suffix"), STREAMED)
def test_blocks_are_the_table_in_parts(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](CONTENTS[name]))
    blocks = list(file_blocks(path, NEEDED, 2))
    assert [len(block) for block in blocks] == [2, 1]
    table = read_files(path, NEEDED)
    rows = [row for block in blocks for row in block.select_columns(list(NAMES)).to_list()]
    assert rows == ROWS
    places = [where(block, [index]) for block in blocks for index in range(len(block))]
    assert places == [where(table, [index]) for index in range(3)]


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_list_of_objects_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(CONTENTS[name])
    with pytest.raises(UserError, match=r"one object a line \(jsonl\)"):
        next(file_blocks(tmp_path / name, NEEDED, 2))


@pytest.mark.parametrize("name", sorted(UNPACKED))
def test_compressed_tables_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.gz"
    path.write_bytes(COMPRESSIONS[".gz"](CONTENTS[name]))
    with pytest.raises(UserError, match="without unpacking it; decompress it"):
        next(file_blocks(path, NEEDED, 2))


def test_blocks_cross_the_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + f"{name},1\n" * 3)
    blocks = list(file_blocks(tmp_path, NEEDED, 4))
    assert [len(block) for block in blocks] == [6]
    assert where(blocks[0], [4]) == f"{tmp_path / 'b.csv'}, line 3"


@pytest.mark.parametrize("size", [3, 4, 100])
def test_a_block_may_hold_several_pieces_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(f"{file_blocks.__module__}.BATCH", 2)
    table = pa.table({"text": list("abcdefg"), "label": ["x"] * 7})
    folder = tmp_path / "rows"
    folder.mkdir()
    with (folder / "0.csv").open("w") as file:
        file.write("text,label\n" + "".join(f"{text},x\n" for text in "abcdefg"))
    with pa.OSFile(str(folder / "1.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as f:
        f.write_table(table, max_chunksize=1)
    pq.write_table(table, folder / "2.parquet")
    blocks = list(file_blocks(folder, NEEDED, size))
    assert [len(block) >= size for block in blocks[:-1]] == [True] * (len(blocks) - 1)
    assert [text for block in blocks for text in block["text"]] == list("abcdefg") * 3
    whole = read_files(folder, NEEDED)
    assert [where(block, [i]) for block in blocks for i in range(len(block))] == [
        where(whole, [i]) for i in range(21)
    ]


def test_arrow_folders_are_read_in_parts(tmp_path: Path) -> None:
    rows = Dataset.from_list([{"text": str(i), "label": i} for i in range(5)])
    rows.save_to_disk(str(tmp_path / "rows"))
    blocks = list(file_blocks(tmp_path / "rows", NEEDED, 2))
    assert concatenate_datasets(blocks)["label"][:] == [0, 1, 2, 3, 4]
    assert where(blocks[2], [0]) == f"{tmp_path / 'rows'}, row 4 (from 0)"


def test_only_the_columns_of_the_task_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a"], "label": ["x"], "body": ["long"]}), path)
    assert "body" not in next(file_blocks(path, NEEDED, 2)).column_names


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("words,label\na,1\n")
    with pytest.raises(ConfigError, match="has no column text; it has words, label"):
        next(file_blocks(path, NEEDED, 2))
    path.write_bytes(CONTENTS["rows.parquet"][:-8])
    with pytest.raises(UserError, match=r"as parquet: .*write or download it again"):
        next(file_blocks(path, NEEDED, 2))
    path.write_bytes(b"text,label\n" + b"a,1\n" * 5 + b"\xff,1\n")
    reading = file_blocks(path, NEEDED, 2)
    with pytest.raises(UserError, match=r"csv, line 7: the byte 0xff is not UTF-8; save it"):
        list(reading)
    path.write_text("")
    with pytest.raises(UserError, match="is empty"):
        next(file_blocks(path, NEEDED, 2))
