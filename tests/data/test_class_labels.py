"""Classes stored as numbers beside their names, in another order in each split and file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value

from sparsekit.data.columns import values
from sparsekit.data.file_blocks import file_blocks
from sparsekit.data.filters import without_labels
from sparsekit.data.label_sets import indicators_of_lists
from sparsekit.data.labels import number_labels
from sparsekit.data.readers import read_files
from sparsekit.data.schema import Column
from sparsekit.data.tags import number_tags
from sparsekit.data.tokenized import class_names
from sparsekit.errors import ConfigError, UserError
from sparsekit.tasks.labelled import check_token_labels

TEXTS = ["good", "bad"]
ONE_ORDER, OTHER_ORDER = ["neg", "pos"], ["pos", "neg"]
COLUMNS = [Column("text", "dataset.text_columns"), Column("label", "dataset.label_column")]


def labelled(order: list[str] | None, labels: list[Any]) -> Dataset:
    label = ClassLabel(names=order) if order else Value("int64")
    features = Features({"text": Value("string"), "label": label})
    return Dataset.from_dict({"text": TEXTS, "label": labels}, features=features)


def tagged(order: list[str] | None, tags: list[Any]) -> Dataset:
    inner = ClassLabel(names=order) if order else Value("int64")
    features = Features({"tokens": List(Value("string")), "tags": List(inner)})
    return Dataset.from_dict({"tokens": [["Bob", "left"]], "tags": [tags]}, features=features)


def test_each_split_is_read_by_its_own_names() -> None:
    raw = {
        "train": labelled(ONE_ORDER, ["pos", "neg"]),
        "validation": labelled(OTHER_ORDER, ["pos", "neg"]),
        "test": Dataset.from_dict({"text": TEXTS, "label": ["pos", "neg"]}),
    }
    names, labels = number_labels(raw, "label")
    assert names == ONE_ORDER
    assert labels == {split: [1, 0] for split in raw}


def test_numbers_without_names_are_refused_where_train_has_names() -> None:
    raw = {"train": labelled(ONE_ORDER, [0, 1]), "validation": labelled(None, [0, 1])}
    with pytest.raises(ConfigError, match=r"'0' is never seen .* neg, pos; .*ClassLabel\(names="):
        number_labels(raw, "label")


def test_tags_are_read_by_the_names_of_their_split() -> None:
    raw = {
        "train": tagged(["O", "B-PER"], ["B-PER", "O"]),
        "validation": tagged(["B-PER", "O"], ["B-PER", "O"]),
    }
    assert number_tags(raw, "tokens", "tags")[1] == {"train": [[1, 0]], "validation": [[1, 0]]}
    raw["validation"] = tagged(None, [1, 0])
    with pytest.raises(ConfigError, match=r"never seen in train, which has O, B-PER.*tag_names"):
        number_tags(raw, "tokens", "tags")
    names = ["O", "B-PER"]
    assert number_tags(raw, "tokens", "tags", names)[1]["validation"] == [[1, 0]]


def test_other_names_than_those_of_the_tags_are_refused() -> None:
    order = ["O", "B-PER"]
    raw = {"train": tagged(order, ["B-PER", "O"]), "validation": tagged(order, ["O", "O"])}
    assert number_tags(raw, "tokens", "tags", order)[0] == order
    with pytest.raises(ConfigError, match=r"tag_names is O, B-LOC, but .* names its tags O, B-PER"):
        number_tags(raw, "tokens", "tags", ["O", "B-LOC"])


def test_a_dropped_number_is_the_class_of_train_everywhere() -> None:
    raw = {
        "train": labelled(["neg", "pos", "other"], ["other", "neg"]),
        "validation": labelled(["other", "pos", "neg"], ["other", "neg"]),
    }
    kept = without_labels(raw, Column("label", "key", role="class"), [2])
    assert {split: list(rows["text"]) for split, rows in kept.items()} == {
        "train": ["bad"],
        "validation": ["bad"],
    }


@pytest.mark.parametrize("streamed", [False, True])
def test_files_of_a_folder_are_read_by_their_own_names(tmp_path: Path, streamed: bool) -> None:
    labelled(ONE_ORDER, ["pos", "neg"]).to_parquet(str(tmp_path / "a.parquet"))
    labelled([*OTHER_ORDER, "other"], ["pos", "other"]).to_parquet(str(tmp_path / "b.parquet"))
    (rows,) = file_blocks(tmp_path, COLUMNS, 10) if streamed else [read_files(tmp_path, COLUMNS)]
    names = rows.features["label"].names
    assert names == ["neg", "pos", "other"]
    assert [names[label] for label in values(rows, "label")] == ["pos", "neg", "pos", "other"]


def test_files_of_lists_are_read_by_their_own_names(tmp_path: Path) -> None:
    tagged(["O", "B-PER"], ["B-PER", "O"]).to_parquet(str(tmp_path / "a.parquet"))
    tagged(["B-PER", "O"], ["B-PER", "O"]).to_parquet(str(tmp_path / "b.parquet"))
    columns = [Column(name, "key", lists=True) for name in ("tokens", "tags")]
    assert list(values(read_files(tmp_path, columns), "tags")) == [[1, 0], [1, 0]]


def test_a_folder_whose_files_name_classes_only_here_and_there(tmp_path: Path) -> None:
    labelled(None, [0, 1]).to_parquet(str(tmp_path / "a.parquet"))
    labelled(ONE_ORDER, [0, 1]).to_parquet(str(tmp_path / "b.parquet"))
    with pytest.raises(UserError, match=r"names in .*b.parquet and .* without names in .*a.parq"):
        read_files(tmp_path, COLUMNS)


def test_large_lists_are_lists(tmp_path: Path) -> None:
    """As polars writes them."""
    large = pa.large_list(pa.large_string())
    path = tmp_path / "rows.parquet"
    pq.write_table(
        pa.table({"tokens": pa.array([["A", "b"]], large), "tags": pa.array([["O", "X"]], large)}),
        path,
    )
    columns = [Column("tokens", "key", lists=True), Column("tags", "key", lists=True)]
    raw = {"train": read_files(path, columns)}
    assert number_tags(raw, "tokens", "tags") == (["O", "X"], {"train": [[0, 1]]})
    assert indicators_of_lists(raw, "tags")[0] == ["O", "X"]
    labels = LargeList(ClassLabel(names=["O", "X"]))
    features = Features({"input_ids": LargeList(Value("int32")), "labels": labels})
    rows = Dataset.from_dict({"input_ids": [[5, 6]], "labels": [[0, 1]]}, features=features)
    assert class_names(rows) == ["O", "X"]
    check_token_labels(rows, "train_dataset", "labels")


def test_rows_without_any_label_are_refused() -> None:
    rows = Dataset.from_dict({"input_ids": [[5, 6], [7]], "labels": [[-100, -100], [-100]]})
    with pytest.raises(UserError, match="train_dataset, column tags has no label: every token is"):
        check_token_labels(rows, "train_dataset", "tags")


@pytest.mark.parametrize("tag", [None, " "])
def test_a_tag_that_is_empty_is_a_problem_of_its_row(tag: str | None) -> None:
    rows = Dataset.from_dict({"tokens": [["a"], ["a", "b"]], "tags": [["X"], ["Y", tag]]})
    with pytest.raises(ConfigError, match=r"'train', row 1 .*: column 'tags' holds an empty tag"):
        number_tags({"train": rows}, "tokens", "tags")
