"""Notes of `datasets` in files that other tools, or a later version of it, have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparsekit.data.columns import values
from sparsekit.data.label_sets import indicators_of_lists
from sparsekit.data.readers import read_files
from sparsekit.data.schema import Column
from sparsekit.errors import UserError

COLUMNS = [Column("text", "dataset.text_columns"), Column("label", "dataset.label_column")]
CLASSES = {"names": ["neg", "pos"], "_type": "ClassLabel"}


def written(folder: Path, label: pa.Array, notes: Any, nullable: bool = True) -> Path:
    path = folder / "rows.parquet"
    fields = [pa.field("text", pa.string()), pa.field("label", label.type, nullable=nullable)]
    text = notes if isinstance(notes, str) else json.dumps({"info": {"features": notes}})
    schema = pa.schema(fields, metadata={"huggingface": text})
    pq.write_table(pa.table([pa.array(["good", "bad"]), label], schema=schema), path)
    return path


@pytest.mark.parametrize("nullable", [True, False])
@pytest.mark.parametrize("kind", ["int64", "int32", "uint8"])
def test_classes_keep_their_names_whatever_integers_hold_them(
    kind: str, nullable: bool, tmp_path: Path
) -> None:
    label = pa.array([1, 0], getattr(pa, kind)())
    read = read_files(written(tmp_path, label, {"label": CLASSES}, nullable), COLUMNS)
    assert read.features["label"].names == ["neg", "pos"]
    assert list(values(read, "label")) == [1, 0]


def test_lists_of_classes_keep_their_names(tmp_path: Path) -> None:
    label = pa.array([[1, 0], []], pa.list_(pa.int32()))
    notes = {"label": {"feature": CLASSES, "_type": "List"}}
    read = read_files(written(tmp_path, label, notes), COLUMNS)
    assert indicators_of_lists({"train": read}, "label", None)[0] == ["neg", "pos"]


def test_a_stale_note_counts_for_nothing(tmp_path: Path) -> None:
    label = pa.array(["pos", "neg"])
    read = read_files(written(tmp_path, label, {"label": CLASSES}), COLUMNS)
    assert list(values(read, "label")) == ["pos", "neg"]


def test_a_feature_of_a_later_version_matters_only_in_a_column_that_is_read(tmp_path: Path) -> None:
    later = {"_type": "FeatureOfTomorrow"}
    path = written(tmp_path, pa.array([1, 0]), {"label": CLASSES, "other": later})
    assert read_files(path, COLUMNS).features["label"].names == ["neg", "pos"]
    with pytest.raises(UserError, match=r"notes of `datasets` of column 'label' .*FeatureOfTomor"):
        read_files(written(tmp_path, pa.array([1, 0]), {"label": later}), COLUMNS)


@pytest.mark.parametrize("notes", ["{", "[]", '{"info": {"features": 3}}'])
def test_notes_that_are_none_are_refused(notes: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows\.parquet holds notes of `datasets` of its columns"):
        read_files(written(tmp_path, pa.array([1, 0]), notes), COLUMNS)


def test_views_of_texts_are_texts(tmp_path: Path) -> None:
    """As polars writes them to Arrow files."""
    path = tmp_path / "rows.arrow"
    table = pa.table({"text": ["a", "b"], "label": pa.array(["x,y", "y"], pa.string_view())})
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)
    read = read_files(path, COLUMNS)
    assert indicators_of_lists({"train": read}, "label", ",")[0] == ["x", "y"]


def test_blanks_around_the_names_of_classes_are_left_out(tmp_path: Path) -> None:
    classes = {"names": ["joy", " love"], "_type": "ClassLabel"}
    label = pa.array([[1], [0, 1]], pa.list_(pa.int64()))
    notes = {"label": {"feature": classes, "_type": "List"}}
    read = read_files(written(tmp_path, label, notes), COLUMNS)
    names, sets = indicators_of_lists({"train": read}, "label", None)
    assert names == ["joy", "love"] and [list(row) for row in sets["train"]] == [[0, 1], [1, 1]]
