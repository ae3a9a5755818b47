"""The figures of a data set, their table, and what they warn of."""

from __future__ import annotations

import io
import shlex
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from sparsekit.data.advice import drop_labels, warnings
from sparsekit.data.origin import with_origin
from sparsekit.data.profile import profile
from sparsekit.data.profile_table import markdown, table
from sparsekit.data.scripts import scripts

NAMES = ["bad", "good", "rare"]


def figures_of(train: list[tuple[str, int]], validation: list[tuple[str, int]]) -> dict[str, Any]:
    splits, classes = {}, {}
    for split, made in (("train", train), ("validation", validation)):
        texts, labels = zip(*made, strict=True)
        splits[split] = with_origin(Dataset.from_dict({"text": list(texts)}), split)
        classes[split] = np.array(labels)
    return profile(splits, ["text"], classes, NAMES)


TRAIN = [(f"film {i}", i % 2) for i in range(40)] + [("rare one", 2), ("Film 3!", 1), ("film 4", 1)]
VALIDATION = [("film 1", 1), ("new", 0)]


def test_rows_are_counted() -> None:
    found = figures_of(TRAIN, VALIDATION)
    train, validation = found["splits"]["train"], found["splits"]["validation"]
    assert train["rows"] == 43
    assert train["classes"] == {"bad": 20, "good": 22, "rare": 1}
    assert train["repeated"] == {"rows": 2, "where": "split 'train', rows 41, 42 (from 0)"}
    assert validation["in_train"] == {"rows": 1, "where": "split 'validation', row 0 (from 0)"}
    assert found["contradictions"]["train"]["where"] == "split 'train', rows 4, 42 (from 0)"
    assert found["contradictions"]["validation"]["rows"] == 0
    assert found["scripts"] == {"Latin": 1.0}


def test_each_fault_is_a_warning_with_its_places() -> None:
    found = figures_of(TRAIN, VALIDATION)
    found |= {"max_length": 128, "longest_input": 512}
    found["splits"]["train"]["tokens"] = {
        **{"median": 9, "p99": 200, "max": 400},
        **{"cut": 5, "unknown": 0.02},
    }
    text = "\n".join(warnings(found, ["accuracy"]))
    for part in (
        "classes with fewer than 10 training rows are hardly learned: 'rare' (1); add rows, or "
        "leave them out: 'dataset.drop_labels=[rare]'",
        "validation has no row of 'rare'",
        "11.6% of train is longer than 128 tokens",
        "dataset.max_length=256",
        "2.0% of the training tokens are unknown",
        "1 rows of validation have a text that is also in train",
        "dataset.drop_leaked=true",
        "2 rows of train have a text that has another label",
        "2 training rows repeat the text of an earlier one",
    ):
        assert part in text
    assert len(text.splitlines()) == 7


def test_a_class_that_validation_lacks_is_named_however_frequent_it_is() -> None:
    train = [(f"film {i}", i % 3) for i in range(60)]
    found = figures_of(train, [("new", 0), ("other", 1)])
    found |= {"max_length": 128, "longest_input": 512}
    assert "validation has no row of 'rare'" in "\n".join(warnings(found, ["accuracy"]))


def test_near_duplicates_in_other_splits_are_counted() -> None:
    ticket = "the parcel was sent on monday and it did not arrive by friday"
    found = figures_of(
        [(f"film {i}", i % 3) for i in range(60)] + [(ticket, 0)],
        [(f"Dear all: {ticket}", 0), (ticket.upper(), 1), ("y", 1), ("z", 2)],
    )
    assert found["splits"]["validation"]["in_train"]["rows"] == 1
    assert found["splits"]["validation"]["near_train"] == {
        "rows": 1,
        "where": "split 'validation', row 0 (from 0)",
        "like": "split 'train', row 60 (from 0)",
    }
    (warning,) = [each for each in warnings(found, ["accuracy"]) if "near-duplicates" in each]
    assert "the first one's is split 'train', row 60 (from 0)): dataset.drop_leaked=near" in warning
    assert "| near-duplicates of texts in train | - | 1 |" in markdown(found)


def test_lengths_beyond_the_student_have_no_override() -> None:
    found = figures_of([("a", 0), ("b", 1)] * 10, [("c", 0), ("d", 1)])
    found |= {"max_length": 64, "longest_input": 64}
    tokens = {"median": 9, "p99": 200, "max": 400, "cut": 5, "unknown": 0.0}
    found["splits"]["train"]["tokens"] = tokens
    text = "\n".join(warnings(found, ["f1_macro"]))
    assert "the student reads no more" in text
    assert "dataset.max_length" not in text


def test_clean_data_has_no_warning() -> None:
    made = [(f"film {i}", i % 3) for i in range(60)]
    assert warnings(figures_of(made, [("x", 0), ("y", 1), ("z", 2)]), ["accuracy"]) == []


def test_a_majority_makes_accuracy_say_little() -> None:
    made = [(f"film {i}", 0 if i < 90 else 1 + i % 2) for i in range(120)]
    made = [row for row in made if row[1] != 2] + [(f"book {i}", 2) for i in range(5)]
    found = figures_of(made, [("x", 0), ("y", 1), ("z", 2)])
    (warning,) = [w for w in warnings(found, ["accuracy"]) if "of the training rows are" in w]
    assert "'bad'" in warning
    assert "'dataset.metrics=[accuracy,f1_macro]'" in warning
    assert not any("that accuracy" in w for w in warnings(found, ["accuracy", "f1_macro"]))


@pytest.mark.parametrize(
    "name", ["two words", "a'b", 'quo"te', "01", "null", "a,b", "[x]", "\u00fc"]
)
def test_labels_reach_hydra_as_they_are(name: str) -> None:
    (word,) = shlex.split(drop_labels([name, "plain"]))
    assert OverridesParser.create().parse_override(word).value() == [name, "plain"]


def test_scripts_are_told_apart() -> None:
    rows = Dataset.from_dict({"text": ["abc", "\u0430\u0431\u0432", "\u4f60\u597d", "12 !", None]})
    assert scripts(rows, ["text"]) == {"Latin": 0.375, "Cyrillic": 0.375, "Han": 0.25}
    found = figures_of(
        [("\u0430\u0431\u0432 abc", 0), ("\u0433", 1), ("d", 2)] * 10,
        [("x", 0), ("y", 1), ("z", 2)],
    )
    assert any("Cyrillic" in warning for warning in warnings(found, ["accuracy"]))


def test_the_table_and_the_card_show_the_same() -> None:
    found = figures_of(TRAIN, VALIDATION) | {"max_length": 128}
    for split in found["splits"].values():
        split["tokens"] = {"median": 9, "p99": 20, "max": 40, "cut": 1, "unknown": 0.0}
    shown = io.StringIO()
    console = Console(width=120, file=shown)
    console.print(table(found))
    lines = markdown(found)
    assert lines[0] == "| | train | validation |"
    assert "| class rare | 1, 2.3 % | 0 |" in lines
    assert "| cut by max_length=128 | 1, 2.3 % | 1, 50.0 % |" in lines
    text = shown.getvalue()
    for line in lines[2:]:
        assert all(cell.strip() in text for cell in line.split("|"))


def test_many_classes_are_shown_by_the_rarest() -> None:
    names = [f"class {i:02}" for i in range(30)]
    labels = np.repeat(np.arange(30), np.arange(1, 31))
    rows = with_origin(Dataset.from_dict({"text": [f"t {i}" for i in range(len(labels))]}), "train")
    lines = markdown(profile({"train": rows}, ["text"], {"train": labels}, names))
    assert sum("class class" in line for line in lines) == 20
    assert any(line.startswith("| 10 more classes |") for line in lines)
    assert not any("class class 29" in line for line in lines)
