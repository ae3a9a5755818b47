"""Token classification: a tag for each word of a text, as in named entity recognition."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from tokenizers import Encoding
from torch import Tensor
from transformers import AutoModelForTokenClassification, PreTrainedConfig, PreTrainedTokenizerBase

from sparsekit.cache import content_hash
from sparsekit.data.collator import IGNORED, Collator
from sparsekit.data.datasets import Source, check_splits
from sparsekit.data.labels import id2label
from sparsekit.data.schema import Column
from sparsekit.data.tags import number_tags
from sparsekit.errors import ConfigError, UserError
from sparsekit.metrics import entities
from sparsekit.runtime.tasks.base import Output, Outputs
from sparsekit.runtime.tasks.token_classification import TokenClassificationAnswers
from sparsekit.runtime.tasks.words import BLANK, deciding_tokens
from sparsekit.tasks.additive import AdditiveTask
from sparsekit.tasks.base import Data, Labels, Scores, Task
from sparsekit.tasks.checks import length_problems, metric_problems, no_metrics
from sparsekit.tasks.distances import kl_divergence
from sparsekit.tasks.labelled import (
    check_label_count,
    check_token_labels,
    label_options,
    order_of_model,
    teacher_label_order,
)
from sparsekit.tasks.means import mean_of_words

# One token, and the special tokens around it.
MIN_LENGTH = 3


@dataclass(kw_only=True)
class TokenClassification(AdditiveTask):
    """A column of lists of words, and one of lists of tags as names or numbers.

    Words are read as the text that they make when blanks join them, as in prediction. The first
    token of a word has its tag. Other tokens of it, and words that `max_length` cuts off, have
    none: they take part in neither loss nor scores. Nor do words to which some tokenizers give no
    token, as a zero-width space.

    tag_names: what the tags 0, 1, ... mean, where the data set does not say it.

    In its own form a split has `tokens`, lists of words, and `tags`, lists of indices.
    """

    name: ClassVar[str] = "token classification"
    head: ClassVar[type[Any]] = AutoModelForTokenClassification
    smooths_labels: ClassVar[bool] = True
    words: ClassVar[bool] = True
    takes_more_texts: ClassVar[bool] = True

    token_column: str = "tokens"
    tag_column: str = "tags"
    tag_names: list[str] | None = None
    metrics: list[str] = field(default_factory=lambda: ["f1"])

    @property
    def answers(self) -> TokenClassificationAnswers:
        return TokenClassificationAnswers()

    def problems(self) -> list[str]:
        return [
            *metric_problems(self.name, self.metrics, entities.METRICS),
            *no_metrics(self.metrics, entities.METRICS),
            *length_problems(self.max_length, MIN_LENGTH),
        ]

    def columns(self) -> list[Column]:
        return [
            Column(self.token_column, "dataset.token_column", lists=True),
            Column(self.tag_column, "dataset.tag_column", lists=True, role="target"),
        ]

    def load(self, source: Source) -> Data:
        if problems := self.problems():
            raise ConfigError(problems)
        raw = source.raw(self.columns())
        check_splits(raw)
        names, tags = number_tags(raw, self.token_column, self.tag_column, self.tag_names)
        if not entities.has_scheme(names) and self.metrics != ["accuracy"]:
            raise ConfigError(
                [
                    f"column {self.tag_column!r} marks no entities (B-..., I-...): it has "
                    f"{', '.join(names[:6])}; set 'dataset.metrics=[accuracy]', or name what "
                    "numbers mean: 'task.tag_names=[O,B-PER,I-PER]'"
                ]
            )
        splits = {
            split: Dataset.from_dict({"tokens": rows[self.token_column][:], "tags": tags[split]})
            for split, rows in raw.items()
        }
        return Data(self, splits, names)

    def with_model_labels(self, data: Data, theirs: Mapping[int, str]) -> Data:
        order = order_of_model(data.label_names, theirs)
        if order is None:
            return data
        splits = {
            split: Dataset.from_dict(
                {
                    "tokens": rows["tokens"][:],
                    "tags": [[order.index(tag) for tag in row] for row in rows["tags"]],
                }
            )
            for split, rows in data.splits.items()
        }
        return Data(data.task, splits, [data.label_names[index] for index in order])

    def fingerprint(self, rows: Dataset, label_names: Sequence[str]) -> str:
        words = (json.dumps(row) for row in rows["tokens"])
        tags = (json.dumps([label_names[tag] for tag in row]) for row in rows["tags"])
        return content_hash([*words, *tags])

    @property
    def tokens_key(self) -> list[str]:
        # Caches of earlier versions hold words that were tokenized without blanks.
        return [*super().tokens_key, "joined by blanks"]

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        texts = [BLANK.join(words) for words in rows["tokens"]]
        encoded = tokenizer(texts, truncation=True, max_length=self.max_length)
        columns = dict(encoded)
        columns["length"] = [len(ids) for ids in columns["input_ids"]]
        columns["labels"] = [
            _labels(words, tags, encoding)
            for words, tags, encoding in zip(
                rows["tokens"], rows["tags"], encoded.encodings, strict=True
            )
        ]
        return columns

    def with_columns(self, columns: Sequence[str]) -> Task:
        tokens = columns[0] if columns else self.token_column
        return replace(self, token_column=tokens, tag_column="labels")

    def unlabelled(self, texts: Sequence[Sequence[Any]]) -> Dataset:
        (rows,) = texts
        return Dataset.from_dict({"tokens": rows, "tags": [[0] * len(row) for row in rows]})

    def more_rows(self, texts: Sequence[Sequence[str]], train: Dataset) -> Dataset:
        (rows,) = texts
        return self.unlabelled([[text.split() for text in rows]]).cast(train.features)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        return Collator(tokenizer, {"labels": IGNORED, "teacher_logits": float("nan")})

    def model_options(self, label_names: Sequence[str], config: PreTrainedConfig) -> dict[str, Any]:
        return label_options(label_names)

    def check_model(self, config: PreTrainedConfig) -> None:
        count = len(id2label(config))
        if count < 2:
            raise UserError(
                f"the model has {count} label; {self.name} needs 2 or more: load it with "
                "num_labels=..."
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
                "which labels no tokens; choose a checkpoint fine-tuned for token classification"
            )
        check_label_count(config, name, label_names)
        return teacher_label_order(config, label_names)

    def kept_output(self, rows: Dataset, output: Output) -> Output:
        """The logits of words, [words, labels], as their first tokens have them."""
        return [
            values[np.array(labels) != IGNORED]
            for values, labels in zip(output, rows["labels"], strict=True)
        ]

    def mean_output(self, each: Sequence[Output]) -> Output:
        return mean_of_words(each)

    def taught_output(self, rows: Dataset, kept: Output) -> Output:
        """The logits of the words that the student's rows have; NaN of those the teacher lacks."""
        taught = []
        for values, labels in zip(kept, rows["labels"], strict=True):
            words = int((np.array(labels) != IGNORED).sum())
            lacking = np.full((max(words - len(values), 0), values.shape[-1]), np.nan, np.float32)
            taught.append(np.concatenate([values[:words], lacking]))
        return taught

    def distance(
        self, name: str, outputs: Any, batch: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        """The KL divergence, a mean over the words that both models label."""
        first, padded = batch["labels"] != IGNORED, batch[f"teacher_{name}"]
        if not padded.shape[1]:  # no row has a word: a mean of nothing
            return torch.full_like(padded.sum(), math.nan)
        # Of each row the teacher's words are those of the student, then padding.
        words = torch.arange(padded.shape[1], device=first.device) < first.sum(dim=1, keepdim=True)
        student, teacher = outputs[name][first], padded[words]
        known = ~teacher.isnan().any(dim=1)
        return kl_divergence(student[known], teacher[known], temperature)

    def loss_items(self, labels: Tensor) -> Tensor:
        return (labels != IGNORED).sum()

    def unit_sums(
        self, outputs: Outputs, labels: Labels, label_names: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """Of each row what `entities.scores` counts."""
        true, predicted = _tags(outputs["logits"], labels, label_names)
        rows = zip(true, predicted, strict=True)
        return np.array([entities.counts(ours, theirs) for ours, theirs in rows], dtype=np.float64)

    def scores_of(self, sums: npt.NDArray[np.float64]) -> Scores:
        values = entities.scores(entities.Counts(*map(int, sums)))
        return {name: values[name] for name in dict.fromkeys(self.metrics)}

    def check_rows(self, labels: int, rows: Dataset, name: str, column: str) -> None:
        check_token_labels(rows, name, column)
        for row, tags in enumerate(rows["labels"]):
            wrong = [tag for tag in tags if tag != IGNORED and not 0 <= tag < labels]
            if wrong:
                raise UserError(
                    f"{name}, row {row} (from 0) has the label {wrong[0]}, the model has the "
                    f"labels 0 to {labels - 1}; load the model with num_labels=..."
                )

    def write_report(
        self,
        folder: Path,
        split: str,
        outputs: Outputs,
        labels: Labels,
        label_names: Sequence[str],
    ) -> None:
        report = entities.report(*_tags(outputs["logits"], labels, label_names))
        text = json.dumps({"rows": len(labels), "entities": report}, indent=2, ensure_ascii=False)
        (folder / f"{split}_entities.json").write_text(text + "\n", encoding="utf-8")


def _labels(words: Sequence[str], tags: Sequence[int], encoding: Encoding) -> list[int]:
    """The tag of each word at the token that decides about it; IGNORED at other tokens."""
    labels = [IGNORED] * len(encoding)
    for token, tag in zip(deciding_tokens(words, encoding), tags, strict=True):
        if token is not None:
            labels[token] = tag
    return labels


def _tags(
    logits: Output, labels: Labels, label_names: Sequence[str]
) -> tuple[list[list[str]], list[list[str]]]:
    """The true and the predicted tags of the words of each row.

    logits: of each row those of its tokens, [tokens, labels], or of its words alone.
    """
    true, predicted = [], []
    for values, row in zip(logits, labels, strict=True):
        first = np.asarray(row) != IGNORED
        tags = np.asarray(row)[first]
        words = values if len(values) == len(tags) else values[: len(first)][first]
        true.append([label_names[tag] for tag in tags])
        predicted.append([label_names[best] for best in np.asarray(words).argmax(axis=-1)])
    return true, predicted
