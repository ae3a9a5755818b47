"""The rows of a run with `dataset.streaming`: tables, the first block, and the stream."""

from __future__ import annotations

from collections.abc import Mapping

from datasets import Dataset, DatasetDict

from sparsekit.cache import content_hash
from sparsekit.data.columns import BATCH
from sparsekit.data.labels import id2label
from sparsekit.errors import UserError
from sparsekit.models.loading import LoadedModel
from sparsekit.pipeline.plan import Plan, Rows
from sparsekit.tasks.base import Data
from sparsekit.tasks.blocks import TaskBlocks, known_rows, load_tables
from sparsekit.training.stream import StreamedRows


def load_first_block(plan: Plan, labels: Mapping[int, str]) -> tuple[DatasetDict, Data]:
    """The tables and the first block as `train`: as they were read, and in the form of their task.

    labels: the student's `id2label`. Raises UserError for rows that cannot be used.
    """
    tables = plan.dataset.without_train().raw(plan.task.columns())
    data = plan.task.with_model_labels(load_tables(plan.task, tables), labels)
    blocks = _blocks(plan, tables["validation"], data, labels)
    first = next(blocks.raw(), None)
    if first is None:
        raise UserError("dataset.streaming=true: the training data have no row that is used")
    splits = {"train": blocks.loaded(first), **data.splits}
    return DatasetDict({"train": first, **tables}), Data(data.task, splits, data.label_names)


def streamed_rows(
    plan: Plan, raw: Mapping[str, Dataset], data: Data, student: LoadedModel, rows: Rows
) -> StreamedRows:
    """The training rows from the first on; the arguments are what the stages before have made."""
    args = plan.training
    labels = id2label(plan.student.config())
    grouped = args.train_sampling_strategy == "group_by_length"
    return StreamedRows(
        _blocks(plan, raw["validation"], data, labels),
        data.task,
        student.tokenizer,
        first=rows["train"],
        # The files of the other splits may change between two parts of a run.
        fingerprint=content_hash([data.fingerprint("train"), plan.dataset.train_hash() or ""]),
        seed=args.seed if args.data_seed is None else args.data_seed,
        shuffled=plan.streaming.shuffle_buffer > 0,
        batch=args.train_batch_size if grouped else None,
    )


def _blocks(plan: Plan, validation: Dataset, data: Data, labels: Mapping[int, str]) -> TaskBlocks:
    known = known_rows(validation, plan.task.columns())
    size = plan.streaming.shuffle_buffer or BATCH
    return TaskBlocks(plan.dataset, known, data, labels, size)
