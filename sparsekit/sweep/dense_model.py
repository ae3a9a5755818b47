"""The model that `sparsekit compress` starts from, and its task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedConfig

from sparsekit.errors import UserError
from sparsekit.models.hub import fetch
from sparsekit.models.loading import read_config
from sparsekit.models.quantizers import is_quantized
from sparsekit.oneshot.checkpoint_task import task_named, task_of_checkpoint
from sparsekit.runs.folder import RunFolder
from sparsekit.sweep.task_words import task_words
from sparsekit.system import expanded
from sparsekit.tasks.base import Task
from sparsekit.tasks.embedding import Embedding
from sparsekit.tasks.masked_lm import MaskedLM
from sparsekit.tasks.sentence_modules import MODULES


@dataclass(frozen=True)
class DenseModel:
    """A model that was fine-tuned for `task`; `words` are overrides that choose it."""

    folder: Path
    task: Task
    words: list[str]


def dense_model(model: str, overrides: Sequence[str]) -> DenseModel:
    """The model of a run, a folder or a Hub id.

    Its task is that of `overrides`, as in task=embedding, else that of the run, else what the
    checkpoint was trained for. Where `overrides` choose it, they name its columns too.

    Raises UserError for a quantized model, and for one without a head for a task.
    """
    run = RunFolder(expanded(model))
    folder = fetch(str(run.model) if run.weights.is_file() else model).absolute()
    if is_quantized(folder):
        raise UserError(f"{model} is quantized already; give the dense model that it was made from")
    config, given = read_config(folder), _given(overrides)
    heads = config.architectures or []
    for head in heads:
        task = given or _trained_for(model, folder, config, head)
        if task is not None and task.is_head(head):
            chosen = {word.partition("=")[0].lstrip("+") for word in overrides}
            settings = {
                key: value
                for key, value in task.settings_of(folder).items()
                if f"dataset.{key}" not in chosen
            }
            words = [] if given else task_words(model, task)
            words += [f"dataset.{key}={value}" for key, value in settings.items()]
            return DenseModel(folder, replace(task, **settings), words)
    purpose = "a task" if given is None else given.name
    embeds = any(map(Embedding().is_head, heads))
    raise UserError(
        f"{model} is {', '.join(heads) or 'no model'}, not fine-tuned for {purpose}; fine-tune it "
        f"first: sparsekit train student.checkpoint={model} recipe=dense teacher=none"
        f"{'; if it gives vectors of texts, add task=embedding' if embeds else ''}"
    )


def _given(overrides: Sequence[str]) -> Task | None:
    """The task that the overrides choose; None where they leave it to the model."""
    choices = [word.partition("=")[2] for word in overrides if word.startswith("task=")]
    return task_named(choices[-1]) if choices else None


def _trained_for(model: str, folder: Path, config: PreTrainedConfig, head: str) -> Task | None:
    """The task of a run or a checkpoint; None where it is none, or none that is deployed."""
    task = task_of_checkpoint(model, config, head)
    known = RunFolder(expanded(model)).config_file.is_file() or (folder / MODULES).is_file()
    # Any pretrained encoder may be saved without a head, embeddings or not.
    if isinstance(task, MaskedLM) or (isinstance(task, Embedding) and not known):
        return None
    return task
