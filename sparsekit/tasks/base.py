"""The contract of a task: all that data, models, training and export ask about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sparsekit.data.collator import Collator
from sparsekit.data.datasets import Source
from sparsekit.data.schema import Column
from sparsekit.runtime.tasks.base import Answers, Output, Outputs
from sparsekit.tasks.means import mean_of_rows

Scores = dict[str, float]
# Of each row: a label, or one for each token.
Labels = Sequence[Any] | npt.NDArray[Any]


@dataclass(frozen=True)
class Data:
    """A data set in the form of its task, regardless of its source.

    splits: the columns that the task reads, under names of the task's own.
    label_names: the labels in the order of the model's outputs; empty where the task has none.
    """

    task: Task
    splits: dict[str, Dataset]
    label_names: list[str]

    def fingerprint(self, split: str) -> str:
        """A hash of all that the task reads of the split."""
        return self.task.fingerprint(self.splits[split], self.label_names)


@dataclass(kw_only=True)
class Task(ABC):
    """What a model is trained for, from the columns of a data set to the scores of its outputs.

    Its fields are keys of the config group `task`, or of `dataset` where they are about the data
    (columns, `max_length`, `metrics`): a field is looked up in both. A class of your own module,
    named by `task._target_`, works like sparsekit's.

    max_length: tokens after which a row is truncated.
    metrics: what evaluation computes.

    name: as messages call it, "text classification".
    head: the class of transformers that loads its models, `AutoModelFor...`.
    first_token: whether the outputs depend on the last layer's output for the first token alone.
    learns_from_teacher: whether the teacher's outputs are all there is to learn. Rows then need no
        labels, every split is taught, and `loss` is the task's loss.
    takes_more_texts: whether its rows are texts that a teacher can label, see `more_rows`.
    weighs_classes: whether the loss is the cross entropy of one class a row, so that
        `training.class_weights` can weigh it.
    smooths_labels: whether the loss is a cross entropy of `logits` against `labels`, so that
        `training.label_smoothing_factor` can smooth these.
    words: whether texts are lists of words.
    windows: whether a text that is longer than `max_length` becomes several rows, instead of being
        truncated.
    outputs_of_labels: whether `model_outputs` reads the batch's `labels`.
    compares_rows: the metrics that compare each row with the others of its split.
    means: the metrics that are means over rows (or over what is scored together) of values from 0
        to 1, so that rows that do not change bound how far the metric does.
    """

    max_length: int = 128
    metrics: list[str] = field(default_factory=list)

    name: ClassVar[str]
    head: ClassVar[type[Any]]
    first_token: ClassVar[bool] = False
    learns_from_teacher: ClassVar[bool] = False
    takes_more_texts: ClassVar[bool] = False
    weighs_classes: ClassVar[bool] = False
    smooths_labels: ClassVar[bool] = False
    words: ClassVar[bool] = False
    windows: ClassVar[bool] = False
    outputs_of_labels: ClassVar[bool] = False
    compares_rows: ClassVar[frozenset[str]] = frozenset()
    means: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def answers(self) -> Answers:
        """The half of the task that needs no torch, as the deployment's `task.json` names it.

        Raises UserError where the task's models are not deployed.
        """

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the model's outputs that are exported, taught and scored."""
        return self.answers.outputs

    @property
    def per_token(self) -> bool:
        """Whether outputs have one entry for each token of a row."""
        return self.answers.per_token

    @property
    def text_names(self) -> tuple[str, ...]:
        """The columns of an evaluation table, and of rows in its own form, with what is read."""
        return self.answers.columns

    # --- Data ---------------------------------------------------------------------------------

    @abstractmethod
    def problems(self) -> list[str]:
        """What is wrong with the fields, each with value, limit and fix."""

    @abstractmethod
    def columns(self) -> list[Column]:
        """The columns of the data set that the task reads."""

    @abstractmethod
    def load(self, source: Source) -> Data:
        """The data of `source`, checked; raises ConfigError with all problems at once."""

    def with_model_labels(self, data: Data, theirs: Mapping[int, str]) -> Data:
        """`data` with its labels in the order of a checkpoint that has the same.

        theirs: the checkpoint's `id2label`.
        """
        return data

    @abstractmethod
    def fingerprint(self, rows: Dataset, label_names: Sequence[str]) -> str:
        """A hash of the texts and labels of a split."""

    @abstractmethod
    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The columns that training reads: the model's inputs, `labels` and `length`, in tokens."""

    @property
    def tokens_key(self) -> list[str]:
        """The settings that decide about tokens and a teacher's outputs; see `cache_key.py`."""
        return [str(self.max_length)]

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        """What makes batches of tokenized rows."""
        return Collator(tokenizer)

    @abstractmethod
    def with_columns(self, columns: Sequence[str]) -> Task:
        """This task with the columns of text that a user's tokenized data set was made of."""

    @abstractmethod
    def unlabelled(self, texts: Sequence[Sequence[Any]]) -> Dataset:
        """Rows in the task's own form of columns of texts, with labels that mean nothing."""

    def more_rows(self, texts: Sequence[Sequence[str]], train: Dataset) -> Dataset:
        """Rows of columns of texts, to be labelled by a teacher, that follow those of `train`.

        train: the training rows in the task's own form, whose features the result has.
        """
        return self.unlabelled(texts).cast(train.features)

    # --- Model --------------------------------------------------------------------------------

    @abstractmethod
    def model_options(self, label_names: Sequence[str], config: PreTrainedConfig) -> dict[str, Any]:
        """Arguments of the head's `from_pretrained`, for a checkpoint with this config."""

    def is_head(self, name: str) -> bool:
        """Whether a model class of this name, such as BertForSequenceClassification, is its."""
        return name.endswith(self.head.__name__.removeprefix("AutoModel"))

    def settings_of(self, folder: Path) -> dict[str, Any]:
        """The fields of the task that the files of a checkpoint decide, with their values.

        Raises UserError where the checkpoint needs what the task does not have.
        """
        return {}

    @abstractmethod
    def check_model(self, config: PreTrainedConfig) -> None:
        """Raise UserError unless a model of the head with this config can be trained."""

    @abstractmethod
    def teacher_order(
        self,
        config: PreTrainedConfig,
        architectures: Sequence[str],
        name: str,
        label_names: list[str],
    ) -> list[int] | None:
        """For each of the data's labels its index in the outputs of the teacher called `name`.

        None where the outputs have no axis of labels. Raises UserError for a teacher of another
        task or of other labels.
        """

    def prepare(self, model: PreTrainedModel) -> None:
        """Change a model of the head in place before it is trained, where the task needs it."""
        return

    def model_outputs(self, output: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The outputs, in the order of their names, of what the model returned for `inputs`.

        inputs: the model's, and `labels` where `outputs_of_labels`.
        """
        return tuple(output[name] for name in self.outputs)

    def teacher_problem(
        self, name: str, outputs: Outputs, labels: Labels, label_names: Sequence[str]
    ) -> str | None:
        """Why the teacher called `name` cannot teach, from its outputs on the validation split.

        The outputs are in the data's order of labels. None: nothing is wrong with it.
        """
        return None

    # --- Teacher ------------------------------------------------------------------------------

    @abstractmethod
    def distance(
        self, name: str, outputs: Any, batch: Mapping[str, Tensor], temperature: float
    ) -> Tensor:
        """How far the student's output `name` is from the teacher's, a scalar with a gradient.

        outputs: what the student returned. batch: its inputs, `labels` and, as `teacher_<name>`,
        the teacher's outputs.
        """

    def loss(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """The task's loss, where the models of the head compute none; see `learns_from_teacher`.

        outputs: what the model returned for `batch`.
        """
        raise NotImplementedError(f"{type(self).__name__} has models that compute their loss")

    def with_teacher(self, rows: Dataset, outputs: Outputs) -> Dataset:
        """Tokenized `rows` of a taught split, with the teacher's outputs among the labels if so."""
        return rows

    def kept_output(self, rows: Dataset, output: Output) -> Output:
        """What is kept of a teacher's output on its own tokenized `rows`.

        It has one form for all tokenizers, so that a student with another one can learn from it.
        """
        return output

    def mean_output(self, each: Sequence[Output]) -> Output:
        """The mean of what was kept of an output of several teachers.

        Raises UserError where there is none.
        """
        return mean_of_rows(each)

    def taught_output(self, rows: Dataset, kept: Output) -> Output:
        """What the student's tokenized `rows` are taught, of what was kept of the teachers.

        It is the column `teacher_<name>`, and has the form that `score` and `distance` expect.
        """
        return kept

    # --- Scores -------------------------------------------------------------------------------

    @abstractmethod
    def score(self, outputs: Outputs, labels: Labels, label_names: Sequence[str]) -> Scores:
        """The metrics of the outputs against the `labels` of tokenized rows."""

    def probabilities(self, outputs: Outputs) -> npt.NDArray[np.float64] | None:
        """Probabilities [rows, classes] where a row has one class; None for other tasks."""
        return None

    def unit(self, label: Any) -> int | None:
        """The number that rows share which are scored together, such as a question's windows.

        None where every row is scored by itself.
        """
        return None

    def with_unit(self, label: Any, unit: int) -> Any:
        """`label`, which has a unit, as that of a row of the unit with another number."""
        raise NotImplementedError(f"{type(self).__name__} scores each row by itself")

    def tuned(self, recorded: Callable[[], tuple[Outputs, Labels]]) -> Task:
        """This task with what it chooses on the validation split once the model is trained.

        recorded: returns the trained model's outputs on the split, and its labels.
        """
        return self

    def gathered_labels(self, gathered: Any, rows: Dataset) -> Labels:
        """What `score` reads, of the labels that the collator's batches of `rows` had, in order."""
        return np.asarray(gathered)

    def loss_items(self, labels: Tensor) -> int | Tensor:
        """Over how many items of a batch the model's loss is a mean: its rows by default.

        What has to be counted on the device is a scalar tensor there: it is never waited for.
        """
        return len(labels)

    @property
    def computed_metrics(self) -> list[str]:
        """The names under which `score` returns the metrics."""
        return list(self.metrics)

    def check_columns(self, columns: Sequence[str], name: str) -> None:
        """Raise UserError where a data set of these columns, given as `name`, was not tokenized.

        Needed only where another call than the tokenizer's makes the rows.
        """
        return

    @abstractmethod
    def check_rows(self, labels: int, rows: Dataset, name: str, column: str) -> None:
        """Raise UserError unless the column `labels` of tokenized rows fits `labels` labels.

        name, column: the argument that the user gave the rows as, and the column's name there.
        """

    def write_report(
        self,
        folder: Path,
        split: str,
        outputs: Outputs,
        labels: Labels,
        label_names: Sequence[str],
    ) -> None:
        """Write to `folder` what the task reports of a split beside its metrics, if anything."""
        return

    def write_mistakes(
        self,
        folder: Path,
        split: str,
        texts: Dataset,
        outputs: Outputs,
        labels: Labels,
        label_names: Sequence[str],
    ) -> None:
        """Write to `folder` the worst mistakes of a split with their `texts`, if the task can."""
        return

    def evaluation_table(self, texts: Dataset, rows: Dataset, outputs: Outputs) -> Dataset:
        """`evaluation/<split>.parquet`: what was read, `label` and the outputs of each row.

        texts: the split in the task's form; rows: the same, tokenized.
        """
        table = texts
        first, *others = self.text_names
        # A single text has no pair. Without texts their columns are left out.
        for name in others if first in table.column_names else ():
            if name not in table.column_names:
                table = table.add_column(name, [None] * len(table))
        if "label" not in table.column_names:
            table = table.add_column("label", list(rows["labels"]))
        for name, output in outputs.items():
            table = table.add_column(name, [row.tolist() for row in output])
        return table
