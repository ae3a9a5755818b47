"""The data sets with a name, read from a Hub on loopback: a few rows in the schema of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from project import ROOT

from sparsekit.data.datasets import HubDataset
from sparsekit.errors import ConfigError

TEXT, INDEX = Value("string"), Value("int32")
EMOTIONS = ["admiration", "joy", "neutral"]
NER = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
INFERENCE = ["entailment", "neutral", "contradiction"]
ANSWER = {"text": ["Denver Broncos"], "answer_start": [4]}
# Reads every data set with the config of its name, and prints what its task made of it.
PROGRAM = """
import json, sys
from hydra import compose, initialize_config_dir
from sparsekit.config.plain import plain
from sparsekit.tasks.config import build_source, build_task
from sparsekit.sparseml.recipes.load import register_resolvers
register_resolvers()
found = {}
for name in sys.argv[2:]:
    with initialize_config_dir(sys.argv[1], version_base="1.3"):
        cfg = compose("config", [f"dataset={name}"])
    values = {"task": plain(cfg.task), "dataset": plain(cfg.dataset)}
    task = build_task(values, trusted=True)
    data = task.load(build_source(values["dataset"], task))
    found[name] = {
        "task": task.name,
        "labels": data.label_names,
        "rows": {split: rows[:] for split, rows in data.splits.items()},
    }
print(json.dumps(found))
"""


def rows(features: dict[str, Any], *columns: list[Any]) -> Dataset:
    return Dataset.from_dict(dict(zip(features, columns, strict=True)), features=Features(features))


def save(folder: Path, config: str | None, splits: dict[str, Dataset]) -> str:
    """Write the files of one configuration; returns its part of the card's header."""
    under = folder / config if config else folder
    under.mkdir(parents=True, exist_ok=True)
    listed = ""
    for split, table in splits.items():
        table.to_parquet(under / f"{split}-00000-of-00001.parquet")
        path = f"{config}/{split}-*" if config else f"{split}-*"
        listed += f"  - split: {split}\n    path: {path}\n"
    return f"- config_name: {config or 'default'}\n  data_files:\n{listed}"


def card(folder: Path, configs: list[str]) -> None:
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")


def write_glue(folder: Path) -> None:
    """Three configurations of one repository; labels of its test splits are -1."""
    names = ("premise", "hypothesis", "label", "idx")
    pairs = dict(zip(names, (TEXT, TEXT, ClassLabel(names=INFERENCE), INDEX), strict=True))
    texts = [["a", "b", "c"], ["d", "e", "f"]]
    known = rows(pairs, *texts, [0, 1, 2], [0, 1, 2])
    hidden = rows(pairs, *texts, [-1, -1, -1], [0, 1, 2])
    mnli = dict.fromkeys(("train", "validation_matched"), known)
    mnli["validation_mismatched"] = rows(pairs, *texts, [2, 1, 0], [0, 1, 2])
    mnli |= dict.fromkeys(("test_matched", "test_mismatched"), hidden)

    same = ClassLabel(names=["not_duplicate", "duplicate"])
    questions = {"question1": TEXT, "question2": TEXT, "label": same, "idx": INDEX}
    qqp = dict.fromkeys(("train", "validation"), rows(questions, *texts, [0, 1, 1], [0, 1, 2]))
    qqp["test"] = rows(questions, *texts, [-1, -1, -1], [0, 1, 2])

    scored = {"sentence1": TEXT, "sentence2": TEXT, "label": Value("float32"), "idx": INDEX}
    stsb = dict.fromkeys(("train", "validation"), rows(scored, *texts, [5.0, 0.0, 2.5], [0, 1, 2]))
    stsb["test"] = rows(scored, *texts, [-1.0, -1.0, -1.0], [0, 1, 2])
    card(folder, [save(folder, *each) for each in (("mnli", mnli), ("qqp", qqp), ("stsb", stsb))])


def write_conll(folder: Path) -> None:
    """As the Hub converts scripts: a folder for each split, and no card."""
    features = {
        "id": TEXT,
        "tokens": List(TEXT),
        "pos_tags": List(ClassLabel(names=["NN", "VB"])),
        "chunk_tags": List(ClassLabel(names=["O", "B-NP"])),
        "ner_tags": List(ClassLabel(names=NER)),
    }
    words = [["Rome", "is", "far"], ["Ada", "Lovelace"]]
    other = [[0, 1, 0], [0, 0]]
    table = rows(features, ["0", "1"], words, other, other, [[5, 0, 0], [1, 2]])
    for split in ("train", "validation", "test"):
        under = folder / "conll2003" / split
        under.mkdir(parents=True)
        table.to_parquet(under / "0000.parquet")


def write(folder: Path) -> None:
    write_glue(folder / "nyu-mll" / "glue")
    write_conll(folder / "eriktks" / "conll2003")
    squad = folder / "rajpurkar" / "squad"
    answers = {"text": List(TEXT), "answer_start": List(INDEX)}
    features = {"id": TEXT, "title": TEXT, "context": TEXT, "question": TEXT, "answers": answers}
    context = "The Denver Broncos won."
    table = rows(features, ["1"], ["Bowl"], [context], ["Who won?"], [ANSWER])
    card(squad, [save(squad, "plain_text", dict.fromkeys(("train", "validation"), table))])
    emotions = folder / "google-research-datasets" / "go_emotions"
    features = {"text": TEXT, "labels": List(ClassLabel(names=EMOTIONS)), "id": TEXT}
    table = rows(features, ["So good!", "Hm."], [[0, 1], [2]], ["a", "b"])
    splits = dict.fromkeys(("train", "validation", "test"), table)
    card(emotions, [save(emotions, "simplified", splits)])


NAMES = ("conll2003", "squad", "mnli", "qqp", "stsb", "go_emotions")


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("named")
    write(folder / "datasets")
    with hub.serve(folder) as server:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(ROOT / "conf"), *NAMES],
            env=os.environ | server.environment(folder / "home"),
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_conll2003_has_named_entities(read: dict[str, Any]) -> None:
    found = read["conll2003"]
    assert (found["task"], found["labels"]) == ("token classification", NER)
    made = {"tokens": [["Rome", "is", "far"], ["Ada", "Lovelace"]], "tags": [[5, 0, 0], [1, 2]]}
    assert found["rows"] == dict.fromkeys(("train", "validation", "test"), made)


def test_squad_has_questions_with_answers(read: dict[str, Any]) -> None:
    found = read["squad"]
    assert found["task"] == "question answering"
    assert sorted(found["rows"]) == ["train", "validation"]
    assert found["rows"]["train"] == {
        "text": ["Who won?"],
        "text_pair": ["The Denver Broncos won."],
        "answers": [ANSWER["text"]],
        "starts": [ANSWER["answer_start"]],
        "index": [0],
    }


def test_mnli_is_tested_on_the_other_genres(read: dict[str, Any]) -> None:
    found = read["mnli"]
    assert (found["task"], found["labels"]) == ("text classification", INFERENCE)
    assert {split: part["label"] for split, part in found["rows"].items()} == {
        "train": [0, 1, 2],
        "validation": [0, 1, 2],
        "test": [2, 1, 0],
    }
    assert (found["rows"]["test"]["text"][0], found["rows"]["test"]["text_pair"][0]) == ("a", "d")


def test_qqp_has_no_test_split_without_labels(read: dict[str, Any]) -> None:
    found = read["qqp"]
    assert found["labels"] == ["not_duplicate", "duplicate"]
    labels = {split: part["label"] for split, part in found["rows"].items()}
    assert labels == {"train": [0, 1, 1], "validation": [0, 1, 1]}


def test_stsb_has_scores(read: dict[str, Any]) -> None:
    found = read["stsb"]
    assert (found["task"], found["labels"]) == ("regression", ["score"])
    scores = {split: part["label"] for split, part in found["rows"].items()}
    assert scores == {"train": [5.0, 0.0, 2.5], "validation": [5.0, 0.0, 2.5]}


def test_go_emotions_has_any_number_of_labels(read: dict[str, Any]) -> None:
    found = read["go_emotions"]
    assert (found["task"], found["labels"]) == ("multi-label classification", EMOTIONS)
    assert found["rows"]["test"]["label"] == [[1, 1, 0], [0, 0, 1]]


def test_a_misspelt_split_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    some = Dataset.from_dict({"text": ["a"]})
    stored = DatasetDict({"train": some, "dev": some, "test": some})
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: stored)
    splits: dict[str, str | None] = {"train": "train", "validation": "develop", "test": "tset"}
    with pytest.raises(ConfigError) as caught:
        HubDataset(path="some/data", splits=splits).raw([])
    assert caught.value.problems == [
        "dataset.splits.validation: some/data has no split 'develop'; did you mean dev?",
        "dataset.splits.test: some/data has no split 'tset'; did you mean test?",
    ]
    # Those under our own names, and those that are left out, need not be there.
    own = {"train": "train", "validation": "validation", "test": None}
    assert list(HubDataset(path="some/data", splits=own).raw([])) == ["train"]
