"""Regression: a number for each text or pair, as similarity or relevance to a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from sparsekit.cache import content_hash
from sparsekit.data.columns import values
from sparsekit.data.datasets import Source
from sparsekit.data.schema import Column
from sparsekit.data.scores import read_scores
from sparsekit.errors import ConfigError, UserError
from sparsekit.metrics import regression
from sparsekit.runtime.tasks.base import Outputs
from sparsekit.runtime.tasks.regression import RegressionAnswers
from sparsekit.tasks.base import Data, Labels, Scores, Task
from sparsekit.tasks.checks import checked_splits, metric_problems, no_metrics
from sparsekit.tasks.labelled import label_options
from sparsekit.tasks.texts import (
    column_problems,
    columns_of,
    reads_pairs,
    rows_of,
    setting_problems,
    texts_in,
    tokenize_texts,
    unlabelled_texts,
)

# The problem type of transformers for a number, and the name of the one output.
KIND = "regression"
OUTPUT = "score"


@dataclass(kw_only=True)
class Regression(Task):
    """One or two columns of text, and a column of numbers.

    In its own form a split has `text`, perhaps `text_pair`, and `label`, a number.
    """

    name: ClassVar[str] = KIND
    head: ClassVar[type[Any]] = AutoModelForSequenceClassification
    takes_more_texts: ClassVar[bool] = True
    first_token: ClassVar[bool] = True

    text_columns: list[str] = field(default_factory=lambda: ["text"])
    label_column: str = "label"
    metrics: list[str] = field(default_factory=lambda: ["pearson", "spearman", "mse"])

    @property
    def answers(self) -> RegressionAnswers:
        return RegressionAnswers(pairs=reads_pairs(self.text_columns))

    def problems(self) -> list[str]:
        return [
            *metric_problems(self.name, self.metrics, regression.METRICS),
            *no_metrics(self.metrics, regression.METRICS),
            *setting_problems(self.text_columns, self.max_length),
        ]

    def columns(self) -> list[Column]:
        label = Column(self.label_column, "dataset.label_column", role="target")
        return [*columns_of(self.text_columns), label]

    def load(self, source: Source) -> Data:
        if problems := self.problems():
            raise ConfigError(problems)
        raw = checked_splits(source, self.columns())
        problems, splits = column_problems(raw, self.columns()), {}
        for split, rows in raw.items():
            try:
                scores = pa.array(read_scores(rows, self.label_column), pa.float32())
                splits[split] = rows_of(rows, self.text_columns, scores)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        return Data(self, splits, [OUTPUT])

    def fingerprint(self, rows: Dataset, label_names: Sequence[str]) -> str:
        return content_hash(chain(texts_in(rows), map(repr, values(rows, "label"))))

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        return tokenize_texts(rows, tokenizer, self.max_length)

    def with_columns(self, columns: Sequence[str]) -> Task:
        return replace(self, text_columns=list(columns), label_column="labels")

    def unlabelled(self, texts: Sequence[Sequence[Any]]) -> Dataset:
        return unlabelled_texts(texts, 0.0)

    def model_options(self, label_names: Sequence[str], config: PreTrainedConfig) -> dict[str, Any]:
        return label_options([OUTPUT]) | {"problem_type": KIND}

    def check_model(self, config: PreTrainedConfig) -> None:
        if config.num_labels != 1 or config.problem_type not in (None, KIND):
            raise UserError(
                f"the model has {config.num_labels} outputs, and {self.name} needs one: load it "
                f'with num_labels=1, problem_type="{KIND}"'
            )

    def teacher_order(
        self,
        config: PreTrainedConfig,
        architectures: Sequence[str],
        name: str,
        label_names: list[str],
    ) -> list[int]:
        fits = any(map(self.is_head, architectures)) and config.num_labels == 1
        if not fits or config.problem_type not in (None, KIND):
            raise UserError(
                f"the teacher {name!r} is {' '.join(architectures) or 'of unknown architecture'} "
                f"with {config.num_labels} outputs, not a model of one number; choose a checkpoint "
                "fine-tuned for regression, such as a cross-encoder"
            )
        return [0]

    def distance(
        self, name: str, outputs: Any, batch: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        return F.mse_loss(outputs[name].float(), batch[f"teacher_{name}"].float())

    def score(self, outputs: Outputs, labels: Labels, label_names: Sequence[str]) -> Scores:
        predicted = np.asarray(outputs["logits"], dtype=np.float64).reshape(len(labels))
        return regression.compute(self.metrics, predicted, np.asarray(labels, dtype=np.float64))

    def check_rows(self, labels: int, rows: Dataset, name: str, column: str) -> None:
        numbers = rows.with_format("arrow")[:]["labels"]
        if not (pa.types.is_floating(numbers.type) or pa.types.is_integer(numbers.type)):
            raise UserError(f"{name}, column {column} holds {numbers.type}, not one number a row")
        array = np.asarray(numbers.cast(pa.float64()), dtype=np.float64)
        if not np.isfinite(array).all():
            row = int(np.isfinite(array).argmin())
            raise UserError(
                f"{name}, column {column}, row {row} (from 0) has no finite number: remove it"
            )
