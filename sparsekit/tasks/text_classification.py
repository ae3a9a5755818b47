"""Text classification: one class for each text, or for each pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Value
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from sparsekit import metrics
from sparsekit.cache import content_hash
from sparsekit.data.columns import values
from sparsekit.data.datasets import Source
from sparsekit.data.labels import (
    LabelCase,
    id2label,
    number_labels,
)
from sparsekit.data.schema import Column
from sparsekit.errors import ConfigError, UserError
from sparsekit.metrics.calibration import softmax
from sparsekit.metrics.label_order import order_problem
from sparsekit.metrics.mistakes import confident_mistakes, write_mistakes
from sparsekit.metrics.report import write_report
from sparsekit.metrics.table import METRICS
from sparsekit.runtime.tasks.base import Outputs
from sparsekit.runtime.tasks.text_classification import TextClassificationAnswers
from sparsekit.tasks.base import Data, Labels, Scores, Task
from sparsekit.tasks.checks import checked_splits
from sparsekit.tasks.distances import kl_divergence
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

# The problem type of transformers for one class a row.
SINGLE = "single_label_classification"


@dataclass(kw_only=True)
class TextClassification(Task):
    """One or two columns of text, and a column of classes as numbers or names.

    In its own form a split has `text`, perhaps `text_pair`, and `label`, an index, never -1.
    """

    name: ClassVar[str] = "text classification"
    head: ClassVar[type[Any]] = AutoModelForSequenceClassification
    takes_more_texts: ClassVar[bool] = True
    first_token: ClassVar[bool] = True
    weighs_classes: ClassVar[bool] = True
    smooths_labels: ClassVar[bool] = True
    means: ClassVar[frozenset[str]] = frozenset(
        {"accuracy", "zero_one_loss", "hamming_loss", *(n for n in METRICS if n.startswith("top_"))}
    )

    text_columns: list[str] = field(default_factory=lambda: ["text"])
    label_column: str = "label"
    metrics: list[str] = field(default_factory=lambda: ["accuracy"])
    label_case: LabelCase = "refuse"
    strip_labels: bool = True

    @property
    def answers(self) -> TextClassificationAnswers:
        return TextClassificationAnswers(pairs=reads_pairs(self.text_columns))

    def problems(self) -> list[str]:
        found = setting_problems(self.text_columns, self.max_length)
        try:
            metrics.check(self.metrics)
        except UserError as error:
            return [str(error), *found]
        return found

    def columns(self) -> list[Column]:
        label = Column(
            self.label_column,
            "dataset.label_column",
            role="class",
            strip=self.strip_labels,
            ignore_case=self.label_case == "ignore",
        )
        return [*columns_of(self.text_columns), label]

    def load(self, source: Source) -> Data:
        if problems := self.problems():
            raise ConfigError(problems)
        raw = checked_splits(source, self.columns())
        if wrong := [split for split, rows in raw.items() if not self._has_labels(rows)]:
            raise ConfigError(
                [
                    f"split {split!r}, column {self.label_column!r} holds lists or objects, not "
                    "one label for each row; set dataset.label_column to a column of numbers or "
                    "names"
                    for split in wrong
                ]
            )
        problems = column_problems(raw, self.columns())
        try:
            names, labels = number_labels(
                raw, self.label_column, self.label_case, strip=self.strip_labels
            )
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(problems)
        metrics.check_classes(self.metrics, len(names))
        splits = {
            split: rows_of(raw[split], self.text_columns, pa.array(classes, pa.int64()))
            for split, classes in labels.items()
        }
        return Data(self, splits, names)

    def _has_labels(self, rows: Dataset) -> bool:
        return isinstance(rows.features[self.label_column], Value | ClassLabel)

    def with_model_labels(self, data: Data, theirs: Mapping[int, str]) -> Data:
        order = order_of_model(data.label_names, theirs)
        if order is None:
            return data
        return with_label_order(data, [data.label_names[index] for index in order])

    def fingerprint(self, rows: Dataset, label_names: Sequence[str]) -> str:
        labels = (label_names[index] for index in values(rows, "label"))
        return content_hash(chain(texts_in(rows), labels))

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        return tokenize_texts(rows, tokenizer, self.max_length)

    def with_columns(self, columns: Sequence[str]) -> Task:
        return replace(self, text_columns=list(columns), label_column="labels")

    def unlabelled(self, texts: Sequence[Sequence[Any]]) -> Dataset:
        return unlabelled_texts(texts, 0)

    def model_options(self, label_names: Sequence[str], config: PreTrainedConfig) -> dict[str, Any]:
        # A checkpoint for several labels per text, or for scores, would compute another loss.
        other = config.problem_type not in (None, SINGLE)
        return label_options(label_names) | ({"problem_type": SINGLE} if other else {})

    def check_model(self, config: PreTrainedConfig) -> None:
        labels = id2label(config)
        if config.problem_type not in (None, SINGLE) or len(labels) < 2:
            raise UserError(
                f"the model is for {config.problem_type or 'regression'} ({len(labels)} labels); "
                f"{self.name} needs one of classes: load it with num_labels=2 or more and "
                f'problem_type="{SINGLE}"'
            )

    def teacher_order(
        self,
        config: PreTrainedConfig,
        architectures: Sequence[str],
        name: str,
        label_names: list[str],
    ) -> list[int]:
        if not any(map(self.is_head, architectures)):
            raise UserError(
                f"the teacher {name!r} is {' '.join(architectures) or 'of unknown architecture'}, "
                "not a sequence classifier, so it has no labels to teach; choose a checkpoint "
                "fine-tuned for this task (textattack/bert-base-uncased-rotten-tomatoes, with "
                "hyphens, is one; the one with underscores is a masked language model)"
            )
        check_label_count(config, name, label_names)
        if config.problem_type not in (None, SINGLE):
            raise UserError(
                f"the teacher {name!r} was trained for {config.problem_type.replace('_', ' ')}, so "
                "its logits are not those of one class per text; choose a teacher of the same task"
            )
        return teacher_label_order(config, label_names)

    def distance(
        self, name: str, outputs: Any, batch: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        return kl_divergence(outputs[name], batch[f"teacher_{name}"], temperature)

    def score(self, outputs: Outputs, labels: Labels, label_names: Sequence[str]) -> Scores:
        return metrics.compute(self.metrics, np.asarray(outputs["logits"]), np.array(labels))

    def probabilities(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return softmax(np.asarray(outputs["logits"]))

    @property
    def computed_metrics(self) -> list[str]:
        return metrics.computed_names(self.metrics)

    def check_rows(self, labels: int, rows: Dataset, name: str, column: str) -> None:
        feature = rows.features["labels"]
        kind = getattr(feature, "dtype", type(feature).__name__)
        if not isinstance(feature, ClassLabel) and not str(kind).startswith(("int", "uint")):
            raise UserError(
                f"{name}, column {column} holds {kind}, not one class index for each row; number "
                f"the classes from 0: data.class_encode_column({column!r})"
            )
        values = rows.with_format("arrow")[:]["labels"].cast(pa.int64())
        outside = pc.invert(pc.and_(pc.less(values, labels), pc.greater(values, -1)))
        row = pc.index(pc.fill_null(outside, True), True).as_py()
        if row >= 0:
            raise UserError(
                f"{name}, row {row} (from 0) has the label {values[row].as_py()}, the model has "
                f"the labels 0 to {labels - 1}; remove rows without a label, or load the model "
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
        write_report(folder, split, np.asarray(outputs["logits"]), np.array(labels), label_names)

    def write_mistakes(
        self,
        folder: Path,
        split: str,
        texts: Dataset,
        outputs: Outputs,
        labels: Labels,
        label_names: Sequence[str],
    ) -> None:
        logits = np.asarray(outputs["logits"])
        found = confident_mistakes(logits, np.array(labels), label_names)
        rows = texts.select([mistake.row for mistake in found])
        columns = [name for name in self.answers.columns if name in texts.column_names]
        read = {name: list(rows[name]) for name in columns}
        write_mistakes(folder / f"{split}_mistakes.csv", found, read)

    def teacher_problem(
        self, name: str, outputs: Outputs, labels: Labels, label_names: Sequence[str]
    ) -> str | None:
        return order_problem(name, np.asarray(outputs["logits"]), np.array(labels), label_names)


def with_label_order(data: Data, names: Sequence[str]) -> Data:
    """`data` with labels numbered in the order of `names`, a permutation of its label names."""
    position = np.array([names.index(name) for name in data.label_names])
    splits = {}
    for split, rows in data.splits.items():
        labels = position[np.array(rows["label"])].tolist()
        splits[split] = rows.remove_columns("label").add_column("label", labels)
    return Data(data.task, splits, list(names))
