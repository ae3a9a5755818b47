"""Texts without labels that the teacher scores: which are added, and what a run makes of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import hub_seed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from csv_files import write_csv
from datasets import Dataset, DatasetDict
from launching import local, run_here
from tiny_bert import tiny_bert
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForMaskedLM,
    BertTokenizerFast,
)

import sparsekit.pipeline.engines.sparsekit
from sparsekit.data.augmentation import Augmentation, augmented
from sparsekit.data.conll import ConllDataset
from sparsekit.data.datasets import FileDataset, Source
from sparsekit.data.more_texts import MoreTexts
from sparsekit.data.selection import ReadRows
from sparsekit.errors import ConfigError, UserError
from sparsekit.models.masked_words import MaskedWords
from sparsekit.models.teacher import NoTeacher, Self
from sparsekit.pipeline.taught_texts import more_texts_problems, with_more_texts
from sparsekit.recipe.recipe import Recipe
from sparsekit.tasks.base import Data
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.multi_label import KIND, MultiLabel
from sparsekit.tasks.question_answering import QuestionAnswering
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.token_classification import TokenClassification
from sparsekit.training.recipe_trainer import RecipeTrainer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["a", "fine", "film", "dull", "slow", "plot", "it", "moved", "me", "and", "the", "good"]
CSV = FileDataset(data_files={})
CONLL = ConllDataset(data_files={})
TEXTS = ["a fine film indeed", "a dull and slow plot", "it moved me", ""]


def data(**splits: list[str]) -> Data:
    made = {
        name: Dataset.from_dict({"text": texts, "label": [1] * len(texts)})
        for name, texts in splits.items()
    }
    return Data(TextClassification(), made, ["bad", "good"])


def _masked(checkpoint: str | None) -> MoreTexts:
    return MoreTexts(augment={"methods": ["masked_words"], "masked_lm": checkpoint})


def written(folder: Path, texts: list[str]) -> str:
    file = folder / "more.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["text"], *([text] for text in texts)])
    return str(file)


def test_augmented_texts_depend_on_the_seed_alone() -> None:
    config = Augmentation(copies=3)
    [made] = augmented([TEXTS], config)
    assert [made] == augmented([TEXTS], config)
    assert [made] != augmented([TEXTS], Augmentation(copies=3, seed=1))
    # The empty text has no words to change.
    assert len(made) == 3 * 3
    known = {word for text in TEXTS for word in text.split()}
    assert {word for text in made for word in text.split()} <= known
    assert all(made)


def test_of_a_pair_one_text_is_changed() -> None:
    first, second = ["one two three"] * 20, ["four five six"] * 20
    made = augmented([first, second], Augmentation(copies=1, methods=["ngrams"]))
    changed = [(a != "one two three", b != "four five six") for a, b in zip(*made, strict=True)]
    assert not any(a and b for a, b in changed)
    assert any(a for a, _ in changed) and any(b for _, b in changed)


def test_deletion_leaves_a_word() -> None:
    texts, config = ["one"] * 30 + ["one two"] * 30, Augmentation(copies=1, methods=["deletion"])
    [made] = augmented([texts], config)
    assert set(made[:30]) == {"one"}
    assert set(made[30:]) == {"one two", "one", "two"}
    [[long]] = augmented([["word " * 2000]], config)
    # A tenth of 2000 words, with a standard deviation of 13.
    assert 2000 - len(long.split()) == pytest.approx(200, abs=60)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a masked-LM head, whose words are those of WORDS."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS, "##ing", "7"]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = tiny_bert(vocab_size=len(SPECIAL) + len(WORDS) + 2, intermediate_size=16)
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def test_a_masked_lm_head_replaces_words(pretrained: Path) -> None:
    fill = MaskedWords(str(pretrained))
    texts: list[list[str | None]] = [["fine", None, "film"], [None], [None, "plot", None]]
    made = fill(texts, np.random.default_rng(0))
    assert made == fill(texts, np.random.default_rng(0))
    assert [len(words) for words in made] == [3, 1, 3]
    # Whole words alone: no special token, no piece of a word, no number.
    assert {word for words in made for word in words} <= set(WORDS)
    assert made[0][0] == "fine" and made[0][2] == "film" and made[2][1] == "plot"


def test_a_mask_of_the_text_itself_stays(pretrained: Path) -> None:
    fill, plain = MaskedWords(str(pretrained)), ["a", "fine", None]
    [[*known, drawn]] = fill([["[MASK]", *plain]], np.random.default_rng(0))
    assert known == ["[MASK]", "a", "fine"]
    assert drawn == fill([plain], np.random.default_rng(0))[0][-1]


def test_the_likeliest_words_are_drawn(pretrained: Path) -> None:
    fill = MaskedWords(str(pretrained))
    bias = fill._model.get_output_embeddings().bias
    with torch.no_grad():
        bias[len(SPECIAL) + WORDS.index("moved")] += 50
        bias[len(SPECIAL) + len(WORDS)] += 100  # A piece of a word, however likely.
    assert fill([["a", None]] * 9, np.random.default_rng(0)) == [["a", "moved"]] * 9


def test_texts_of_a_masked_lm_are_made_once(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    known = data(train=["a fine film", "a dull plot", "it moved me"], validation=["held back"])
    augment = {"copies": 4, "methods": ["masked_words"], "masked_lm": str(pretrained)}
    more = MoreTexts(augment=augment)
    added = list(with_more_texts(known, more, CSV).splits["train"]["text"])
    assert len(added) > 3
    assert all(set(text.split()) <= set(WORDS) for text in added)
    monkeypatch.setattr(MaskedWords, "__init__", None)  # A second one would be called.
    assert list(with_more_texts(known, more, CSV).splits["train"]["text"]) == added
    mixed = MoreTexts(augment={**augment, "seed": 1})
    with pytest.raises(TypeError):
        with_more_texts(known, mixed, CSV)


def test_a_checkpoint_without_a_masked_lm_head_is_refused(teacher_folder: str) -> None:
    with pytest.raises(UserError, match="has no masked-LM head"):
        MaskedWords(teacher_folder)


def test_what_is_in_a_split_is_not_added(tmp_path: Path) -> None:
    """The teacher's scores of validation texts would teach the student what it is tested on."""
    known = data(train=["seen already"], validation=["held back"])
    file = written(tmp_path, ["Seen already!", "HELD back", "new", "New.", "", "newer"])
    added = with_more_texts(known, MoreTexts(unlabeled=file), CSV)
    assert list(added.splits["train"]["text"]) == ["seen already", "new", "newer"]
    assert added.splits["validation"] is known.splits["validation"]
    assert with_more_texts(known, MoreTexts(), CSV) is known
    with pytest.raises(UserError, match="add no text that is not in the data set already"):
        with_more_texts(known, MoreTexts(unlabeled=written(tmp_path, ["held back"])), CSV)


def test_files_without_the_texts_are_refused(tmp_path: Path) -> None:
    known = data(train=["seen"], validation=["held back"])
    file = tmp_path / "more.csv"
    file.write_text("body\nx\n")
    with pytest.raises(UserError, match="has no column text; it has body"):
        with_more_texts(known, MoreTexts(unlabeled=[str(file)]), CSV)
    with pytest.raises(UserError, match="there is no file nowhere"):
        with_more_texts(known, MoreTexts(unlabeled="nowhere"), CSV)


def test_files_are_written_as_those_of_the_data_set(tmp_path: Path) -> None:
    known = data(train=["seen"], validation=["held back"])
    file = tmp_path / "more.csv"
    source = FileDataset(data_files={}, delimiter=";", columns=["text", "label"], quotes=False)
    for content in ('"new, a;\nb;x\n', 'label;text\n;"new, a\n;b\n'):
        file.write_text(content)
        added = with_more_texts(known, MoreTexts(unlabeled=str(file)), source)
        assert list(added.splits["train"]["text"]) == ["seen", '"new, a', "b"]
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "more.parquet")
    with pytest.raises(UserError, match=r"has no column text; it has body$"):
        with_more_texts(known, MoreTexts(unlabeled=str(tmp_path / "more.parquet")), source)


def test_what_cannot_learn_from_texts_without_labels_is_refused(tmp_path: Path) -> None:
    more, task = MoreTexts(unlabeled=written(tmp_path, ["new"])), TextClassification()
    labels_too = {
        "_target_": "sparsekit.modifiers.distillation.logits.Distillation",
        "hardness": 0.5,
    }
    half = Recipe.build({"num_epochs": 1, "modifiers": {"distillation": labels_too}})
    whole = Recipe.build(
        {"num_epochs": 1, "modifiers": {"distillation": {**labels_too, "hardness": 1.0}}}
    )
    assert more_texts_problems(more, task, Self(), whole) == []
    assert more_texts_problems(MoreTexts(), task, NoTeacher(), half) == []
    for problem, arguments in (
        ("dataset.unlabeled adds texts for a teacher", (more, task, NoTeacher(), whole)),
        ("recipe.distill_hardness=1", (more, task, Self(), half)),
        ("not for question answering", (more, QuestionAnswering(), Self(), whole)),
        ("copies is -1", (MoreTexts(augment={"copies": -1}), task, Self(), whole)),
        ("name some of ngrams", (MoreTexts(augment={"methods": ["x"]}), task, Self(), whole)),
        ("so set both or neither", (_masked(None), task, Self(), whole)),
        ("so set both or neither", (MoreTexts(augment={"masked_lm": "x"}), task, Self(), whole)),
        ("copeis is not a field", (MoreTexts(augment={"copeis": 1}), task, Self(), whole)),
    ):
        [found] = more_texts_problems(*arguments)  # type: ignore[arg-type]
        assert problem in found


def test_texts_of_several_labels_have_labels_of_the_same_width(tmp_path: Path) -> None:
    task = MultiLabel()
    train = Dataset.from_dict({"text": ["a fine film"], "label": [[0.0, 1.0, 1.0]]})
    known = Data(task, {"train": train, "validation": train}, ["a", "b", "c"])
    added = with_more_texts(known, MoreTexts(unlabeled=written(tmp_path, ["new", "other"])), CSV)
    assert added.splits["train"].features == train.features
    assert added.splits["train"]["text"][:] == ["a fine film", "new", "other"]
    assert [len(label) for label in added.splits["train"]["label"]] == [3, 3, 3]
    more = MoreTexts(unlabeled="texts.csv")
    assert more_texts_problems(more, task, Self(), None) == []


def test_texts_of_embeddings_are_added_one_by_one(tmp_path: Path) -> None:
    task = Embedding(text_columns=["first", "second"])
    rows = Dataset.from_dict({"first": ["a film", "a plot"], "second": ["it moved", "me too"]})
    known = task.load(ReadRows(DatasetDict(train=rows, validation=rows)))
    file = tmp_path / "more.csv"
    file.write_text("first,second\na film,new\nother,\n")
    added = with_more_texts(known, MoreTexts(unlabeled=str(file)), CSV).splits["train"]
    assert added["text"][:] == ["a film", "it moved", "a plot", "me too", "other", "new"]
    numbers = [label[0] for label in added["label"]]
    assert len(set(numbers[4:])) == 2 and not {*numbers[4:]} & {*numbers[:4]}
    labels_too = {
        "_target_": "sparsekit.modifiers.distillation.logits.Distillation",
        "hardness": 0.5,
    }
    half = Recipe.build({"num_epochs": 1, "modifiers": {"distillation": labels_too}})
    more = MoreTexts(unlabeled=str(file))
    assert more_texts_problems(more, task, Self(), half) == []


def with_head(head: Any, source: str, folder: Path, **changes: Any) -> str:
    """The folder of a new model with this head, of the architecture and tokenizer of `source`."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(source)
    config.update(changes)
    head.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return str(folder)


TAGGED = {
    "tokens": [["Ada", "met", "Bo"], ["a", "film"]],
    "tags": [["B-X", "O", "B-X"], ["O", "O"]],
}


@pytest.mark.parametrize(
    ("name", "content", "source"),
    [
        ("more.jsonl", '{"tokens": ["ada", "MET", "bo"]}\n{"tokens": ["new", "York"]}\n', CSV),
        ("more.jsonl", '{"tokens": "a film"}\n{"tokens": "new York"}\n{"tokens": " "}\n', CSV),
        ("more.csv", "tokens\nAda met Bo\nnew  York\n", CSV),
        ("more.txt", "Ada met Bo\n\nnew  York\n", CSV),
        ("more.txt", "Ada B-X\nmet O\nBo B-X\n\nnew B-Y\nYork I-Y\n", CONLL),
        ("more.conll", "-DOCSTART-\n\n# a comment\nnew\nYork\n", CONLL),
        ("more.tsv", "tokens\tsource\nnew York\ta\n", CONLL),
        ("more.csv", "tokens\nnew York\n", CONLL),
    ],
)
def test_words_are_added_from_every_kind_of_file(
    name: str, content: str, source: Source, tmp_path: Path
) -> None:
    rows = Dataset.from_dict(TAGGED)
    known = TokenClassification().load(ReadRows(DatasetDict(train=rows, validation=rows)))
    file = tmp_path / name
    file.write_text(content)
    added = with_more_texts(known, MoreTexts(unlabeled=str(file)), source).splits["train"]
    assert added["tokens"][:] == [*TAGGED["tokens"], ["new", "York"]]
    assert [len(tags) for tags in added["tags"]] == [3, 2, 2]
    assert added.features == known.splits["train"].features
    twice = MoreTexts(augment={"copies": 2, "methods": ["ngrams"]})
    made = with_more_texts(known, twice, source).splits["train"]["tokens"][2:]
    assert made and {word for row in made for word in row} <= {"Ada", "met", "Bo", "a", "film"}


@pytest.mark.parametrize(
    ("name", "content", "source", "problem"),
    [
        ("mixed.jsonl", '{"tokens": ["a"]}\n{"tokens": "b c"}\n', CSV, "line 1: column 'tokens'"),
        ("numbers.jsonl", '{"tokens": [{"a": 1}]}\n', CSV, "line 1: column 'tokens' holds"),
        ("other.csv", "words\nb c\n", CSV, "has no column tokens; it has words"),
        ("other.csv", "words\nb c\n", CONLL, "has no column tokens; it has words"),
        ("json.csv", 'tokens\n"[""b"", ""c""]"\n', CSV, r"the list '\[\"b\", \"c\"\]' as text"),
        ("pandas.csv", "tokens\n\"['b', 'c']\"\n", CSV, "write json with a list in each row"),
        ("table.txt", "words,source\nb c,x\n", CSV, "has no column tokens; it has words, source"),
        ("ragged.conll", "a O\nb\n", CONLL, "line 2: 'b' has 1 columns, and line 1 has 2"),
        ("empty.conll", "\n", CONLL, "is empty"),
    ],
)
def test_files_without_words_are_refused(
    name: str, content: str, source: Source, problem: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    columns = [column for column in TokenClassification().columns() if column.is_text]
    with pytest.raises(UserError, match=problem):
        MoreTexts(unlabeled=str(tmp_path / name)).read(columns, source)


def test_a_folder_of_text_files_has_one_text_a_line(tmp_path: Path) -> None:
    known = data(train=["seen"], validation=["held back"])
    (tmp_path / "a.txt").write_text("no, no, no\nnew, I think\n\n  held back\n")
    (tmp_path / "b.txt").write_text('"quoted" text\n')
    added = with_more_texts(known, MoreTexts(unlabeled=str(tmp_path)), CSV).splits["train"]
    assert added["text"][:] == ["seen", "no, no, no", "new, I think", '"quoted" text']


def test_numbers_are_no_words(tmp_path: Path) -> None:
    pq.write_table(pa.table({"tokens": [1, 2]}), tmp_path / "numbers.parquet")
    columns = [column for column in TokenClassification().columns() if column.is_text]
    with pytest.raises(UserError, match="holds 1, not text or a list of words"):
        MoreTexts(unlabeled=str(tmp_path / "numbers.parquet")).read(columns, CSV)


def test_a_tagger_learns_from_texts_without_tags(tmp_path: Path, student_folder: str) -> None:
    """From a CoNLL file, and texts in a csv file."""
    labels = {"id2label": {0: "O", 1: "B-X"}}
    student = with_head(
        AutoModelForTokenClassification, student_folder, tmp_path / "student", **labels
    )
    for split in ("train", "validation"):
        (tmp_path / f"{split}.conll").write_text("the O\nplot B-X\n\nis O\ndull O\n\n" * 8)
    file = tmp_path / "texts.csv"
    file.write_text("tokens\nthe cast is warm\nthe plot is slow\n")
    summary = run_here(
        tmp_path / "run",
        "task=token_classification",
        "dataset=conll",
        *(f"dataset.data_files.{s}={tmp_path / s}.conll" for s in ("train", "validation")),
        f"student.checkpoint={student}",
        "student.sparsity=0.5",
        "teacher=self",
        "training=smoke",
        "export=none",
        "runtime=none",
        f"dataset.unlabeled={file}",
    )
    assert summary["status"] == "completed"
    assert summary["train"]["rows"] == 16 + 2


@pytest.mark.parametrize(
    ("task", "head"),
    [
        (
            ["task=multi_label", "dataset.label_columns=[positive,plot]"],
            AutoModelForSequenceClassification,
        ),
        (["task=embedding"], AutoModel),
    ],
    ids=["multi_label", "embedding"],
)
def test_other_tasks_learn_from_more_texts(
    task: list[str], head: Any, tmp_path: Path, student_folder: str
) -> None:
    rows = [
        {"text": row["text"], "positive": row["label"], "plot": int("plot" in str(row["text"]))}
        for row in hub_seed.reviews(48, 0)
    ]
    file = str(write_csv(tmp_path / "rows.csv", rows))
    labels = {"problem_type": KIND, "id2label": {0: "positive", 1: "plot"}}
    student = with_head(head, student_folder, tmp_path / "student", **labels)
    summary = run_here(
        tmp_path / "run",
        *local({"train": file, "validation": file}, student),
        *task,
        "teacher=self",
        "student.sparsity=0.5",
        "export=none",
        f"dataset.unlabeled={written(tmp_path, TEXTS)}",
    )
    assert summary["status"] == "completed"
    assert summary["train"]["rows"] == 48 + 3


def test_a_run_learns_from_more_texts(
    tmp_path: Path,
    csv_files: dict[str, str],
    teacher_folder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainers: list[RecipeTrainer] = []

    class Kept(RecipeTrainer):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            trainers.append(self)

    monkeypatch.setattr(sparsekit.pipeline.engines.sparsekit, "RecipeTrainer", Kept)
    choices: list[Any] = [*local(csv_files, teacher_folder), "export=none", "student.sparsity=0.5"]
    more = [f"dataset.unlabeled={written(tmp_path, TEXTS)}", "dataset.augment.copies=1"]
    with pytest.raises(ConfigError, match="but there is none"):
        run_here(tmp_path / "untaught", *choices, *more)
    summary = run_here(tmp_path / "run", *choices, *more, "teacher=self")
    assert summary["status"] == "completed"
    log = (tmp_path / "run" / "data.json").read_text()
    assert '"rows": 96' in log  # statistics are of the labelled rows
    [trainer] = trainers
    assert len(trainer.train_dataset) > 96
    assert summary["train"]["rows"] == len(trainer.train_dataset)
    # What measures gradients of the task's loss, such as OBS, draws rows that have labels.
    assert sum(len(batch["labels"]) for batch in trainer._draw(96, 0, 1)) == 96
    drawn = torch.cat([batch["labels"] for batch in trainer._draw(96, 0, 1)])
    assert sorted(drawn.tolist()) == sorted(trainer.train_dataset["labels"][:96])
