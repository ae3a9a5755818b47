"""Data in one form, whatever it came from, and every way in which it can be wrong."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from csv_files import write_csv
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import AutoTokenizer

from sparsekit.data import datasets as data_module
from sparsekit.data.datasets import FileDataset
from sparsekit.data.labels import is_generic, matching_order, number_labels
from sparsekit.errors import ConfigError, UserError
from sparsekit.tasks.base import Data
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.tokens import tokenize

TASK = TextClassification(max_length=8)

GOOD = [{"text": "good one", "label": "pos"}, {"text": "bad NA one", "label": "neg"}]


@dataclass
class Given:
    """A source, and the task that reads it."""

    source: Any
    task: TextClassification

    def load(self) -> Data:
        return self.task.load(self.source)


def files(tmp_path: Path, train: list[dict[str, Any]], validation: list[dict[str, Any]]) -> Given:
    source = FileDataset(
        format="csv",
        data_files={
            "train": str(write_csv(tmp_path / "train.csv", train)),
            "validation": str(write_csv(tmp_path / "validation.csv", validation)),
            "test": None,
        },
    )
    return Given(source, TextClassification(text_columns=["text"], label_column="label"))


def test_names_are_sorted_and_numbered(tmp_path: Path) -> None:
    loaded = files(tmp_path, GOOD, GOOD[::-1]).load()
    assert loaded.label_names == ["neg", "pos"]
    assert loaded.splits["train"]["label"][:] == [1, 0]
    assert loaded.splits["validation"]["label"][:] == [0, 1]
    assert loaded.splits["train"]["text"][1] == "bad NA one"


def test_numbers_keep_their_order(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": label} for i, label in enumerate([3, 10, 1, 3])]
    loaded = files(tmp_path, rows, rows).load()
    assert loaded.label_names == ["1", "3", "10"]
    assert loaded.splits["train"]["label"][:] == [1, 2, 0, 1]


def test_a_column_that_stands_twice(tmp_path: Path) -> None:
    dataset = files(tmp_path, GOOD, GOOD)
    path = tmp_path / "twice.csv"
    path.write_text("text,label,label\na,pos,neg\nb,neg,pos\n")
    dataset.source.data_files = {"train": str(path), "validation": str(path)}
    with pytest.raises(UserError, match="more than one column label; rename"):
        dataset.load()


def test_labels_that_are_lists(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"text": "a", "label": [1]}, {"text": "b", "label": [0]}]))
    dataset = files(tmp_path, GOOD, GOOD)
    dataset.source.format, dataset.source.data_files = (
        "json",
        {"train": str(path), "validation": str(path)},
    )
    with pytest.raises(ConfigError, match="'label' holds lists or objects"):
        dataset.load()


def test_json_and_two_text_columns(tmp_path: Path) -> None:
    rows = [{"question": "why ?", "answer": "so", "ok": i % 2} for i in range(4)]
    path = tmp_path / "rows.json"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    source = FileDataset(format="json", data_files={"train": str(path), "validation": str(path)})
    task = TextClassification(text_columns=["question", "answer"], label_column="ok")
    loaded = task.load(source)
    assert loaded.splits["train"].column_names == ["text", "text_pair", "label"]


def test_class_labels_bring_names_and_unlabelled_tests_are_left_out() -> None:
    def rows(labels: list[int]) -> Dataset:
        made = Dataset.from_dict({"label": labels})
        return made.cast_column("label", ClassLabel(names=["negative", "positive"]))

    names, labels = number_labels(
        {"train": rows([1, 0]), "validation": rows([1, 1]), "test": rows([-1, -1])}, "label"
    )
    assert names == ["negative", "positive"]
    assert labels == {"train": [1, 0], "validation": [1, 1]}
    with pytest.raises(ConfigError, match="split 'validation'"):
        number_labels({"train": rows([1, 0]), "validation": rows([-1, -1])}, "label")


def test_unlabelled_tests_are_left_out_of_files_too() -> None:
    """As GLUE is when it was saved as csv."""

    def rows(labels: list[int]) -> Dataset:
        return Dataset.from_dict({"label": labels})

    raw = {"train": rows([1, 0]), "validation": rows([1, 1]), "test": rows([-1, -1])}
    assert number_labels(raw, "label")[1] == {"train": [1, 0], "validation": [1, 1]}
    # Where -1 is a class, it is one in test too.
    raw["train"] = rows([1, -1])
    assert number_labels(raw, "label")[1]["test"] == [0, 0]


@pytest.mark.parametrize(
    ("train", "validation", "problem"),
    [
        (
            [{"txt": "a", "label": 0}],
            GOOD,
            r"train\.csv has no column text; it has txt, label; set",
        ),
        (
            [{"text": "", "label": "pos"}, *GOOD],
            GOOD,
            r"line 2: column 'text' has no text in 1 of 3 rows; .*drop_empty=true",
        ),
        (
            [{"text": " ", "label": "pos"}, *GOOD],
            GOOD,
            r"line 2: column 'text' has no text in 1 of 3 rows; .*drop_empty=true",
        ),
        ([{"text": 3, "label": 0}, {"text": 4, "label": 1}], GOOD, "holds numbers, not text"),
        ([{"text": "a", "label": 0.5}, {"text": "b", "label": 1}], GOOD, r"0\.5, which is a score"),
        (
            GOOD,
            [*GOOD, {"text": "x", "label": "odd"}],
            r"validation\.csv, line 4: .*'odd' is never seen in train",
        ),
        (
            [{"text": f"film {i}", "label": f"name {i:02}"} for i in range(12)],
            [{"text": "x", "label": "odd"}],
            "name 08, name 09 and 2 more; correct it",
        ),
        (
            GOOD,
            [{"text": "x", "label": ""}],
            r"line 2: column 'label': the label is missing in 1 of 1 rows",
        ),
        (GOOD, [{"text": "x", "label": "o" * 500}], r"'o{40}\.\.\.' is never seen in train"),
        (
            [{"text": "film", "label": f"a text of its own {i:02}"} for i in range(60)],
            GOOD,
            "holds 60 different labels in the 60 rows of train, such as 'a text of its own 00'",
        ),
        (GOOD[:1], GOOD[:1], "has 1 label in train; at least 2"),
    ],
)
def test_rows_that_are_wrong(
    tmp_path: Path, train: list[Any], validation: list[Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        files(tmp_path, train, validation).load()


def test_every_split_is_checked_at_once(tmp_path: Path) -> None:
    bad = [{"txt": "a", "label": 0}]
    with pytest.raises(ConfigError) as caught:
        files(tmp_path, bad, bad).load()
    assert len(caught.value.problems) == 2


def test_files_that_are_not_there_or_empty(tmp_path: Path) -> None:
    dataset = files(tmp_path, GOOD, GOOD)
    Path(str(dataset.source.data_files["train"])).write_text("\n\n")
    dataset.source.data_files["validation"] = str(tmp_path / "nowhere.csv")
    with pytest.raises(ConfigError) as caught:
        dataset.load()
    assert len(caught.value.problems) == 2
    assert "is empty" in str(caught.value)


def test_a_header_without_rows(tmp_path: Path) -> None:
    dataset = files(tmp_path, GOOD, GOOD)
    Path(str(dataset.source.data_files["train"])).write_text("text,label\n")
    with pytest.raises(UserError, match=r"train\.csv has no rows"):
        dataset.load()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'text,label\na,1\nb,1,2,3\n"', r"train\.csv as csv: .*separate fields by commas"),
        (b"text,label\n" + b"good, really,1\n" * 3, "more fields than the header.*quotes"),
        (
            "text,label\ncaf\xe9,1\n".encode("latin-1"),
            r"csv, line 2: the byte 0xe9 is not UTF-8",
        ),
        (b"text;label\na;b;1\n", "more fields than the header.*separate fields by semicolons"),
    ],
)
def test_a_csv_that_is_none(tmp_path: Path, content: bytes, problem: str) -> None:
    dataset = files(tmp_path, GOOD, GOOD)
    Path(str(dataset.source.data_files["train"])).write_bytes(content)
    with pytest.raises(UserError, match=problem):
        dataset.load()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", ",\n").encode(),
    ],
    ids=["byte order mark", "windows", "trailing comma"],
)
def test_a_csv_as_spreadsheets_write_it(tmp_path: Path, change: Callable[[str], bytes]) -> None:
    dataset = files(tmp_path, GOOD, GOOD)
    path = Path(str(dataset.source.data_files["train"]))
    path.write_bytes(change(path.read_text()))
    loaded = dataset.load()
    assert loaded.splits["train"]["text"][:] == [row["text"] for row in GOOD]


def test_training_on_the_validation_file_is_mentioned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = files(tmp_path, GOOD, GOOD)
    dataset.source.data_files["validation"] = dataset.source.data_files["train"]
    dataset.load()
    assert "data_files.validation is the training file" in caplog.text


def test_a_length_without_room_for_text(tmp_path: Path) -> None:
    dataset = files(tmp_path, GOOD, GOOD)
    dataset.task.max_length = 2
    with pytest.raises(ConfigError, match=r"max_length 2 leaves no room for text; set 5 or more"):
        dataset.load()


def test_the_order_of_labels_follows_a_model() -> None:
    assert matching_order(["neg", "pos"], {0: "POS", 1: "NEG"}) == [1, 0]
    assert matching_order(["neg", "pos"], {0: "LABEL_0", 1: "LABEL_1"}) is None
    assert is_generic({0: "LABEL_0", 1: "LABEL_1"})
    # A cycle of three, whose inverse is another one.
    names, theirs = ["bad", "fair", "good"], {0: "fair", 1: "good", 2: "bad"}
    assert matching_order(names, theirs) == [2, 0, 1]
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 2]})
    data = TASK.with_model_labels(Data(TASK, {"train": rows}, names), theirs)
    assert data.splits["train"]["label"][:] == [2, 0, 1]
    assert data.label_names == ["fair", "good", "bad"]


def test_tokens_are_made_once_and_again_when_anything_changes(
    teacher_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path))
    made = []
    original = data_module.cached

    def spy(kind: str, key: str, make: Any) -> Path:
        return original(kind, key, lambda folder: (made.append(key), make(folder))[1])

    monkeypatch.setattr(data_module, "cached", spy)
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    rows = Dataset.from_dict({"text": ["the plot is dull .", "warm and witty ."], "label": [0, 1]})
    data = Data(TASK, {"train": rows}, ["neg", "pos"])
    first = tokenize(data, tokenizer, "a")["train"]
    second = tokenize(data, tokenizer, "a")["train"]
    assert first[:] == second[:]
    assert len(made) == 1
    assert first["labels"][:] == [0, 1]
    assert first["length"][:] == [len(ids) for ids in first["input_ids"]]
    tokenize(data, tokenizer, "b")
    tokenize(Data(TextClassification(max_length=4), data.splits, data.label_names), tokenizer, "a")
    assert len(made) == 3


def test_models_of_one_vocabulary_do_not_share_inputs(teacher_folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    rows = Dataset.from_dict({"text": ["a"], "text_pair": ["the cast"], "label": [0]})
    data = Data(TextClassification(max_length=9), {"train": rows}, ["neg", "pos"])
    inputs = list(tokenizer.model_input_names)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert "token_type_ids" not in tokenize(data, tokenizer, "same")["train"].column_names
    tokenizer.model_input_names = inputs
    assert "token_type_ids" in tokenize(data, tokenizer, "same")["train"].column_names


def test_tokens_that_are_damaged_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_folder: str
) -> None:
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    rows = Dataset.from_dict({"text": ["the plot is dull .", "warm and witty ."], "label": [0, 1]})
    data = Data(TASK, {"train": rows}, ["neg", "pos"])
    whole = tokenize(data, tokenizer, "a")["train"][:]
    (folder,) = (path for path in (tmp_path / "tokens").iterdir() if path.is_dir())
    for name in ("*.arrow", "state.json", "dataset_info.json"):
        (path,) = folder.glob(name)
        path.write_bytes(path.read_bytes()[:20])
        assert tokenize(data, tokenizer, "a")["train"][:] == whole


def test_built_datasets_come_from_their_source() -> None:
    source = data_module.BuiltDataset(source={"_target_": "test_data.make_rows", "count": 4})
    built = TASK.load(source)
    assert len(built.splits["train"]) == 4


def make_rows(count: int) -> DatasetDict:
    rows = Dataset.from_dict({"text": ["a"] * count, "label": [i % 2 for i in range(count)]})
    return DatasetDict({"train": rows, "validation": rows})


def from_text(folder: Path, train: str, validation: str, form: str = "csv") -> Given:
    """A data set of two files with these contents."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for split, content in (("train", train), ("validation", validation)):
        paths[split] = folder / f"{split}.{form}"
        paths[split].write_bytes(content.encode())
    source = FileDataset(
        format=form, data_files={split: str(path) for split, path in paths.items()}
    )
    return Given(source, TextClassification(text_columns=["text"], label_column="label"))


def csv_of(*labels: str) -> str:
    return "text,label\n" + "".join(f"row {i},{label}\n" for i, label in enumerate(labels))


def json_of(*labels: Any) -> str:
    return "".join(
        json.dumps({"text": f"row {i}", "label": x}) + "\n" for i, x in enumerate(labels)
    )


@pytest.mark.parametrize(
    ("train", "validation", "names"),
    [
        (["01", "02"], ["02", "01"], ["01", "02"]),
        (["01", "1", "2"], ["1"], ["01", "1", "2"]),
        (["1e3", "1000", "2"], ["1e3"], ["2", "1000", "1e3"]),
        (["True", "False", "Maybe"], ["True", "False"], ["False", "Maybe", "True"]),
        (["01", "A1"], ["01"], ["01", "A1"]),
        (["10", "9", "-1"], ["9"], ["-1", "9", "10"]),
        ([str(i % 3) for i in range(12_000)] + ["other"], ["1", "other"], ["0", "1", "2", "other"]),
        (["NA", "null", "nan"], ["NA"], ["NA", "nan", "null"]),
        (["2024-01-02", "2024-01-03"], ["2024-01-03"], ["2024-01-02", "2024-01-03"]),
    ],
)
def test_csv_labels_are_text(
    tmp_path: Path, train: list[str], validation: list[str], names: list[str]
) -> None:
    loaded = from_text(tmp_path, csv_of(*train), csv_of(*validation)).load()
    assert loaded.label_names == names
    for split, labels in (("train", train), ("validation", validation)):
        assert [names[label] for label in loaded.splits[split]["label"]] == labels


@pytest.mark.parametrize(
    ("train", "validation", "names"),
    [
        ([1, "1", "2"], [2], ["1", "2"]),
        ([1.0, 2, 3], ["3"], ["1", "2", "3"]),
        ([True, False], [True], ["False", "True"]),
        (["2024-01-02", "2024-01-03"], ["2024-01-03"], ["2024-01-02", "2024-01-03"]),
        (["01", "1"], ["01"], ["01", "1"]),
        ([*range(3)] * 4000 + ["other"], [2, "other"], ["0", "1", "2", "other"]),
    ],
)
def test_json_labels_are_text(
    tmp_path: Path, train: list[Any], validation: list[Any], names: list[str]
) -> None:
    loaded = from_text(tmp_path, json_of(*train), json_of(*validation), "json").load()
    assert loaded.label_names == names
    assert len(loaded.splits["train"]) == len(train)


def test_labels_are_sorted_by_value_only_where_all_splits_have_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'other' is never seen in train, which has 10, 9"):
        from_text(tmp_path, csv_of("10", "9"), csv_of("other")).load()


@pytest.mark.parametrize("form", ["csv", "json"])
@pytest.mark.parametrize("name", ["runs[1]", "[br]{c}", "all*", "what?", "**", "a,b=c"])
def test_a_path_is_the_file_it_names(tmp_path: Path, form: str, name: str) -> None:
    write = csv_of if form == "csv" else json_of
    # What the name would match as a pattern.
    for other in ("runs1", "bc", "rc", "allxyz", "whatx"):
        from_text(tmp_path / other, write("wrong", "file"), write("wrong"), form)
    loaded = from_text(tmp_path / name, write("neg", "pos"), write("pos"), form).load()
    assert loaded.label_names == ["neg", "pos"]


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_file_that_was_rewritten_is_read_again(tmp_path: Path, form: str) -> None:
    write = csv_of if form == "csv" else json_of
    dataset = from_text(tmp_path, write("neg", "pos"), write("pos"), form)
    first = dataset.load()
    path = Path(str(dataset.source.data_files["train"]))
    before = path.stat()
    path.write_text(write("pos", "neg"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = dataset.load()
    assert first.splits["train"]["label"][:] == [0, 1]
    assert second.splits["train"]["label"][:] == [1, 0]
    assert first.fingerprint("train") != second.fingerprint("train")


@pytest.mark.parametrize(
    ("content", "where"),
    [
        # Each of the two quotes takes the rows up to the other into one text.
        ('good,1\n"bad,0\nfine,1\n"awful,0\nnice,1\n', "the row of lines 3 to 5"),
        ('good,1\nbad,0\n"fine,1\nnice,1\n', "the row of lines 4 to 5"),
        ('good,1\n"bad" and worse,0\n', "line 3"),
    ],
)
def test_a_quote_that_is_not_closed_is_named_with_its_line(
    tmp_path: Path, content: str, where: str
) -> None:
    dataset = from_text(tmp_path, "text,label\n" + content, csv_of("1", "0"))
    with pytest.raises(UserError, match=f"{where} has a quote that is not closed") as caught:
        dataset.load()
    assert 'write a quote in it twice, ""' in str(caught.value)


def test_quotes_blank_lines_long_texts_and_missing_fields(tmp_path: Path) -> None:
    long = "word " * 40_000
    train = f'text,note,label\n"a, ""b""\nc",x,1\n\n5" wide,,0\n{long},,1\n'
    dataset = from_text(tmp_path, train, "label,text\n1,it\n")
    rows = dataset.load().splits["train"]
    assert rows["text"][:] == ['a, "b"\nc', '5" wide', long]
    assert rows["label"][:] == [1, 0, 1]
    assert csv.field_size_limit() == 131_072
    short = from_text(tmp_path, "text,label\na,1\nb\n", csv_of("1"))
    with pytest.raises(
        ConfigError, match=r"train\.csv, line 3: column 'label': the label is missing"
    ):
        short.load()


def test_a_column_of_row_numbers_has_no_name(tmp_path: Path) -> None:
    rows = from_text(tmp_path, ",text,label\n0,a,x\n1,b,y\n", ",text,label\n0,a,x\n").load()
    assert rows.splits["train"]["text"][:] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"text": "a", "label": 1}\n{"text": "b", ', "as json: line 2: .*one object per line"),
        ('[{"text": "a", "label": 1}, 3]', r"object 1 \(from 0\) is not an object"),
        ('"text"\n', "line 1 is not an object"),
        ('[{"text": "a"', "line 1: .*one object per line"),
        ("[" * 100_000, "one object per line"),
        ("1" * 5000, "as json: line 1: Exceeds the limit"),
        ('[{"text": ' + "1" * 5000 + "}]", "as json: line 1: Exceeds the limit"),
        ("[]", "has no rows"),
        ('{"text": ["a"], "label": 1}', "line 1: column 'text' holds lists or objects"),
    ],
)
def test_a_json_that_is_none(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        from_text(tmp_path, content, json_of(0, 1), "json").load()


def test_json_with_a_byte_order_mark_nested_columns_and_missing_keys(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 1, "meta": {"x": 1}}, {"label": 0, "text": "b", "more": None}]
    for text in (json.dumps(rows), "\n".join(map(json.dumps, rows))):
        loaded = from_text(tmp_path, "\ufeff" + text, text, "json").load()
        assert loaded.label_names == ["0", "1"]
        assert loaded.splits["train"]["text"][:] == ["a", "b"]
    with pytest.raises(ConfigError, match=r"train\.json, lines 2, 4: .*the label is missing"):
        from_text(tmp_path, json_of(1, None, 0, float("nan")), json_of(1), "json").load()


def test_blanks_around_labels_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = from_text(tmp_path, csv_of("neg", "pos ", "pos"), csv_of(" neg", "pos"))
    loaded = dataset.load()
    assert loaded.label_names == ["neg", "pos"]
    assert loaded.splits["train"]["label"][:] == [0, 1, 1]
    assert "train.csv, line 3: column 'label': blanks around 1 labels are ignored" in caplog.text
    with pytest.raises(ConfigError, match=r"line 3: .*the label is missing"):
        from_text(tmp_path, csv_of("neg", "  ", "pos"), csv_of("neg")).load()


def test_labels_that_differ_in_case_alone(tmp_path: Path) -> None:
    dataset = from_text(tmp_path, csv_of("Pos", "pos", "neg", "pos"), csv_of("POS", "neg"))
    expected = (
        r"differ in case alone: 'pos' \(2 rows\), 'POS' \(1 rows\), 'Pos' \(1 rows\); .*"
        r"dataset\.label_case=ignore \(one class, named 'pos'\) or dataset\.label_case=keep"
    )
    with pytest.raises(ConfigError, match=expected):
        dataset.load()
    dataset.task.label_case = "ignore"
    loaded = dataset.load()
    assert loaded.label_names == ["neg", "pos"]
    assert loaded.splits["train"]["label"][:] == [1, 1, 0, 1]
    assert loaded.splits["validation"]["label"][:] == [1, 0]
    dataset.task.label_case = "keep"
    with pytest.raises(ConfigError, match="'POS' is never seen in train, which has Pos, neg, pos"):
        dataset.load()


def test_names_that_differ_in_case_are_matched_exactly_or_not_at_all() -> None:
    names = ["Pos", "neg", "pos"]
    assert matching_order(names, {0: "neg", 1: "pos", 2: "Pos"}) == [2, 0, 1]
    with pytest.raises(
        UserError, match="POS, neg, pos and the data's Pos, neg, pos differ in case"
    ):
        matching_order(names, {0: "POS", 1: "neg", 2: "pos"})
    assert matching_order(["good", "bad"], {0: "Good", 1: "good"}) is None
    assert matching_order(["good", "bad"], {0: " BAD", 1: "Good"}) == [1, 0]
