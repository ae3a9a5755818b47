"""Which rows are used, and for which split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from csv_files import write_csv
from datasets import ClassLabel, Dataset, DatasetDict

from sparsekit.data.columns import values
from sparsekit.data.datasets import FileDataset, check_splits
from sparsekit.data.origin import where
from sparsekit.data.schema import Column
from sparsekit.data.selection import ReadRows, RowSelection, SelectedRows
from sparsekit.errors import ConfigError, UserError
from sparsekit.tasks.text_classification import TextClassification

COLUMNS = [
    Column("text", "dataset.text_columns"),
    Column("more", "dataset.text_columns", role="optional text"),
    Column("label", "dataset.label_column", role="class"),
]


def applied(raw: Mapping[str, Dataset], **settings: Any) -> DatasetDict:
    return SelectedRows(ReadRows(DatasetDict(raw)), RowSelection(**settings)).raw(COLUMNS)


def rows(texts: list[str | None], labels: list[Any]) -> Dataset:
    return Dataset.from_dict({"text": texts, "more": [None] * len(texts), "label": labels})


TRAIN = rows([f"ticket {i}" for i in range(200)], ["a", "b", "c", "C "] * 50)


def texts_of(split: Dataset) -> list[str]:
    return list(values(split, "text"))


def test_a_share_of_each_class_becomes_validation(caplog: pytest.LogCaptureFixture) -> None:
    splits = applied({"train": TRAIN})
    assert {split: len(each) for split, each in splits.items()} == {"train": 180, "validation": 20}
    labels = [label.strip().lower() for label in splits["validation"]["label"]]
    assert sorted(labels) == ["a"] * 5 + ["b"] * 5 + ["c"] * 10
    assert set(texts_of(splits["train"])).isdisjoint(texts_of(splits["validation"]))
    assert "validation is 20 of the 200 training rows" in caplog.text


def test_a_test_split_changes_little_of_the_validation_split() -> None:
    without = set(texts_of(applied({"train": TRAIN})["validation"]))
    splits = applied({"train": TRAIN}, test_fraction=0.1)
    assert len(splits["test"]) == 20
    assert len(without & set(texts_of(splits["validation"]))) >= 15
    other = applied({"train": TRAIN}, test_fraction=0.1, split_seed=1)
    assert texts_of(other["test"]) != texts_of(splits["test"])


def test_splits_that_are_there_are_left_alone() -> None:
    given = {"train": TRAIN, "validation": rows(["x"], ["a"]), "test": rows(["y"], ["b"])}
    splits = applied(given, test_fraction=0.3)
    assert [len(splits[split]) for split in given] == [200, 1, 1]
    assert set(applied({"train": TRAIN}, validation_fraction=0.0)) == {"train"}


def test_rows_keep_their_lines(tmp_path: Path) -> None:
    made = [{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(20)]
    path = write_csv(tmp_path / "train.csv", made)
    source = FileDataset(data_files={"train": str(path)})
    splits = SelectedRows(source, RowSelection(drop_labels=["a"])).raw([COLUMNS[0], COLUMNS[2]])
    for split in splits.values():
        for index, text in enumerate(texts_of(split)):
            assert where(split, [index]) == f"{path}, line {int(text.split()[1]) + 2}"


def test_empty_rows_are_left_out_with_their_places(caplog: pytest.LogCaptureFixture) -> None:
    raw = {"train": rows(["a", " ", None, "d", "e"], ["x", "x", "x", None, " "])}
    splits = applied(raw, drop_empty=True, validation_fraction=0.0)
    assert texts_of(splits["train"]) == ["a"]
    assert "4 rows are left out: split 'train', rows 1, 2, 3, 4 (from 0)" in caplog.text
    assert len(applied(raw, validation_fraction=0.0)["train"]) == 5


@pytest.mark.parametrize(
    ("dropped", "kept"),
    [([-1], ["x", "2", None]), (["x", 2], ["-1", None]), ([None], ["x", "-1", "2"])],
)
def test_labels_are_left_out(dropped: list[Any], kept: list[Any]) -> None:
    raw = {"train": rows(["a", "b", "c", "d"], ["x", "-1", "2", None])}
    splits = applied(raw, drop_labels=dropped, validation_fraction=0.0)
    assert list(values(splits["train"], "label")) == kept


@pytest.mark.parametrize(
    ("settings", "dropped", "left"),
    [
        ({"label_case": "ignore"}, ["Spam"], ["ham", "eggs"]),
        ({"label_case": "keep"}, ["Spam"], ["spam", "ham", "eggs"]),
        ({"label_case": "keep", "strip_labels": False}, [" x"], ["x", "y"]),
        ({}, [" x"], ["y"]),
    ],
)
def test_labels_are_left_out_as_the_task_compares_them(
    settings: dict[str, Any], dropped: list[str], left: list[str]
) -> None:
    """So that the rows of a class are all left out, whatever their spelling."""
    labels = [" x", "x", "y"] if dropped == [" x"] else ["Spam", "spam", "ham", "eggs"]
    train = rows([f"text {i}" for i in range(len(labels))], labels)
    task = TextClassification(**settings)
    selection = RowSelection(drop_labels=list(dropped), validation_fraction=0.0)
    kept = selection.applied({"train": train}, task.columns())["train"]
    assert list(values(kept, "label")) == left


def test_unlabelled_rows_as_in_snli_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    feature = ClassLabel(names=["yes", "maybe", "no"])
    train = rows(["a", "b", "c", "d"], [0, -1, 2, 1]).cast_column("label", feature)
    splits = applied({"train": train, "validation": train}, drop_labels=[-1, "absent"])
    assert splits["train"].features["label"].names == ["yes", "maybe", "no"]
    assert list(values(splits["validation"], "label")) == [0, 2, 1]
    assert "no row has the label absent" in caplog.text


@pytest.mark.parametrize("dropped", ["maybe", 1])
def test_a_class_that_is_left_out_has_no_name(dropped: str | int) -> None:
    feature = ClassLabel(names=["yes", "maybe", "no"])
    train = rows(["a", "b", "c"], [0, 1, 2]).cast_column("label", feature)
    splits = applied({"train": train, "validation": train}, drop_labels=[dropped])
    assert splits["train"].features["label"].names == ["yes", "no"]
    assert list(values(splits["train"], "label")) == [0, 1]


def test_training_rows_that_are_also_evaluated_are_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    raw = {
        "train": rows(["One!", "two", "three", "four"], ["a", "b", "a", "b"]),
        "validation": rows(["one", "five"], ["a", "b"]),
        "test": rows(["THREE"], ["a"]),
    }
    splits = applied(raw, drop_leaked=True)
    assert texts_of(splits["train"]) == ["two", "four"]
    assert [len(splits[split]) for split in ("validation", "test")] == [2, 1]
    assert "2 training rows, also in validation or test" in caplog.text
    assert len(applied(raw)["train"]) == 4


def test_near_duplicates_of_evaluated_rows_are_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ticket = "the parcel was sent on monday and it did not arrive by friday"
    raw = {
        "train": rows([f"FW: {ticket}", "one", "two", ticket], ["a", "b", "a", "b"]),
        "validation": rows([f"{ticket}!", "new"], ["a", "b"]),
        "test": rows(["One"], ["b"]),
    }
    assert texts_of(applied(raw, drop_leaked=True)["train"]) == [f"FW: {ticket}", "two"]
    caplog.clear()
    assert texts_of(applied(raw, drop_leaked="near")["train"]) == ["two"]
    assert "3 training rows, also or nearly in validation or test" in caplog.text


def test_a_fraction_of_too_few_rows_is_refused() -> None:
    few = SelectedRows(
        ReadRows(DatasetDict(train=rows(["a", "b"], ["ham", "spam"]))), RowSelection()
    )
    with pytest.raises(UserError, match=r"validation_fraction=0\.1 of 2 rows is none; set dataset"):
        few.raw(COLUMNS)


def test_what_has_no_effect_or_leaves_nothing_is_refused() -> None:
    raw = DatasetDict(train=TRAIN, validation=TRAIN, test=rows(["x"], ["spam"]))
    selected = SelectedRows(ReadRows(raw), RowSelection(drop_labels=["spam"]))
    with pytest.raises(ConfigError, match="is for rows with one class each"):
        selected.raw(COLUMNS[:2])
    with pytest.raises(ConfigError, match="split 'test' has no rows"):
        check_splits(selected.raw(COLUMNS))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"validation_fraction": 1.5}, "dataset.validation_fraction is 1.5; set a share from 0"),
        ({"test_fraction": -0.1}, "dataset.test_fraction is -0.1"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "too few rows to train on"),
    ],
)
def test_shares_that_cannot_be(settings: dict[str, float], problem: str) -> None:
    (found,) = RowSelection(**settings).problems()  # type: ignore[arg-type]
    assert problem in found


def test_a_class_named_like_a_number_is_dropped_by_its_name() -> None:
    """Class "2" is stored as 1, and is not meant by "1"."""
    stars = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 2]}).cast_column(
        "label", ClassLabel(names=["1", "2", "3"])
    )
    left = applied({"train": stars, "validation": stars}, drop_labels=["1"])["train"]
    assert left.features["label"].names == ["2", "3"]
    assert list(left["text"]) == ["b", "c"]


def test_both_fractions_are_of_all_training_rows(caplog: pytest.LogCaptureFixture) -> None:
    splits = applied({"train": TRAIN}, test_fraction=0.4, validation_fraction=0.4)
    assert len(splits["test"]) == len(splits["validation"])
    assert len(splits["validation"]) == pytest.approx(0.4 * len(TRAIN), abs=2)
    for split in ("test", "validation"):
        assert f"{split} is {len(splits[split])} of the 200 training rows" in caplog.text
