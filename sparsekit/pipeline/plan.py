"""The parts of a run, built from the resolved config and checked before anything is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset

from sparsekit.benchmark.requests import BenchmarkConfig
from sparsekit.config.build import build
from sparsekit.data.datasets import Source
from sparsekit.data.more_texts import MoreTexts
from sparsekit.data.streaming import Streaming
from sparsekit.errors import ConfigError, UserError
from sparsekit.models.loading import LoadedModel, Student
from sparsekit.models.teacher import Teacher
from sparsekit.onnx.export import ExportConfig
from sparsekit.onnx.hub import push_problem
from sparsekit.pipeline.gating import gate_problems
from sparsekit.pipeline.shaping import latency_problems
from sparsekit.pipeline.streaming import streaming_problems
from sparsekit.pipeline.taught_texts import more_texts_problems
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.tracking import Tracker
from sparsekit.tasks.base import Data, Task
from sparsekit.tasks.config import build_more_texts, build_source, build_streaming, build_task
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.training.arguments import SparseTrainingArguments, is_secret
from sparsekit.training.best import best_problems
from sparsekit.training.class_weights import loss_problems, without_effect
from sparsekit.training.resume import past_the_end
from sparsekit.training.stream import StreamedRows

# What trains where the config names no engine, as the configs of earlier versions do.
OWN_ENGINE = "sparsekit.pipeline.engines.sparsekit.SparsekitEngine"

Rows = dict[str, Dataset]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What an engine trains: a student, on tokenized rows by split.

    `teacher_folders` fetches or fine-tunes the teachers when it is called; no folder means that the
    student teaches itself as it is. With `stream` the rows of train are its first block alone.
    `labelled_rows` are the training rows without the texts that only the teacher labels; None where
    there are no such texts.
    """

    student: LoadedModel
    data: Data
    rows: Rows
    teacher_folders: Callable[[], list[Path]]
    stream: StreamedRows | None = None
    labelled_rows: Dataset | None = None


class Engine(Protocol):
    """What trains a student by a recipe."""

    def problems(self, recipe: Recipe, values: Mapping[str, Any]) -> list[str]:
        """What the engine cannot do of the recipe and the resolved config `values`."""

    def train(self, plan: Plan, inputs: Inputs, run: RunFolder, tracker: Tracker) -> dict[str, Any]:
        """Train the student in place and write `model/`; return the summary's training part."""


@dataclass(frozen=True)
class Plan:
    """What a run is made of, each part typed and checked; `values` is the resolved config."""

    values: dict[str, Any]
    task: Task
    dataset: Source
    more_texts: MoreTexts
    streaming: Streaming
    student: Student
    teacher: Teacher
    recipe: Recipe
    training: SparseTrainingArguments
    engine: Engine
    export: ExportConfig | None
    runtime: BenchmarkConfig | None

    @classmethod
    def build(cls, values: dict[str, Any]) -> Plan:
        """The plan of resolved config `values`; raises ConfigError with all problems at once."""
        parts: dict[str, Any] = {"values": values}
        problems = []
        for name in (field.name for field in fields(cls) if field.name not in parts):
            try:
                parts[name] = _part(name, values, parts)
            except ConfigError as error:
                problems += error.problems
            except UserError as error:
                problems.append(str(error))
        if "recipe" in parts:
            problems += parts["recipe"].problems()
            if "teacher" in parts:
                try:
                    has_teacher = parts["teacher"].teaches
                    parts["recipe"] = parts["recipe"].for_teacher(has_teacher)
                except ConfigError as error:
                    problems += error.problems
            problems += _recipe_problems(parts)
        if "engine" in parts and "recipe" in parts:
            problems += parts["engine"].problems(parts["recipe"], values)
        if "student" in parts:
            problems += parts["student"].problems()
        if "task" in parts:
            problems += _task_problems(parts)
        problems += _secret_problems(values)
        problems += streaming_problems(parts)
        problems += _export_problems(parts)
        seed = parts["training"].seed if "training" in parts else 0
        if not 0 <= seed < 2**32:
            problems.append(f"seed is {seed}; set a whole number from 0 to {2**32 - 1}")
        if problems:
            raise ConfigError(problems)
        return cls(**parts)

    def files_hash(self) -> str | None:
        """A hash of the local files that hold the data; None where the config alone names them."""
        return self.more_texts.files_hash(self.dataset.files_hash())


def _secret_problems(values: Mapping[str, Any]) -> list[str]:
    """Tokens in the config, which the files of the run and W&B hold as it is."""
    training = values.get("training") or {}
    return [
        f"training.{name} is in every copy of the config, as in .hydra/ of this run's folder "
        "now and on W&B later: remove it there, leave it out, and set HF_TOKEN in the environment"
        for name, value in training.items()
        if is_secret(name) and value
    ]


def _recipe_problems(parts: Mapping[str, Any]) -> list[str]:
    """What of the training arguments and of the timing does not fit the recipe."""
    recipe, training = parts["recipe"], parts.get("training")
    problems = _without_effect(recipe, parts["values"]["training"])
    if training is not None:
        problems += without_effect(training, recipe)
        if (resumed := training.resume_from_checkpoint) and (
            problem := past_the_end(Path(resumed), recipe.num_epochs, training.max_steps)
        ):
            problems.append(problem)
        # A short trial run without an export may use any schedule.
        if training.max_steps > 0 and parts.get("export"):
            problems += recipe.step_problems(training.max_steps)
    if "runtime" in parts:
        problems += latency_problems(recipe, parts["runtime"])
    return problems


def _export_problems(parts: Mapping[str, Any]) -> list[str]:
    """Why the model would not pass from its export to the gate, the runtime or the Hub."""
    export, runtime = parts.get("export"), parts.get("runtime")
    try:
        problems = gate_problems(export, parts.get("teacher"), parts.get("task"))
    except UserError as error:
        problems = [str(error)]
    if export and runtime and export.form not in runtime.kind.forms:
        problems.append(
            f"export.form={export.form} does not run on runtime={runtime.kind.name}; set "
            f"export.form={runtime.kind.forms[0]}"
        )
    if export and export.push_to_hub and (reason := push_problem()):
        problems.append(f"export.push_to_hub={export.push_to_hub} would fail: {reason}")
    return problems


def _task_problems(parts: Mapping[str, Any]) -> list[str]:
    """What is wrong with the task itself, and what does not fit it."""
    task, recipe = parts["task"], parts.get("recipe")
    problems: list[str] = task.problems()
    if parts.get("export"):
        try:
            _ = task.answers
        except UserError as error:
            problems.append(str(error))
    if "training" in parts:
        problems += loss_problems(parts["training"], task)
    if "more_texts" in parts:
        problems += more_texts_problems(parts["more_texts"], task, parts.get("teacher"), recipe)
    if recipe is not None:
        problems += recipe.task_problems(task)
    if recipe is not None and not problems and "training" in parts:
        problems += best_problems(parts["training"], recipe, task.computed_metrics)
    return problems


def _without_effect(recipe: Recipe, training: Mapping[str, Any]) -> list[str]:
    """Training arguments that are given although something else decides."""
    replaced = {
        argument: replacement
        for argument, replacement in recipe.replaced_arguments().items()
        if argument in training
    }
    # It follows the recipe unless it was set.
    if training.get("num_train_epochs") == recipe.num_epochs:
        replaced.pop("num_train_epochs", None)
    problems = [
        f"training.{argument}={training[argument]} has no effect, because "
        + (
            f"the recipe sets it; remove it and set {replacement.key}"
            if replacement.key
            else f"{replacement.by} decides it and has no such setting; remove it, or that "
            f"modifier: ~{replacement.by}"
        )
        for argument, replacement in replaced.items()
    ]
    if training.get("remove_unused_columns") and recipe.uses_teacher("logits"):
        problems.append(
            "training.remove_unused_columns=true would remove the teacher's logits from the rows; "
            "set it to false"
        )
    return problems


def _part(name: str, values: Mapping[str, Any], parts: Mapping[str, Any]) -> Any:
    """The part called `name`; `parts` are those before it."""
    if name == "task":
        return build_task(values, trusted=True)
    node = values["dataset" if name in ("more_texts", "streaming") else name]
    if name == "more_texts":
        return build_more_texts(node)
    if name == "streaming":
        return build_streaming(node)
    if name == "dataset":
        return build_source(node, parts.get("task") or TextClassification())
    if name == "recipe":
        return Recipe.build(node, trusted=True)
    if name == "engine":
        return build(
            {"_target_": OWN_ENGINE} if node.get("_target_") is None else node, name, trusted=True
        )
    # export=none and runtime=none are nodes without a target.
    return build(node, name, trusted=True) if node.get("_target_") else None
