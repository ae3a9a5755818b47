"""Embedding: a vector of length 1 for each text, learned from those of a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sparsekit.cache import content_hash
from sparsekit.data.columns import values
from sparsekit.data.datasets import Source
from sparsekit.data.schema import Column
from sparsekit.data.scores import read_scores
from sparsekit.errors import ConfigError, UserError
from sparsekit.metrics.embedding import neighbour_overlap, spearman
from sparsekit.runtime.tasks.base import Outputs
from sparsekit.runtime.tasks.embedding import EmbeddingAnswers
from sparsekit.shape.config import shaped
from sparsekit.tasks.base import Data, Labels, Scores, Task
from sparsekit.tasks.checks import checked_splits, length_problems, metric_problems
from sparsekit.tasks.inputs import padding_side
from sparsekit.tasks.sentence_modules import pooling_of
from sparsekit.tasks.texts import column_problems

# One token of text, and the two special tokens around it.
MIN_LENGTH = 3
METRICS = ("spearman", "neighbours")


class Encoder:
    """An encoder without a head and without the pooler that some have for classifiers."""

    @staticmethod
    def from_pretrained(
        folder: str | Path, *, output_loading_info: bool = False, **options: Any
    ) -> Any:
        """The model; with `output_loading_info` also transformers' account of its weights."""
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model, info = shaped(AutoModel, config).from_pretrained(
            folder, output_loading_info=True, **options
        )
        remove_pooler(model)
        for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
            info[kind] = type(info[kind])(key for key in info[kind] if "pooler." not in key)
        return (model, info) if output_loading_info else model


@dataclass(kw_only=True)
class Embedding(Task):
    """Texts, or pairs of texts with a score of their similarity; no labels are needed.

    In its own form each text is a row with `text` and `label`: the number of its pair and the
    pair's score, NaN without one. Training replaces the label by these two and the teacher's
    vector. Pairs are training texts like any others; their scores are for the metric alone.

    text_columns: one column, or the two of a pair.
    score_column: the scores of pairs; null: none.
    pooling: `mean` of all tokens of the last layer, or its `first` token.
    metrics: `spearman`, of cosines against scores, and `neighbours`, the share of nearest texts
        that are the teacher's too; empty: those that can be computed.
    """

    name: ClassVar[str] = "embedding"
    head: ClassVar[type[Any]] = Encoder
    learns_from_teacher: ClassVar[bool] = True
    takes_more_texts: ClassVar[bool] = True
    compares_rows: ClassVar[frozenset[str]] = frozenset({"neighbours"})

    text_columns: list[str] = field(default_factory=lambda: ["text"])
    score_column: str | None = None
    pooling: Literal["mean", "first"] = "mean"

    def __post_init__(self) -> None:
        if not self.metrics:
            self.metrics = [*METRICS] if self.score_column else ["neighbours"]

    @property
    def answers(self) -> EmbeddingAnswers:
        return EmbeddingAnswers()

    def problems(self) -> list[str]:
        found = metric_problems(self.name, self.metrics, METRICS)
        if not 1 <= len(self.text_columns) <= 2:
            found.append(f"dataset.text_columns {self.text_columns} must name 1 or 2 columns")
        if self.score_column is not None and len(self.text_columns) == 1:
            found.append(
                f"dataset.score_column={self.score_column} is the score of pairs, and "
                f"dataset.text_columns {self.text_columns} names one column; name both columns of "
                "the pair, or leave out dataset.score_column"
            )
        if "spearman" in self.metrics and self.score_column is None:
            found.append(
                "dataset.metrics: spearman compares with scores of pairs; set "
                "dataset.score_column, or leave it out"
            )
        return found + length_problems(self.max_length, MIN_LENGTH)

    def columns(self) -> list[Column]:
        found = [Column(name, "dataset.text_columns") for name in self.text_columns]
        if self.score_column is not None:
            found.append(Column(self.score_column, "dataset.score_column", role="target"))
        return found

    def load(self, source: Source) -> Data:
        if problems := self.problems():
            raise ConfigError(problems)
        raw = checked_splits(source, self.columns())
        if problems := column_problems(raw, self.columns()):
            raise ConfigError(problems)
        return Data(self, {split: self._rows(rows) for split, rows in raw.items()}, [])

    def _rows(self, rows: Dataset) -> Dataset:
        scores = [float("nan")] * len(rows)
        if self.score_column is not None:
            scores = read_scores(rows, self.score_column)
        columns = [values(rows, name) for name in self.text_columns]
        texts = [text for row in zip(*columns, strict=True) for text in row]
        labels = [
            [float(pair), score] for pair, score in enumerate(scores) for _ in self.text_columns
        ]
        return Dataset.from_dict({"text": texts, "label": labels})

    def fingerprint(self, rows: Dataset, label_names: Sequence[str]) -> str:
        return content_hash([*rows["text"], *map(str, rows["label"])])

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        columns = dict(tokenizer(list(rows["text"]), truncation=True, max_length=self.max_length))
        columns["length"] = [len(ids) for ids in columns["input_ids"]]
        columns["labels"] = list(rows["label"])
        return columns

    @property
    def tokens_key(self) -> list[str]:
        # A teacher's outputs are kept under it too, and they depend on how they are pooled.
        return [*super().tokens_key, self.pooling]

    def with_columns(self, columns: Sequence[str]) -> Task:
        return replace(self, text_columns=list(columns), score_column=None)

    def unlabelled(self, texts: Sequence[Sequence[Any]]) -> Dataset:
        (rows,) = texts
        labels = [[float(row), float("nan")] for row in range(len(rows))]
        return Dataset.from_dict({"text": rows, "label": labels})

    def more_rows(self, texts: Sequence[Sequence[str]], train: Dataset) -> Dataset:
        # Each text is a pair by itself, whose number no row of `train` has.
        (rows,) = texts
        labels = [[float(len(train) + row), float("nan")] for row in range(len(rows))]
        return Dataset.from_dict({"text": rows, "label": labels}, features=train.features)

    def model_options(self, label_names: Sequence[str], config: PreTrainedConfig) -> dict[str, Any]:
        return {}

    def is_head(self, name: str) -> bool:
        return name.endswith("Model")

    def settings_of(self, folder: Path) -> dict[str, Any]:
        pooling = pooling_of(folder)
        return {} if pooling is None else {"pooling": pooling}

    def check_model(self, config: PreTrainedConfig) -> None:
        if self.pooling == "first" and padding_side(config) == "left":
            raise UserError(
                f"the model is of the architecture {config.model_type}, whose batches are padded "
                "on the left, so that pooling=first would read padding; set dataset.pooling=mean"
            )

    def prepare(self, model: PreTrainedModel) -> None:
        remove_pooler(model)

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
                "not an encoder of embeddings; choose a checkpoint whose config.json names an "
                "architecture such as BertModel, as those of sentence-transformers do"
            )

    def model_outputs(self, output: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The embeddings [rows, features]."""
        return (pooled(output.last_hidden_state, inputs["attention_mask"], self.pooling),)

    def distance(
        self, name: str, outputs: Any, batch: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        [embeddings] = self.model_outputs(outputs, batch)
        return embedding_distance(embeddings, batch[f"teacher_{name}"])

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        [embeddings] = self.model_outputs(outputs, batch)
        return embedding_distance(embeddings, batch["labels"][:, 2:])

    def with_teacher(self, rows: Dataset, outputs: Outputs) -> Dataset:
        vectors = outputs["sentence_embedding"]
        labels = [
            [*label, *vector.tolist()]
            for label, vector in zip(self._pairs(rows), vectors, strict=True)
        ]
        if "labels" in rows.column_names:
            rows = rows.remove_columns("labels")
        return rows.add_column("labels", labels)

    def _pairs(self, rows: Dataset) -> list[list[float]]:
        """The number of the pair and the score of each row; of rows without, NaN."""
        if "labels" in rows.column_names:
            return list(rows["labels"])
        return [[float(row), float("nan")] for row in range(len(rows))]

    def score(self, outputs: Outputs, labels: Labels, label_names: Sequence[str]) -> Scores:
        embeddings, known = (
            np.asarray(outputs["sentence_embedding"]),
            np.asarray(labels, dtype=np.float32),
        )
        found = {}
        if "spearman" in self.metrics:
            order = np.argsort(known[:, 0], kind="stable")
            first, second = embeddings[order[::2]], embeddings[order[1::2]]
            cosines = (first * second).sum(axis=1)
            found["spearman"] = spearman(cosines, known[order[::2], 1])
        # Without a teacher there are no neighbours to compare with.
        if "neighbours" in self.metrics and known.shape[1] > 2:
            found["neighbours"] = neighbour_overlap(embeddings, known[:, 2:])
        return found

    def unit(self, label: Any) -> int:
        return int(label[0])

    def with_unit(self, label: Any, unit: int) -> Any:
        return [unit, *label[1:]]

    def check_rows(self, labels: int, rows: Dataset, name: str, column: str) -> None:
        values = rows["labels"]
        wrong = next((i for i, v in enumerate(values) if not _is_pair(v)), None)
        if wrong is not None:
            raise UserError(
                f"{name}, column {column}, row {wrong} (from 0) holds {values[wrong]!r}, not the "
                "number of the row's pair and its score, as in [0, 4.5] for both texts of the "
                "first pair; embeddings need no labels: remove the column"
            )

    def evaluation_table(self, texts: Dataset, rows: Dataset, outputs: Outputs) -> Dataset:
        # The label of a row holds the teacher's vector, that of `texts` does not.
        return super().evaluation_table(texts.remove_columns("label"), rows, outputs)


def pooled(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """One vector of length 1 for each row, [rows, features].

    hidden: [rows, tokens, features]; attention_mask: [rows, tokens], 1 for tokens of text.
    """
    if pooling == "first":
        vectors = hidden[:, 0]
    else:
        weights = attention_mask[:, :, None].to(hidden.dtype)
        vectors = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    return vectors / (vectors * vectors).sum(dim=1, keepdim=True).sqrt()


def embedding_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """How far vectors of length 1 are from the teacher's, and their cosines from each other's.

    The mean over rows of 1 - cosine, which is half the squared distance of the two vectors, plus
    the mean squared difference of the cosines between all rows of the batch. Of vectors of
    another size than the teacher's it is the second term alone.

    student: [rows, features]; teacher: [rows, features of the teacher]. Returns a scalar.
    """
    student, teacher = student.float(), teacher.float()
    distance = F.mse_loss(student @ student.T, teacher @ teacher.T)
    if student.shape == teacher.shape:
        distance = distance + (1 - (student * teacher).sum(dim=1)).mean()
    return distance


@torch.no_grad()
def remove_pooler(model: PreTrainedModel) -> None:
    """Remove the layers after the last one that BERT and similar models have for classifiers."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]


def _is_pair(label: Any) -> bool:
    return (
        isinstance(label, list)
        and len(label) == 2
        and all(isinstance(value, int | float) for value in label)
    )
