"""What commands that change a checkpoint share: calibration data, and a copy written as a whole."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from sparsekit.data.labels import are_numbers, id2label, is_generic, matching_order
from sparsekit.errors import UserError
from sparsekit.models.loading import embedded_tokens, positions_of, read_config
from sparsekit.models.saving import own_names
from sparsekit.models.tokenizer import load_tokenizer
from sparsekit.oneshot.calibration import Collate, TextCollator, read
from sparsekit.oneshot.checkpoint_task import task_of_checkpoint, with_file_columns
from sparsekit.shape.config import KEY
from sparsekit.tasks.base import Data as Rows
from sparsekit.tasks.base import Task
from sparsekit.tasks.sentence_modules import MODULES
from sparsekit.tasks.text_classification import TextClassification

log = logging.getLogger(__name__)

# The files of a checkpoint besides its weights: tokenizer, settings of generation.
_BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model")
# What sentence-transformers computes after the model, such as pooling.
_MODULES = ("[0-9]_*/*.json", "[0-9]_*/*.safetensors")


@dataclass(frozen=True, kw_only=True)
class Data:
    """A csv or json file for calibration.

    text_columns, label_column: None reads the columns of the checkpoint's task.
    max_length: None truncates texts as the task does, or to the model's positions if it has fewer.
    """

    file: Path
    text_columns: list[str] | None = None
    label_column: str | None = None
    max_length: int | None = None


def architecture_of(config: PreTrainedConfig) -> type[PreTrainedModel] | type[AutoModel]:
    """The class of the checkpoint's model, so that its copy keeps every head."""
    for name in config.architectures or []:
        kind = getattr(transformers, name, None)
        if isinstance(kind, type) and issubclass(kind, PreTrainedModel):
            return kind
    return AutoModel


def calibration_rows(
    source: str,
    folder: Path,
    model: PreTrainedModel,
    missing: list[str],
    data: Data,
    measured: str | None,
    instead: str = "",
) -> tuple[Dataset, Collate]:
    """The file's rows with labels in the model's order, and what makes batches of them: see `draw`.

    Args:
        source: the run folder, model folder or Hub id that the user gave.
        folder: the checkpoint.
        model: the model that was loaded from it.
        missing: the weights that the checkpoint lacks.
        data: the file.
        measured: what needs the loss of labels, in an error message; None needs no labels.
        instead: what else there is without labels, in an error message.
    """
    kind = type(model).__name__
    task = task_of_checkpoint(source, model.config, kind)
    labelled = measured is not None
    headless = task is None or task.learns_from_teacher
    if labelled and (headless or missing):
        state = f"a {kind}" if headless else f"one without {', '.join(missing[:3])}"
        raise UserError(
            f"{measured} needs the loss of a model trained for its task, and {folder} is {state}; "
            f"fine-tune it first{instead}"
        )
    task = task or TextClassification()
    # Words are read with their tags.
    label_column = data.label_column if labelled or task.words else None
    task = with_file_columns(task, data.text_columns, label_column)
    task = replace(task, max_length=_max_length(folder, model, data, task))
    rows = read(data.file, task, labelled)
    if labelled and rows.label_names:
        rows = _in_model_order(rows, id2label(model.config), data.file, folder)
    tokenizer = load_tokenizer(folder, model.config, task.max_length, embedded_tokens(model))
    return rows.splits["train"], TextCollator(rows.task, tokenizer, model.device)


def _in_model_order(rows: Rows, theirs: Mapping[int, str], file: Path, folder: Path) -> Rows:
    """`rows` with their labels in the order of `theirs`, the `id2label` of the model in `folder`.

    Labels that the data or the model only number, as in 0 and LABEL_0, are taken in the order that
    they have. Raises UserError for labels of another task.
    """
    ours = rows.label_names
    if matching_order(ours, theirs) is not None:
        return rows.task.with_model_labels(rows, theirs)
    if len(theirs) == len(ours) and is_generic(theirs):
        return rows
    if len(theirs) == len(ours) and are_numbers(ours):
        log.warning(
            "the labels 0 to %d of %s are taken for %s, in the order of %s",
            len(ours) - 1,
            file,
            ", ".join(theirs.values()),
            folder,
        )
        return rows
    raise UserError(
        f"--data {file} has the labels {', '.join(ours)}, but {folder} has "
        f"{', '.join(theirs.values())}; use the data of its task"
    )


def _max_length(folder: Path, model: PreTrainedModel, data: Data, task: Task) -> int:
    """Tokens after which a row is truncated."""
    limit = positions_of(model.config)
    if data.max_length is None:
        return task.max_length if limit is None else min(task.max_length, limit)
    if limit is not None and data.max_length > limit:
        raise UserError(
            f"--max-length {data.max_length} is more than the {limit} positions of {folder}; set "
            f"{limit} or less"
        )
    return data.max_length


def write_copy(
    model: PreTrainedModel,
    missing: Sequence[str],
    folder: Path,
    output: Path,
    name: str,
    record: Mapping[str, Any],
) -> None:
    """Write `model` to the new folder `output`, with the tokenizer of the checkpoint in `folder`.

    The weights `missing`, which the checkpoint lacks, are random, and are left out. The file `name`
    has the values in `record`.
    """
    with _whole(output) as target:
        for path in _beside_weights(folder, model):
            copied = target / path.relative_to(folder)
            copied.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copied)
        with own_names(model):
            weights = {n: w for n, w in model.cpu().state_dict().items() if n not in missing}
            model.save_pretrained(target, state_dict=weights)
        (target / name).write_text(
            json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8"
        )


def _beside_weights(folder: Path, model: PreTrainedModel) -> Iterator[Path]:
    """The files of the checkpoint in `folder` that fit `model` too."""
    for pattern in _BESIDE_WEIGHTS:
        yield from (
            path
            for path in folder.glob(pattern)
            if not path.name.endswith(".index.json") and path.name != MODULES
        )
    # They name the width of the vectors, which `shrink` may have changed.
    widths = [_width(config) for config in (read_config(folder), model.config)]
    if (folder / MODULES).is_file() and widths[0] == widths[1]:
        yield folder / MODULES
        for pattern in _MODULES:
            yield from folder.glob(pattern)


def _width(config: PreTrainedConfig) -> int | None:
    """The width of the hidden states of a model, which may be shaped."""
    width: int | None = getattr(config, "hidden_size", None)
    return getattr(config, KEY, {}).get("hidden", width)


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """A folder to write to, which is renamed to `output` when the block ends without error."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.rename(output)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
