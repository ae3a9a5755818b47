"""Question answering: the span of a context that answers a question, in SQuAD's form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, PreTrainedConfig, PreTrainedTokenizerBase

from sparsekit.cache import content_hash
from sparsekit.config.arguments import naming_arguments
from sparsekit.data.collator import Collator
from sparsekit.data.columns import values
from sparsekit.data.datasets import Source
from sparsekit.data.origin import where, with_origin
from sparsekit.data.schema import Column
from sparsekit.data.tokenized import token_counts
from sparsekit.errors import ConfigError, UserError, parse_json
from sparsekit.metrics import squad
from sparsekit.runtime.tasks.base import Output, Outputs
from sparsekit.runtime.tasks.question_answering import QuestionAnsweringAnswers
from sparsekit.tasks.additive import AdditiveTask
from sparsekit.tasks.answer_checks import mistakes
from sparsekit.tasks.base import Data, Labels, Scores, Task
from sparsekit.tasks.checks import checked_splits, metric_problems, missing_columns, no_metrics
from sparsekit.tasks.distances import kl_divergence
from sparsekit.tasks.inputs import padding_side
from sparsekit.tasks.texts import column_problems
from sparsekit.tasks.tokens import made
from sparsekit.tasks.windows import QuestionCollator, windows

# A logit that softmax turns into 0.
EXCLUDED = -1e4


@dataclass(kw_only=True)
class QuestionAnswering(AdditiveTask):
    """Questions on contexts, with answers that are spans of the context.

    A context that is too long for one row becomes several, its windows; a row's `labels` tell how
    its outputs are scored with those of the other windows.

    answers_column: an object with the lists `text` and `answer_start`, as in SQuAD; empty lists for
        a question without an answer.
    doc_stride: the tokens that two successive windows share.
    max_answer_tokens: the tokens of the longest answer that is looked for.
    unanswerable: whether some questions have no answer, as in SQuAD 2.

    In its own form a split has `text` (the question), `text_pair` (the context), `answers` and
    `starts`, lists of one length, and `index`, the number of the question.
    """

    name: ClassVar[str] = "question answering"
    head: ClassVar[type[Any]] = AutoModelForQuestionAnswering
    means: ClassVar[frozenset[str]] = frozenset(squad.METRICS)
    windows: ClassVar[bool] = True

    question_column: str = "question"
    context_column: str = "context"
    answers_column: str = "answers"
    max_length: int = 384
    doc_stride: int = 128
    max_answer_tokens: int = 15
    unanswerable: bool = False
    metrics: list[str] = field(default_factory=lambda: [*squad.METRICS])

    @property
    def answers(self) -> QuestionAnsweringAnswers:
        return QuestionAnsweringAnswers(
            doc_stride=self.doc_stride,
            max_answer_tokens=self.max_answer_tokens,
            unanswerable=self.unanswerable,
        )

    def problems(self) -> list[str]:
        found = metric_problems(self.name, self.metrics, squad.METRICS)
        found += no_metrics(self.metrics, squad.METRICS)
        if not 0 <= self.doc_stride < self.max_length - 4:
            found.append(
                f"dataset.doc_stride {self.doc_stride} leaves no room for a question in "
                f"dataset.max_length {self.max_length}; set a third of it"
            )
        if self.max_answer_tokens < 1:
            found.append(
                f"dataset.max_answer_tokens is {self.max_answer_tokens}, it must be at least 1"
            )
        return found

    def columns(self) -> list[Column]:
        return [
            Column(self.question_column, "dataset.question_column"),
            Column(self.context_column, "dataset.context_column"),
            Column(self.answers_column, "dataset.answers_column", objects=True, role="target"),
        ]

    def load(self, source: Source) -> Data:
        if problems := self.problems():
            raise ConfigError(problems)
        raw = checked_splits(source, self.columns())
        problems = column_problems(raw, self.columns())
        if not problems:
            problems = [p for rows in raw.values() for p in self._answer_problems(rows)]
        if problems:
            raise ConfigError(problems)
        return Data(self, {split: self._rows(rows) for split, rows in raw.items()}, [])

    def tokenized(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """The windows of a data set in SQuAD's form, as `SparseTrainer` takes them.

        Give `SparseTrainer` the same task: an export is checked with its settings.

        Args:
            dataset: has `question_column`, `context_column` and `answers_column`.
            tokenizer: the model's.

        Returns:
            A row for each window, with the model's inputs, `length` in tokens and `labels`.

        Raises:
            ConfigError: settings, columns or answers that do not fit, or no rows.
            UserError: a question that is too long for its context.
        """
        with naming_arguments():
            problems = self.problems() if len(dataset) else ["the data set has no rows"]
            rows = with_origin(dataset.with_format(None), "dataset")
            problems = problems or missing_columns("dataset", rows, self.columns())
            problems = problems or column_problems({"dataset": rows}, self.columns())
            problems = problems or self._answer_problems(rows)
            if problems:
                raise ConfigError(problems)
            return made(self, self._rows(rows), tokenizer)

    def _answer_problems(self, rows: Dataset) -> list[str]:
        """The first row of each kind of mistake in the answers."""
        found: dict[str, str] = {}
        contexts = values(rows, self.context_column)
        for row, (context, value) in enumerate(zip(contexts, self._answers(rows), strict=True)):
            for kind, problem in mistakes(context, value, self.unanswerable):
                found.setdefault(kind, f"{where(rows, [row])}: {problem}")
        return list(found.values())

    def _answers(self, rows: Dataset) -> Iterator[Any]:
        """The answers of each row; in text files an object is its JSON text.

        A text that is no JSON stays as it is, so that `mistakes` names its row.
        """
        for value in values(rows, self.answers_column):
            found = value
            if isinstance(value, str):
                with suppress(ValueError):
                    found = parse_json(value)
            yield found

    def _rows(self, rows: Dataset) -> Dataset:
        answers = list(self._answers(rows))
        return Dataset.from_dict(
            {
                "text": list(values(rows, self.question_column)),
                "text_pair": list(values(rows, self.context_column)),
                "answers": [list(each["text"]) for each in answers],
                "starts": [list(map(int, each["answer_start"])) for each in answers],
                "index": list(range(len(rows))),
            }
        )

    def fingerprint(self, rows: Dataset, label_names: Sequence[str]) -> str:
        return content_hash([json.dumps(row) for row in rows])

    @property
    def tokens_key(self) -> list[str]:
        return [*super().tokens_key, str(self.doc_stride)]

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        return windows(rows, tokenizer, self.max_length, self.doc_stride)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        return QuestionCollator(tokenizer, {f"teacher_{name}": EXCLUDED for name in self.outputs})

    def with_columns(self, columns: Sequence[str]) -> Task:
        return self

    def unlabelled(self, texts: Sequence[Sequence[Any]]) -> Dataset:
        questions, contexts = texts
        empty: list[list[Any]] = [[] for _ in questions]
        return Dataset.from_dict(
            {
                "text": questions,
                "text_pair": contexts,
                "answers": empty,
                "starts": empty,
                "index": list(range(len(questions))),
            }
        )

    def model_options(self, label_names: Sequence[str], config: PreTrainedConfig) -> dict[str, Any]:
        return {"num_labels": 2}

    def check_model(self, config: PreTrainedConfig) -> None:
        if padding_side(config) == "left":
            raise UserError(
                f"the model is of the architecture {config.model_type}, whose batches are padded "
                f"on the left, and {self.name} counts an answer's tokens from the first position; "
                "choose another model, such as a BERT"
            )

    def teacher_order(
        self,
        config: PreTrainedConfig,
        architectures: Sequence[str],
        name: str,
        label_names: list[str],
    ) -> None:
        if not any(map(self.is_head, architectures)):
            raise UserError(
                f"the teacher {name!r} is {' '.join(architectures) or 'of unknown architecture'}, "
                "which answers no questions; choose a checkpoint fine-tuned for question answering"
            )

    def taught_output(self, rows: Dataset, kept: Output) -> Output:
        if [len(each) for each in kept] != list(rows["length"]):
            raise UserError(
                "the teacher has another tokenizer than the student, so that its windows of a "
                "context are others; choose a teacher with the student's vocabulary"
            )
        return kept

    def distance(
        self, name: str, outputs: Any, batch: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        """The KL divergence of the distributions over the tokens of each window."""
        student, teacher = outputs[name], batch[f"teacher_{name}"]
        padding = batch["attention_mask"] == 0
        # Rows of several processes are padded further.
        teacher = F.pad(teacher, (0, student.shape[1] - teacher.shape[1]), value=EXCLUDED)
        return kl_divergence(
            student.masked_fill(padding, EXCLUDED),
            teacher.masked_fill(padding, EXCLUDED),
            temperature,
        )

    def unit_sums(
        self, outputs: Outputs, labels: Labels, label_names: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """Of each question the value of each of `squad.METRICS`, and 1."""
        by_question: dict[int, list[Any]] = {}
        for row, label in enumerate(labels):
            spans = np.array(label["spans"], dtype=np.int64)
            starts, ends = (np.asarray(outputs[n][row])[: len(spans)] for n in self.outputs)
            by_question.setdefault(label["index"], []).append((label, (starts, ends, spans)))
        found = []
        for each in by_question.values():
            best = self.answers.best(_context(each), [window for _, window in each])
            values = squad.values(best[0]["answer"], each[0][0]["answers"])
            found.append([*(values[name] for name in squad.METRICS), 1.0])
        return np.array(found)

    def scores_of(self, sums: npt.NDArray[np.float64]) -> Scores:
        *totals, questions = map(float, sums)
        means = {name: sum_ / questions for name, sum_ in zip(squad.METRICS, totals, strict=True)}
        return {name: means[name] for name in dict.fromkeys(self.metrics)}

    def unit(self, label: Any) -> int:
        return int(label["index"])

    def with_unit(self, label: Any, unit: int) -> Any:
        return {**label, "index": unit}

    def check_columns(self, columns: Sequence[str], name: str) -> None:
        if "input_ids" not in columns or not {"labels", "label"} & {*columns}:
            raise UserError(
                f"{name} has the columns {', '.join(columns)}, not the windows of contexts; make "
                "them of the columns question, context and answers: task = QuestionAnswering(...), "
                f"SparseTrainer(task=task, {name}=task.tokenized(data, tokenizer), ...)"
            )

    def check_rows(self, labels: int, rows: Dataset, name: str, column: str) -> None:
        feature = rows.features["labels"]
        if not isinstance(feature, dict) or not feature.keys() >= {"index", "spans", "answers"}:
            raise UserError(
                f"{name}, column {column} holds no labels of windows; make the rows with "
                "QuestionAnswering(...).tokenized(data, tokenizer)"
            )
        longest = int(token_counts(rows).max())
        numbers = pc.struct_field(rows.with_format("arrow")[:]["labels"], "window")
        # Where a context has several windows, its first one is full.
        full = pc.max(numbers).as_py() > 0
        if longest > self.max_length or (full and longest < self.max_length):
            raise UserError(
                f"{name} has windows of {longest} tokens, and the task's max_length is "
                f"{self.max_length}: an export would be checked on others; give SparseTrainer the "
                "task whose `tokenized` made them, or make them again"
            )

    def gathered_labels(self, gathered: Any, rows: Dataset) -> Labels:
        known = {(label["index"], label["window"]): label for label in rows["labels"]}
        return [known[int(index), int(window)] for index, window in gathered]

    def evaluation_table(self, texts: Dataset, rows: Dataset, outputs: Outputs) -> Dataset:
        """A row for each window: question, context, number of the window, label and outputs.

        The windows of a question follow each other, and the first one alone has the context.
        """
        labels = list(rows["labels"])
        places = [(label["index"], label["window"]) for label in labels]
        order = sorted(range(len(labels)), key=places.__getitem__)
        labels = [labels[row] for row in order]
        columns = {
            "text": [label["question"] for label in labels],
            "text_pair": [label["context"] for label in labels],
            "window": [label["window"] for label in labels],
            "label": labels,
        }
        for name, output in outputs.items():
            columns[name] = [output[row].tolist() for row in order]
        return Dataset.from_dict(columns)


def _context(windows: Sequence[tuple[Mapping[str, Any], Any]]) -> str:
    """The context of a question, which the label of its first window has."""
    for label, _ in windows:
        if label["context"] is not None:
            return str(label["context"])
    label = windows[0][0]
    raise UserError(
        f"the rows have window {label['window']} of question {label['index']} (from 0), but not "
        "its window 0, which has the context; keep all windows of a question, or none"
    )
