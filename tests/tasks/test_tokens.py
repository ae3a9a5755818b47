"""Cached tokens and teachers' outputs belong to the task that made them, in its present form."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_seed
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from sparsekit.models import teacher
from sparsekit.models.teacher import teacher_outputs
from sparsekit.tasks.base import Data, Task
from sparsekit.tasks.cache_key import cache_key
from sparsekit.tasks.multi_label import MultiLabel
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.tokens import tokenize

MODULE, HELPER = "task_with_prompts", "prompts_of_a_user"
SOURCE = f"""
from dataclasses import dataclass
from {HELPER} import PROMPT
from sparsekit.tasks.text_classification import TextClassification


@dataclass(kw_only=True)
class Prompted(TextClassification):
    times: int = 1

    def tokenize(self, rows, tokenizer):
        led = [PROMPT * self.times + text for text in rows["text"]]
        return super().tokenize(rows.remove_columns("text").add_column("text", led), tokenizer)
"""
ROWS = Dataset.from_list(hub_seed.reviews(8, seed=11))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SPARSEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    yield tmp_path
    for name in (MODULE, HELPER):
        sys.modules.pop(name, None)


def prompted(folder: Path, prompt: str = "the ", **settings: Any) -> Task:
    """The user's task as it is after an edit of the module that it imports."""
    for name in (MODULE, HELPER):
        sys.modules.pop(name, None)
    (folder / f"{HELPER}.py").write_text(f"PROMPT = {prompt!r}\n")
    importlib.invalidate_caches()
    task = importlib.import_module(MODULE).Prompted(max_length=32, **settings)
    assert isinstance(task, Task)
    return task


def data_of(task: Task) -> Data:
    return Data(task, {"train": ROWS}, ["neg", "pos"])


def test_an_own_task_reads_its_own_tokens(folder: Path, student_folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    for edited in (
        lambda: TextClassification(max_length=32),
        lambda: prompted(folder),
        lambda: prompted(folder, times=2),
        lambda: prompted(folder, "a "),
    ):
        task = edited()
        tokens = tokenize(data_of(task), tokenizer, "tokenizer")["train"]
        assert list(tokens["input_ids"]) == task.tokenize(ROWS, tokenizer)["input_ids"]


def test_an_edited_task_is_taught_anew(
    folder: Path, teacher_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []
    predict = teacher.predict_outputs

    def counted(model: Any, task: Task, *arguments: Any) -> Any:
        runs.append(type(task).__name__)
        return predict(model, task, *arguments)

    monkeypatch.setattr(teacher, "predict_outputs", counted)
    for edited in (
        lambda: TextClassification(max_length=32),
        lambda: prompted(folder),
        lambda: prompted(folder),
        lambda: prompted(folder, "a "),
    ):
        teacher_outputs(Path(teacher_folder), data_of(edited()), ["train"])
    assert runs == ["TextClassification", "Prompted", "Prompted"]


def test_what_does_not_change_tokens_shares_them() -> None:
    task = TextClassification(metrics=["accuracy"])
    assert cache_key(task) == cache_key(TextClassification(metrics=["f1_macro"]))
    assert cache_key(task) != cache_key(MultiLabel())
    assert cache_key(task) != cache_key(TextClassification(max_length=9))


def test_a_task_without_a_file_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Typed(TextClassification):
        """As in a notebook."""

    monkeypatch.setattr(Typed, "__module__", "no_such_module")
    assert cache_key(Typed()) != cache_key(Typed())
