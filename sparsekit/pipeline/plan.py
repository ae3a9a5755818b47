"""A run's parts, built from the resolved config and checked before anything is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsekit import metrics
from sparsekit.benchmark.requests import BenchmarkConfig
from sparsekit.config.build import build
from sparsekit.data.datasets import TextClassification
from sparsekit.errors import ConfigError, UserError
from sparsekit.export.hub import no_way_to_push
from sparsekit.export.onnx import ExportConfig
from sparsekit.models.loading import Student
from sparsekit.models.teacher import NoTeacher, Teacher
from sparsekit.pipeline.engines.sparseml_engine import SparseML
from sparsekit.recipe.recipe import Recipe
from sparsekit.training.arguments import SparseTrainingArguments


@dataclass(frozen=True)
class Plan:
    """What a run is made of, each part typed and checked."""

    dataset: TextClassification
    student: Student
    teacher: Teacher
    recipe: Recipe
    training: SparseTrainingArguments
    engine: SparseML | None
    export: ExportConfig | None
    runtime: BenchmarkConfig | None

    @classmethod
    def build(cls, values: dict[str, Any]) -> Plan:
        """The plan of resolved config `values`; raises ConfigError with all problems at once."""
        parts: dict[str, Any] = {}
        problems = []
        for name in cls.__dataclass_fields__:
            try:
                parts[name] = _part(name, values[name])
            except ConfigError as error:
                problems += error.problems
            except UserError as error:
                problems.append(str(error))
        if "recipe" in parts:
            problems += parts["recipe"].problems()
            if "teacher" in parts:
                try:
                    has_teacher = not isinstance(parts["teacher"], NoTeacher)
                    parts["recipe"] = parts["recipe"].taught(has_teacher)
                except ConfigError as error:
                    problems += error.problems
            problems += _without_effect(parts["recipe"], values["training"])
            steps = parts["training"].max_steps if "training" in parts else -1
            # Without an export a run of a few steps may try out what it likes.
            if steps > 0 and parts.get("export"):
                problems += parts["recipe"].step_problems(steps)
        if parts.get("engine") and "recipe" in parts:
            problems += parts["engine"].problems(parts["recipe"], values)
        if "student" in parts:
            problems += parts["student"].problems()
        if "dataset" in parts:
            try:
                metrics.check(parts["dataset"].metrics)
            except UserError as error:
                problems.append(str(error))
        seed = parts["training"].seed if "training" in parts else 0
        if not 0 <= seed < 2**32:
            problems.append(f"seed is {seed}; set a whole number from 0 to {2**32 - 1}")
        export, runtime = parts.get("export"), parts.get("runtime")
        if export and runtime and export.form not in runtime.kind.forms:
            problems.append(
                f"export.form={export.form} does not run on runtime={runtime.kind.name}; set "
                f"export.form={runtime.kind.forms[0]}"
            )
        if export and export.push_to_hub and (reason := no_way_to_push()):
            problems.append(f"export.push_to_hub={export.push_to_hub} would fail: {reason}")
        if problems:
            raise ConfigError(problems)
        return cls(**parts)


def _without_effect(recipe: Recipe, training: Mapping[str, Any]) -> list[str]:
    """Training arguments that are given although something else decides."""
    replaced = {
        argument: key
        for argument, key in recipe.replaced_arguments().items()
        if argument in training
    }
    # It follows the recipe unless it was set.
    if training.get("num_train_epochs") == recipe.num_epochs:
        replaced.pop("num_train_epochs", None)
    problems = [
        f"training.{argument}={training[argument]} has no effect, because the recipe sets it; "
        f"remove it and set {key}"
        for argument, key in replaced.items()
    ]
    if training.get("remove_unused_columns") and recipe.needs_teacher("logits"):
        problems.append(
            "training.remove_unused_columns=true would remove the teacher's logits from the rows; "
            "set it to false"
        )
    return problems


def _part(name: str, node: dict[str, Any]) -> Any:
    if name == "recipe":
        return Recipe.build(node)
    # engine=sparsekit, export=none and runtime=none are nodes without a target.
    return build(node, name) if node.get("_target_") else None
