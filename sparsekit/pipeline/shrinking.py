"""A student that is made smaller before it is trained: `student.shrink`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from transformers import set_seed

from sparsekit import __version__
from sparsekit.cache import cached, content_hash
from sparsekit.errors import UserError
from sparsekit.models.contents import weights_hash
from sparsekit.models.hub import fetch
from sparsekit.models.loading import (
    CHECKPOINT,
    SHRINK,
    LoadedModel,
    check_body,
    load_for_task,
)
from sparsekit.oneshot.calibration import TextCollator, draw
from sparsekit.oneshot.shrink import check_unquantized, write_shrunken
from sparsekit.pipeline.plan import Plan
from sparsekit.shape.shrink import Shrink
from sparsekit.tasks.base import Data
from sparsekit.tasks.cache_key import cache_key
from sparsekit.tasks.config import task_node

# In an entry of the cache.
_MODEL = "model"


def load_student(plan: Plan, data: Data) -> LoadedModel:
    """The student with the head of the task, smaller where `student.shrink` asks for that.

    A new head is drawn by the run's seed, as it would be without shrinking. The smaller checkpoint
    is kept in the cache, so that a resumed run has the same. Raises UserError for an architecture
    that cannot be shrunk, and for a method that needs the loss of a head that is not trained.
    """
    student, config = plan.student, plan.student.shrinking
    if config is not None:
        folder = _shrunken(plan, data, config)
        student = replace(student, checkpoint=str(folder), revision=None, shrink=None)
    set_seed(plan.training.seed)
    return student.load(data.task, data.label_names)


def whole_student(plan: Plan) -> list[Path]:
    """The folder of the student before anything is removed of it."""
    return [fetch(plan.student.checkpoint, plan.student.revision, key=CHECKPOINT)]


def _shrunken(plan: Plan, data: Data, config: Shrink) -> Path:
    """The folder of the student's smaller checkpoint, made once for the same weights and rows."""
    [source] = whole_student(plan)
    # The head is the checkpoint's for some labels and a new one for others; metrics change nothing.
    made_for = [asdict(config), {**task_node(data.task), "metrics": None}, data.label_names]
    parts = [__version__, weights_hash(source), json.dumps(made_for, sort_keys=True)]
    if config.measures:
        parts += [data.fingerprint("train"), *cache_key(data.task)]

    def make(folder: Path) -> None:
        check_unquantized(str(source), source)
        loaded, missing = load_for_task(source, data.task, data.label_names)
        check_body(source, missing)
        drawn = None
        if config.measures:
            _check_head(source, data, config, missing)
            collate = TextCollator(data.task, loaded.tokenizer, loaded.model.device)
            drawn = partial(draw, data.splits["train"], collate)
        write_shrunken(
            loaded.model,
            missing,
            source,
            {folder / _MODEL: config},
            drawn,
            {"source": str(source)},
            f"{SHRINK}.",
        )

    return cached("shrunken", content_hash(parts), make) / _MODEL


def _check_head(source: Path, data: Data, config: Shrink, missing: Sequence[str]) -> None:
    """Raise UserError where there is no trained loss for the method to measure."""
    if not missing and not data.task.learns_from_teacher:
        return
    reason = (
        f"{data.task.name} has no loss of labels"
        if data.task.learns_from_teacher
        else f"{source} lacks {', '.join(missing[:3])}: fine-tune it first (recipe=dense), and set "
        "student.checkpoint=RUN/model"
    )
    raise UserError(
        f"{SHRINK}.method={config.method} needs the loss of a model trained for its task, and "
        f"{reason}; or set {SHRINK}.method=magnitude"
    )
