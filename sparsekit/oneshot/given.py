"""What functions on a model in memory share: its mode, its rows, and how they write problems."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsekit.data.labels import id2label
from sparsekit.data.tokenized import tokenized_rows
from sparsekit.errors import UserError, suggestion
from sparsekit.models.tokenizer import leave_out_types
from sparsekit.modifiers.quantization.fake_quantize import FakeQuantizer
from sparsekit.oneshot.calibration import draw
from sparsekit.sparsity.surgeon import Draw
from sparsekit.tasks.base import Task

# Problems are written with the options of commands.
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")


def as_arguments(problem: str) -> str:
    """`problem` with options of a command written as arguments of a function.

    >>> as_arguments("--num-grads 0 must be 1 or more")
    'num_grads 0 must be 1 or more'
    """
    return _OPTION.sub(lambda option: option[1].replace("-", "_"), problem)


def check_model(model: object, verb: str) -> None:
    """Raise UserError for what is no model of transformers, and for a quantized one.

    verb: what is to be done, in an error message.
    """
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"{verb} takes a transformers model, not a {type(model).__name__}; load it first: "
            "AutoModelForSequenceClassification.from_pretrained(CHECKPOINT)"
        )
    if any(isinstance(module, FakeQuantizer) for module in model.modules()):
        raise UserError(f"the model is quantized already; {verb} it before it is quantized")


def check_settings(settings: Mapping[str, Any], known: Collection[str], verb: str) -> None:
    """Raise UserError for a setting that is not `known`."""
    for name in sorted(settings.keys() - set(known)):
        raise UserError(f"{verb} has no setting {name}{suggestion(name, known)}")


def unmeasurable(
    method: str, task: Task, has_rows: bool, needs_loss: bool, instead: str
) -> list[str]:
    """Why `method` has nothing to measure, if it has nothing.

    has_rows: whether rows and their tokenizer are given. needs_loss: whether it measures the loss
    of labels. instead: a method that does not need it.
    """
    problems = []
    if not has_rows:
        problems.append(
            f"method={method!r} measures on text: pass train_dataset and processing_class"
        )
    if needs_loss and task.learns_from_teacher:
        problems.append(
            f"method={method!r} needs a loss of labels, which {task.name} does not have: set "
            f"method={instead!r}"
        )
    return problems


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode, and afterwards, also after an error, as it was."""
    training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(training)


def given_rows(
    model: PreTrainedModel, task: Task, dataset: Dataset, tokenizer: PreTrainedTokenizerBase
) -> Draw:
    """A function that draws batches of rows on the model's device."""
    labels = len(id2label(model.config))
    check = partial(task.check_rows, labels)
    labelled = not task.learns_from_teacher
    tokenizer = copy.deepcopy(tokenizer)
    leave_out_types(tokenizer, model.config)
    inputs = tokenizer.model_input_names
    rows = tokenized_rows(dataset, inputs, check, "train_dataset", labelled=labelled)
    collate = task.collator(tokenizer)

    def drawn(count: int, seed: int, multiple: int) -> Iterator[Mapping[str, Tensor]]:
        for batch in draw(rows, collate, count, seed, multiple):
            yield {name: values.to(model.device) for name, values in batch.items()}

    return drawn
