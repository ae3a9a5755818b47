"""Masked language modeling: words of a text are hidden, and the model predicts them."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedConfig, PreTrainedTokenizerBase

from sparsekit.cache import content_hash
from sparsekit.data.collator import IGNORED, Collator
from sparsekit.data.columns import values
from sparsekit.data.datasets import Source
from sparsekit.data.schema import Column
from sparsekit.errors import ConfigError, UserError
from sparsekit.runtime.tasks.base import Answers, Output, Outputs
from sparsekit.tasks.base import Data, Labels, Scores, Task
from sparsekit.tasks.checks import (
    checked_splits,
    length_problems,
    metric_problems,
    no_metrics,
)
from sparsekit.tasks.distances import kl_divergence
from sparsekit.tasks.labelled import check_token_labels
from sparsekit.tasks.masking import check_mask_token, hide
from sparsekit.tasks.texts import column_problems

# One token of text, and the two special tokens around it.
MIN_LENGTH = 3
METRICS = ("loss", "perplexity", "accuracy")
# Columns of a summary of logits before those of the most likely words.
LABEL, LIKELIHOOD, OTHERS, WORDS = range(4)
# The largest loss whose exponential is a float.
MAX_LOSS = math.log(sys.float_info.max)


@dataclass(kw_only=True)
class MaskedLM(Task):
    """A column of texts; no labels are needed.

    A share of each text's tokens is hidden and predicted, as BERT was pretrained (Devlin et al.,
    2019). Which ones is drawn once for each text, by the text itself, so that a teacher reads the
    very same rows and its outputs can be cached; `maskings` hides others in copies of the text.

    What is kept of the logits of a hidden token is a summary of 3 + 2 `teacher_words` values: the
    true word, its log-probability, the logsumexp of the logits of all words that are not among the
    most likely ones, then the logits and the indices of these.

    mask_probability: the share of a text's tokens that are hidden, at least one.
    whole_words: whether all tokens of a word are hidden together.
    maskings: how many times each text is read, each time with other tokens hidden.
    teacher_words: how many of the teacher's most likely words the student learns from.

    In its own form a split has `text` alone.
    """

    name: ClassVar[str] = "masked language modeling"
    head: ClassVar[type[Any]] = AutoModelForMaskedLM
    smooths_labels: ClassVar[bool] = True
    outputs_of_labels: ClassVar[bool] = True

    text_columns: list[str] = field(default_factory=lambda: ["text"])
    mask_probability: float = 0.15
    whole_words: bool = False
    maskings: int = 1
    teacher_words: int = 32
    metrics: list[str] = field(default_factory=lambda: ["loss", "perplexity"])

    @property
    def answers(self) -> Answers:
        """Raises UserError: what is trained is a checkpoint that other tasks start from."""
        raise UserError(
            f"{self.name} makes a checkpoint, not a deployment: train without an export "
            "(export=none runtime=none), then start another task from it with "
            "student.checkpoint=RUN/model"
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("logits",)

    @property
    def per_token(self) -> bool:
        return True

    @property
    def text_names(self) -> tuple[str, ...]:
        return ("text",)

    def problems(self) -> list[str]:
        found = [
            *metric_problems(self.name, self.metrics, METRICS),
            *no_metrics(self.metrics, METRICS),
            *length_problems(self.max_length, MIN_LENGTH),
        ]
        if len(self.text_columns) != 1:
            found.append(
                f"dataset.text_columns {self.text_columns} must name one column: {self.name} reads "
                "single texts"
            )
        if not 0 < self.mask_probability < 1:
            found.append(
                f"task.mask_probability is {self.mask_probability:g}; set a share above 0 and "
                "below 1, such as 0.15"
            )
        found += [
            f"task.{name} is {value}; it must be at least 1"
            for name, value in (("maskings", self.maskings), ("teacher_words", self.teacher_words))
            if value < 1
        ]
        return found

    def columns(self) -> list[Column]:
        return [Column(name, "dataset.text_columns") for name in self.text_columns]

    def load(self, source: Source) -> Data:
        if problems := self.problems():
            raise ConfigError(problems)
        raw = checked_splits(source, self.columns())
        if problems := column_problems(raw, self.columns()):
            raise ConfigError(problems)
        [column] = self.text_columns
        splits = {
            split: Dataset.from_dict({"text": list(values(rows, column))})
            for split, rows in raw.items()
        }
        return Data(self, splits, [])

    def fingerprint(self, rows: Dataset, label_names: Sequence[str]) -> str:
        return content_hash(rows["text"])

    @property
    def tokens_key(self) -> list[str]:
        # A teacher's outputs are kept under it too, and they depend on `teacher_words`.
        settings = self.mask_probability, self.whole_words, self.maskings, self.teacher_words
        return [*super().tokens_key, *map(str, settings)]

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        check_mask_token(tokenizer)
        texts = list(rows["text"])
        encoded = tokenizer(texts, truncation=True, max_length=self.max_length)
        whole = encoded.word_ids if self.whole_words else None
        columns: dict[str, list[Any]] = {name: [] for name in [*encoded, "labels"]}
        for row, text in enumerate(texts):
            words = whole(row) if whole else None
            for copy in range(self.maskings):
                generator = np.random.default_rng(int(content_hash([text, str(copy)])[:16], 16))
                ids, labels = hide(
                    encoded["input_ids"][row], words, tokenizer, self.mask_probability, generator
                )
                for name in encoded:
                    columns[name].append(ids if name == "input_ids" else encoded[name][row])
                columns["labels"].append(labels)
        return {**columns, "length": [len(ids) for ids in columns["input_ids"]]}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        return Collator(tokenizer, {"labels": IGNORED, "teacher_logits": float("nan")})

    def with_columns(self, columns: Sequence[str]) -> Task:
        return replace(self, text_columns=list(columns[:1]) or self.text_columns)

    def unlabelled(self, texts: Sequence[Sequence[Any]]) -> Dataset:
        (rows,) = texts
        return Dataset.from_dict({"text": rows})

    def model_options(self, label_names: Sequence[str], config: PreTrainedConfig) -> dict[str, Any]:
        return {}

    def check_model(self, config: PreTrainedConfig) -> None:
        """Every model of the head predicts the words of its vocabulary."""

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
                "which predicts no hidden words; choose a checkpoint pretrained for masked "
                "language modeling"
            )

    def model_outputs(self, output: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Summaries of the logits of hidden tokens, [rows, tokens, 3 + 2 words]; 0 elsewhere.

        inputs: the model's, and `labels`.
        """
        labels, logits = inputs["labels"], output["logits"]
        hidden = labels != IGNORED
        summaries = summary(logits[hidden].float(), labels[hidden], self.teacher_words)
        found = summaries.new_zeros(*labels.shape, summaries.shape[-1])
        found[hidden] = summaries
        return (found,)

    def kept_output(self, rows: Dataset, output: Output) -> Output:
        return _of_hidden(output, rows["labels"])

    def mean_output(self, each: Sequence[Output]) -> Output:
        raise UserError(
            f"teacher.checkpoint names {len(each)} teachers, and of each only the "
            f"{self.teacher_words} most likely words are kept, which have no mean; name one"
        )

    def taught_output(self, rows: Dataset, kept: Output) -> Output:
        for values_, labels in zip(kept, rows["labels"], strict=True):
            true = [label for label in labels if label != IGNORED]
            if [summary_[LABEL] for summary_ in values_] != true:
                raise UserError(
                    "the teacher has another tokenizer than the student, so that other words are "
                    "hidden from it; choose a teacher with the student's vocabulary"
                )
        return kept

    def distance(
        self, name: str, outputs: Any, batch: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        """The KL divergence over the teacher's most likely words and all others together."""
        hidden, padded = batch["labels"] != IGNORED, batch[f"teacher_{name}"]
        if not padded.shape[1]:  # no row has a hidden token: a mean of nothing
            return torch.full_like(padded.sum(), math.nan)
        # Of each row the teacher's tokens are those that are hidden, then padding.
        tokens = torch.arange(padded.shape[1], device=padded.device) < hidden.sum(1, keepdim=True)
        teacher = padded[tokens]
        count = (teacher.shape[-1] - WORDS) // 2
        words = teacher[:, WORDS + count :].long()
        student = likely_and_others(outputs[name][hidden].float(), words)
        return kl_divergence(student, teacher[:, OTHERS : WORDS + count], temperature)

    def loss_items(self, labels: Tensor) -> Tensor:
        return (labels != IGNORED).sum()

    def score(self, outputs: Outputs, labels: Labels, label_names: Sequence[str]) -> Scores:
        found = np.concatenate(_of_hidden(outputs["logits"], labels))
        loss = -float(found[:, LIKELIHOOD].mean(dtype=np.float64))
        if not math.isfinite(loss):
            raise UserError(
                f"the loss of the hidden words is {loss}: training diverged; lower "
                "recipe.init_lr or train in fp32"
            )
        likely = found[:, (found.shape[1] + WORDS) // 2]
        scores = {
            "loss": loss,
            "perplexity": math.exp(loss) if loss <= MAX_LOSS else math.inf,
            "accuracy": float((likely == found[:, LABEL]).mean()),
        }
        return {name: scores[name] for name in dict.fromkeys(self.metrics)}

    def check_rows(self, labels: int, rows: Dataset, name: str, column: str) -> None:
        check_token_labels(rows, name, column)

    def evaluation_table(self, texts: Dataset, rows: Dataset, outputs: Outputs) -> Dataset:
        """A row for each masking of a text."""
        repeated = texts.select(np.repeat(np.arange(len(texts)), len(rows) // len(texts)))
        return super().evaluation_table(repeated, rows, outputs)


def summary(logits: Tensor, labels: Tensor, words: int) -> Tensor:
    """What is kept of logits [tokens, vocabulary]; see `MaskedLM`. labels: [tokens]."""
    count = min(words, logits.shape[-1] - 1)
    indices = logits.topk(count, dim=-1).indices
    likelihood = logits.log_softmax(dim=-1).gather(1, labels[:, None])
    likely = likely_and_others(logits, indices)
    return torch.cat([labels[:, None].float(), likelihood, likely, indices.float()], dim=1)


def likely_and_others(logits: Tensor, words: Tensor) -> Tensor:
    """Logits of the others together and of each of `words`, [tokens, 1 + words].

    Their softmax is that of all logits, with the probabilities of the others added up.

    logits: [tokens, vocabulary]; words: indices [tokens, words], each at most once.
    """
    others = logits.scatter(1, words, -math.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([others, logits.gather(1, words)], dim=1)


def _of_hidden(output: Output, labels: Labels) -> list[npt.NDArray[np.float32]]:
    """Of each row the summaries of its hidden tokens.

    output: of each row those of its tokens, or of its hidden tokens alone.
    """
    found = []
    for values_, row in zip(output, labels, strict=True):
        hidden = np.asarray(row) != IGNORED
        few = len(values_) == hidden.sum()
        found.append(values_ if few else values_[: len(hidden)][hidden])
    return found
