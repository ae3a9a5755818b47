"""Multi-label classification: any number of labels for each text, or for each pair of texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
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
from sparsekit.data.label_sets import Indicators, indicators_of_columns, indicators_of_lists
from sparsekit.data.schema import Column
from sparsekit.errors import ConfigError, UserError
from sparsekit.metrics import multi_label
from sparsekit.runtime.tasks.base import Output, Outputs
from sparsekit.runtime.tasks.multi_label import MultiLabelAnswers
from sparsekit.tasks.base import Data, Labels, Scores, Task
from sparsekit.tasks.checks import checked_splits, metric_problems, no_metrics
from sparsekit.tasks.distances import bernoulli_divergence
from sparsekit.tasks.labelled import (
    check_label_count,
    label_options,
    order_of_model,
    teacher_label_order,
)
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

# The problem type of transformers for any number of labels a row.
KIND = "multi_label_classification"


@dataclass(kw_only=True)
class MultiLabel(Task):
    """One or two columns of text, and the labels of each row.

    label_columns: columns of 0 and 1, each named after its label; `label_column` is not read then.
    label_column: a column of lists of names.
    label_separator: what joins the names, where `label_column` is text, as in csv files.
    threshold: the least probability of a label that a text gets; None chooses the one with the
        greatest micro F1 on the validation split.

    In its own form a split has `text`, perhaps `text_pair`, and `label`, a list of 0.0 or 1.0 for
    each label.
    """

    name: ClassVar[str] = "multi-label classification"
    head: ClassVar[type[Any]] = AutoModelForSequenceClassification
    first_token: ClassVar[bool] = True
    takes_more_texts: ClassVar[bool] = True

    text_columns: list[str] = field(default_factory=lambda: ["text"])
    label_columns: list[str] = field(default_factory=list)
    label_column: str = "labels"
    label_separator: str | None = None
    threshold: float | None = None
    metrics: list[str] = field(default_factory=lambda: list(multi_label.METRICS))

    @property
    def answers(self) -> MultiLabelAnswers:
        pairs = reads_pairs(self.text_columns)
        if self.threshold is None:
            return MultiLabelAnswers(pairs=pairs)
        return MultiLabelAnswers(pairs=pairs, threshold=self.threshold)

    def problems(self) -> list[str]:
        found = metric_problems(self.name, self.metrics, multi_label.METRICS)
        found += no_metrics(self.metrics, multi_label.METRICS)
        if len(set(self.label_columns)) < len(self.label_columns):
            found.append(f"dataset.label_columns {self.label_columns} names a column twice")
        if self.label_separator == "":
            found.append("dataset.label_separator is empty; set null, or what joins the names")
        if self.threshold is not None and not 0 < self.threshold < 1:
            found.append(
                f"task.threshold is {self.threshold}; set a probability between 0 and 1, or null "
                "to choose it on the validation split"
            )
        return found + setting_problems(self.text_columns, self.max_length)

    def columns(self) -> list[Column]:
        texts = columns_of(self.text_columns)
        if self.label_columns:
            key = "dataset.label_columns"
            return texts + [Column(name, key, role="target") for name in self.label_columns]
        lists = self.label_separator is None
        label = Column(self.label_column, "dataset.label_column", lists=lists, role="labels")
        return [*texts, label]

    def load(self, source: Source) -> Data:
        if problems := self.problems():
            raise ConfigError(problems)
        raw = checked_splits(source, self.columns())
        problems = column_problems(raw, self.columns())
        try:
            names, indicators = self._labels(raw)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(problems)
        splits = {
            split: rows_of(raw[split], self.text_columns, _column(each))
            for split, each in indicators.items()
        }
        return Data(self, splits, names)

    def _labels(self, raw: Mapping[str, Dataset]) -> tuple[list[str], dict[str, Indicators]]:
        if self.label_columns:
            return self.label_columns, indicators_of_columns(raw, self.label_columns)
        return indicators_of_lists(raw, self.label_column, self.label_separator)

    def with_model_labels(self, data: Data, theirs: Mapping[int, str]) -> Data:
        order = order_of_model(data.label_names, theirs)
        if order is None:
            return data
        splits = {
            split: rows.remove_columns("label").add_column(
                "label", _column(_array(rows["label"])[:, order])
            )
            for split, rows in data.splits.items()
        }
        return Data(data.task, splits, [data.label_names[index] for index in order])

    def fingerprint(self, rows: Dataset, label_names: Sequence[str]) -> str:
        labels = (
            json.dumps([name for name, has in zip(label_names, row, strict=True) if has])
            for row in values(rows, "label")
        )
        return content_hash(chain(texts_in(rows), labels))

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        return tokenize_texts(rows, tokenizer, self.max_length)

    def with_columns(self, columns: Sequence[str]) -> Task:
        return replace(
            self,
            text_columns=list(columns),
            label_columns=[],
            label_column="labels",
            label_separator=None,
        )

    def unlabelled(self, texts: Sequence[Sequence[Any]]) -> Dataset:
        return unlabelled_texts(texts, [0.0])

    def more_rows(self, texts: Sequence[Sequence[str]], train: Dataset) -> Dataset:
        width = len(train[0]["label"])
        return unlabelled_texts(texts, [0.0] * width).cast(train.features)

    def model_options(self, label_names: Sequence[str], config: PreTrainedConfig) -> dict[str, Any]:
        return label_options(label_names) | {"problem_type": KIND}

    def check_model(self, config: PreTrainedConfig) -> None:
        if config.problem_type != KIND:
            raise UserError(
                f"the model's problem_type is {config.problem_type!r}; {self.name} needs "
                f'{KIND!r}: load it with problem_type="{KIND}"'
            )

    def teacher_order(
        self,
        config: PreTrainedConfig,
        architectures: Sequence[str],
        name: str,
        label_names: list[str],
    ) -> list[int]:
        if not any(map(self.is_head, architectures)) or config.problem_type != KIND:
            raise UserError(
                f"the teacher {name!r} is {' '.join(architectures) or 'of unknown architecture'} "
                f"with the problem_type {config.problem_type!r}, so its outputs are not one "
                f"probability for each label; choose a checkpoint whose config.json has {KIND!r}"
            )
        check_label_count(config, name, label_names)
        return teacher_label_order(config, label_names)

    def distance(
        self, name: str, outputs: Any, batch: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        return bernoulli_divergence(outputs[name], batch[f"teacher_{name}"], temperature)

    def tuned(self, recorded: Callable[[], tuple[Outputs, Labels]]) -> Task:
        if self.threshold is not None:
            return self
        outputs, labels = recorded()
        return replace(self, threshold=self._threshold(_probabilities(outputs), _array(labels)))

    def _threshold(self, probabilities: npt.NDArray[np.float64], true: Indicators) -> float:
        """The given threshold, or the best one for these rows."""
        if self.threshold is not None:
            return self.threshold
        return multi_label.best_threshold(probabilities, true)

    def score(self, outputs: Outputs, labels: Labels, label_names: Sequence[str]) -> Scores:
        """The metrics; with the best threshold for these rows where none was chosen yet."""
        probabilities, true = _probabilities(outputs), _array(labels)
        threshold = self._threshold(probabilities, true)
        return multi_label.compute(self.metrics, probabilities, true, threshold)

    def check_rows(self, labels: int, rows: Dataset, name: str, column: str) -> None:
        stored = rows.with_format("arrow")[:]["labels"]
        kind = getattr(stored.type, "value_type", stored.type)
        if kind == stored.type or not pa.types.is_floating(kind):
            raise UserError(
                f"{name}, column {column} holds {stored.type}, not a list of 0.0 or 1.0 for each "
                f"of the model's {labels} labels; make one: data.cast_column({column!r}, "
                'List(Value("float32")))'
            )
        for row, each in enumerate(stored.to_pylist()):
            if each is None or len(each) != labels or not {*each} <= {0.0, 1.0}:
                raise UserError(
                    f"{name}, column {column}, row {row} (from 0) is {each}, not a list of 0.0 or "
                    f"1.0 for each of the model's {labels} labels; correct it, or load the model "
                    "with num_labels=..."
                )

    def write_report(
        self,
        folder: Path,
        split: str,
        outputs: Outputs,
        labels: Labels,
        label_names: Sequence[str],
    ) -> None:
        probabilities, true = _probabilities(outputs), _array(labels)
        threshold = self._threshold(probabilities, true)
        found = {
            "rows": len(true),
            "threshold": threshold,
            "labels": multi_label.report(probabilities, true, threshold, label_names),
        }
        text = json.dumps(found, indent=2, ensure_ascii=False)
        (folder / f"{split}_labels.json").write_text(text + "\n", encoding="utf-8")


def _probabilities(outputs: Mapping[str, Output]) -> npt.NDArray[np.float64]:
    return multi_label.probabilities_of(np.asarray(outputs["logits"]))


def _array(labels: Labels) -> Indicators:
    return np.array(labels, dtype=np.float32)


def _column(indicators: Indicators) -> pa.Array:
    """The rows of a matrix as a column of lists."""
    rows, labels = indicators.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * labels, pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(indicators.ravel(), pa.float32()))
