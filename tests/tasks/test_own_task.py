"""A task in a user's own module works without a line changed in sparsekit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import hub_seed
import pytest
import torch
from datasets import Dataset, DatasetDict

import sparsekit
from sparsekit.data.selection import ReadRows
from sparsekit.errors import ConfigError
from sparsekit.models.loading import load_for_task
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.tasks.file import read_task
from sparsekit.tasks.config import build_task, task_of
from sparsekit.tasks.tokens import tokenize
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.trainer import SparseTrainer

MODULE = "task_of_a_user"
SOURCE = """
from dataclasses import dataclass
from typing import ClassVar

from sparsekit.runtime.tasks.text_classification import TextClassificationAnswers
from sparsekit.tasks.text_classification import TextClassification


class Verdicts(TextClassificationAnswers):
    def ranked(self, answer, top_k):
        return f"{answer['label']}!"


@dataclass(kw_only=True)
class Reviews(TextClassification):
    name: ClassVar[str] = "verdicts"

    lead: str = ""

    @property
    def answers(self):
        return Verdicts()

    def tokenize(self, rows, tokenizer):
        led = rows.map(lambda row: {"text": self.lead + row["text"]})
        return super().tokenize(led, tokenizer)

    def score(self, outputs, labels, label_names):
        return {"right": super().score(outputs, labels, label_names)["accuracy"]}

    @property
    def computed_metrics(self):
        return ["right"]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop(MODULE, None)


def test_it_trains_exports_and_answers(module: None, tmp_path: Path, student_folder: str) -> None:
    config = {
        "task": {"_target_": f"{MODULE}.Reviews", "lead": "the "},
        "dataset": {"text_columns": ["text"], "max_length": 32, "metrics": ["accuracy"]},
    }
    with pytest.raises(ConfigError, match="a file from elsewhere may not name other code"):
        build_task(config)
    task = build_task(config, trusted=True)
    rows = Dataset.from_list(hub_seed.reviews(48, seed=0))
    data = task.load(ReadRows(DatasetDict(train=rows, validation=rows)))
    torch.manual_seed(1)
    student = load_for_task(Path(student_folder), task, data.label_names)[0]
    tokens = tokenize(data, student.tokenizer, student.tokenizer_hash)["train"]
    the = student.tokenizer.convert_tokens_to_ids("the")
    assert all(ids[1] == the for ids in tokens["input_ids"])
    trainer = SparseTrainer(
        student.model,
        {"num_epochs": 1, "modifiers": {}},
        task=task,
        args=SparseTrainingArguments(
            output_dir=str(tmp_path / "run"), use_cpu=True, save_strategy="no"
        ),
        train_dataset=tokens,
        eval_dataset=tokens.add_column("text", [f"the {text}" for text in rows["text"]]),
        processing_class=student.tokenizer,
    )
    trainer.train()
    trainer.save_model()
    run = RunFolder(tmp_path / "run")
    assert set(run.summary["metrics"]["validation"]) == {"right"}
    assert type(task_of(run)).__name__ == "Reviews"
    assert sparsekit.export(trainer)["verified"]
    [answer] = sparsekit.Pipeline(run.path)("the plot is dull .")
    labels = [name for _, name in sorted(student.model.config.id2label.items())]
    assert answer in [f"{name}!" for name in labels]
    # Whoever has not imported the module does not run its code.
    del sys.modules[MODULE]
    with pytest.raises(ConfigError, match="a file from elsewhere may not name other code"):
        read_task(run.deployment)
