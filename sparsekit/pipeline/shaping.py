"""A latency that a student is shaped to: its table before training, its measurement at the end."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from sparsekit.benchmark.latency import LatencyGrid, least_seconds, measure_table
from sparsekit.benchmark.requests import BenchmarkConfig
from sparsekit.cache import cached, content_hash
from sparsekit.distributed import FIRST_PROCESS, PROCESSES
from sparsekit.errors import UserError
from sparsekit.models.loading import positions_of
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.choice import runtime_named
from sparsekit.runtime.encoder import read_json
from sparsekit.shape.latency import machine
from sparsekit.shape.ranking import rank
from sparsekit.system import cores, versions
from sparsekit.tasks.base import Task

log = logging.getLogger(__name__)

TABLE = "table.json"


def latency_problems(recipe: Recipe, runtime: BenchmarkConfig | None) -> list[str]:
    """What is wrong with the latencies that modifiers ask for, given the run's runtime."""
    found = []
    for name, modifier in recipe.modifiers.items():
        target = modifier.latency_target
        if target is None or target.problems():
            continue
        where = f"recipe.modifiers.{name}"
        if target.table is None and runtime is None:
            found.append(
                f"{where}: max_latency {target.max_latency} needs a runtime to be measured on; set "
                "runtime=openvino or another one, or recipe.latency_table, a file that "
                "sparsekit latency-table writes"
            )
        elif target.table is not None and runtime is not None:
            measured = target.read().runtime
            if measured != runtime.kind.name:
                found.append(
                    f"{where}: latency_table {target.table} is of runtime {measured}, and the run "
                    f"is timed on {runtime.kind.name}; set runtime={measured}, or measure a table: "
                    f"sparsekit latency-table STUDENT --runtime {runtime.kind.name}"
                )
    return found


def use_latency_tables(
    recipe: Recipe,
    runtime: BenchmarkConfig | None,
    model: PreTrainedModel,
    task: Task,
    run: RunFolder,
) -> None:
    """Give each modifier that has a target the table to solve it by, kept in `latency.json`.

    One that names no table gets one of this machine: of the student `model` on the run's runtime,
    for single texts of the longest length that the task allows. It takes minutes, once: later runs
    find it in the cache. A resumed run uses the table that it began with. Raises UserError for a
    target that no shape of the model reaches, before a teacher is made ready.
    """
    for modifier in recipe.modifiers.values():
        target = modifier.latency_target
        if target is None:
            continue
        if target.table is None:
            assert runtime is not None
            if not run.latency.is_file():
                if PROCESSES > 1:
                    # One process would measure while the others keep its cores busy.
                    raise UserError(
                        "recipe.max_latency measures a table before training, which several "
                        "processes would disturb: measure it first with sparsekit latency-table, "
                        "and set recipe.latency_table"
                    )
                _measure(recipe, runtime, model.config, task, target.sparsity, run)
            modifier.use_latency_table(run.latency)
            target = replace(target, table=run.latency)
        elif FIRST_PROCESS and target.table.resolve() != run.latency.resolve():
            shutil.copyfile(target.table, run.latency)
        target.read().check_tokens(not task.first_token)
        # By scores that do not decide what is removed.
        target.solve(model, rank(model, "magnitude"))


def _measure(
    recipe: Recipe,
    runtime: BenchmarkConfig,
    config: PreTrainedConfig,
    task: Task,
    sparsity: float,
    run: RunFolder,
) -> None:
    kind = runtime.kind
    grid = LatencyGrid(
        threads=runtime.threads or cores(),
        sequence=min(task.max_length, positions_of(config) or task.max_length),
        sparsities=tuple(dict.fromkeys([0.0, sparsity])),
        int8=any(modifier.kind == "quantization" for modifier in recipe.modifiers.values()),
        every_token=not task.first_token,
    )
    key = content_hash(
        [
            json.dumps([machine(), versions(), asdict(grid), kind.name], sort_keys=True),
            json.dumps(config.to_dict(), sort_keys=True, default=str),
        ]
    )

    def make(folder: Any) -> None:
        log.info(
            "recipe.max_latency: first the sizes that layers may have are timed on %s (%d %s, 1 x "
            "%d tokens); it takes some minutes, once on this machine, which should do nothing else",
            kind.name,
            grid.threads,
            "thread" if grid.threads == 1 else "threads",
            grid.sequence,
        )
        measure_table(config, kind, grid).save(folder / TABLE)

    shutil.copyfile(cached("latency-tables", key, make) / TABLE, run.latency)


def with_measured_latency(run: RunFolder, shape: Mapping[str, Any]) -> dict[str, Any]:
    """`summary.shape` with the latency of the exported file, measured as its table was.

    Unchanged where no latency was asked for, and, with a warning, where the table's runtime is not
    installed or its threads are more than the cores.
    """
    latency = shape.get("latency")
    if latency is None:
        return dict(shape)
    if latency["threads"] > cores():
        log.warning(
            "the latency of the exported file was not measured: its table was measured with %d "
            "threads, and this machine has %d cores",
            latency["threads"],
            cores(),
        )
        return dict(shape)
    try:
        runtime = runtime_named(latency["runtime"])(run.graph, latency["threads"])
    except UserError as error:
        log.warning("the latency of the exported file was not measured: %s", error)
        return dict(shape)
    vocabulary = read_json(run.deployment / "config.json")["vocab_size"]
    seconds = least_seconds(runtime, latency["batch"], latency["sequence"], vocabulary)
    return {**shape, "latency": {**latency, "measured_ms": seconds * 1e3}}
