"""The run folder of a SparseTrainer that is used without the launcher.

It has the launcher's layout, so that `sparsekit inspect`, `export`, `verify`, `benchmark`,
`compare` and `predict` work on it. Of several processes, as torchrun starts them, the first one
keeps it, and the others write to folders that are removed when they end.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from sparsekit.config.arguments import naming_arguments
from sparsekit.config.identity import identity_hash
from sparsekit.data.labels import id2label
from sparsekit.data.tokenized import Tokenized, tokenized_rows
from sparsekit.distributed import FIRST_PROCESS, PROCESSES, scratch_folder
from sparsekit.errors import ConfigError, UserError
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.replacement import check_replaceable, mark, remove_results
from sparsekit.runs.summary import describe
from sparsekit.runs.tracking import Tracker
from sparsekit.runs.tracking_callback import TrackerCallback
from sparsekit.system import environment
from sparsekit.tasks.base import Task
from sparsekit.training.conversion import sparse_arguments
from sparsekit.training.given import Given, Teachers
from sparsekit.training.given_config import content_of_rows, contents, given_config
from sparsekit.training.preparation import Prepared, prepare
from sparsekit.training.processes import from_first, leave
from sparsekit.training.record import ScheduleCallback, record_evaluation
from sparsekit.training.resume import chosen_checkpoint, past_the_end, resumed_step
from sparsekit.training.settings import check_unchanged, trained_by

VALIDATION = "validation"
# Where the Trainer writes without arguments.
DEFAULT_OUTPUT = "trainer_output"


def _check_folder(args: TrainingArguments | None, overwrite: bool) -> None:
    """Raise UserError where training would replace a completed run, or files that no run wrote."""
    if not FIRST_PROCESS:
        return  # The folder is the first process's, which may be at work in it already.
    run = RunFolder(Path(str(args.output_dir) if args else DEFAULT_OUTPUT))
    check_replaceable(run, "output_dir")
    if not overwrite and run.ending.status == "completed":
        raise UserError(
            f"{run} holds a completed run, which training would replace; set another output_dir in "
            "args, or pass overwrite=True"
        )


class Session:
    """Writes everything of a run but its weights: config, events, logits and summary."""

    @classmethod
    def begin(cls, given: Given, overwrite: bool) -> Session:
        """The session of a SparseTrainer that was given `given`; raises UserError.

        Args:
            given: the trainer's arguments.
            overwrite: whether a completed run may be replaced.
        """
        _check_folder(given.args, overwrite)
        with naming_arguments():
            recipe = given.build_recipe()
            args = sparse_arguments(given.args, recipe)
            if problems := given.problems(args, recipe):
                raise ConfigError(problems)
            prepared = prepare(given, recipe, args)
        return cls(prepared, given.teacher)

    def __init__(self, prepared: Prepared, teacher: Teachers) -> None:
        shared = RunFolder(Path(str(prepared.args.output_dir)))
        self.run = shared if FIRST_PROCESS else RunFolder(Path(scratch_folder()))
        # Before the Trainer makes its folder of checkpoints in it.
        self.run.path.mkdir(parents=True, exist_ok=True)
        mark(self.run)
        # Checkpoints lie where the launcher's do; the trainer finds the newest there.
        prepared.args.output_dir = str(shared.checkpoints)
        if PROCESSES > 1:
            atexit.register(leave)
        self.prepared = prepared
        self._config = given_config(prepared, teacher)
        self._tracker = Tracker(self.run)
        train_rows = content_of_rows(prepared, prepared.train)
        self._contents = contents(prepared, teacher, train_rows)
        # Kept in every checkpoint, for a run that resumes from it to compare.
        self.trained_by = trained_by(self._config, train_rows)

    @property
    def callbacks(self) -> list[TrainerCallback]:
        """The callbacks that write the schedule and the events."""
        schedule = ScheduleCallback(self.prepared.recipe, self.run, exported=True)
        return [schedule, TrackerCallback(self._tracker)]

    def rows(self, dataset: Any, name: str) -> Dataset:
        """Another data set, given as `name`, as the trainer reads it; it may have no labels."""
        student = self.prepared.student
        labels = len(id2label(student.model.config))
        inputs = student.tokenizer.model_input_names
        check = partial(self.prepared.task.check_rows, labels)
        return tokenized_rows(dataset, inputs, check, name, labelled=False)

    @contextmanager
    def training(self, resume: str | bool | None) -> Iterator[str | None]:
        """Keep the run folder while the block trains from the checkpoint that it gets, if any.

        `summary.json` says how the training ended. Raises UserError where another process trains
        in the folder, and for a checkpoint that is not there or was trained by other settings.
        """
        with naming_arguments(), self.run.lock():
            checkpoint = from_first(self._checkpoint(resume) if FIRST_PROCESS else None)
            remove_results(self.run, resumed_step(checkpoint))
            self._begin()
            try:
                yield checkpoint
            except BaseException as error:
                self._tracker.finish({"status": "failed", "error": describe(error)})
                raise
            self._tracker.finish({})

    def _begin(self) -> None:
        self.run.reserve_space()
        self.run.write_config(self._config)
        self.prepared.recipe.save(self.run.recipe, {})
        known = {
            "config": {"hash": identity_hash(self._config), **self._contents},
            "seed": self.prepared.args.seed,
            "environment": environment(),
        }
        if (scores := self.prepared.teacher_scores) is not None:
            known["teacher"] = {VALIDATION: scores}
        self._tracker.record(known)

    def _checkpoint(self, resume: str | bool | None) -> str | None:
        """The folder of the checkpoint to resume from, by default that of the arguments.

        Raises UserError where this run cannot go on from it.
        """
        args = self.prepared.args
        choice = args.resume_from_checkpoint if resume is None else resume
        checkpoint = chosen_checkpoint(choice, self.run.checkpoints)
        if checkpoint is None:
            return None
        if problem := past_the_end(checkpoint, args.num_train_epochs, args.max_steps):
            raise UserError(problem)
        check_unchanged(str(checkpoint), self.trained_by, args.resume_despite_changes)
        return str(checkpoint)

    def record(self, part: Mapping[str, Any]) -> None:
        """Add keys to the summary."""
        self._tracker.record(part)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Record `results`, evaluate the evaluation split, and write the summary."""
        self.record(results)
        split = self.prepared.evaluation
        if split is not None:
            texts = _texts(split, self.prepared.task, self.prepared.text_columns)
            with naming_arguments():
                scores = record_evaluation(
                    self.prepared.task,
                    self.prepared.student,
                    split.rows,
                    texts,
                    VALIDATION,
                    self.run,
                )
            self._tracker.record({"metrics": {VALIDATION: scores}})
        self._tracker.finish({})


def _texts(split: Tokenized, task: Task, columns: Sequence[str]) -> Dataset:
    """The split's `label` and, where its tokens were made of columns of text, these."""
    texts = dict(zip(task.text_names, columns, strict=False))
    plain = split.dataset.with_format(None)
    kept = {name: list(plain[column]) for name, column in texts.items()}
    return Dataset.from_dict({**kept, "label": list(split.rows["labels"])})
