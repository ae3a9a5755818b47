"""Run folders as plain values: config, measures and errors."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsekit.config.identity import NOT_IDENTITY, identity_hash, with_added
from sparsekit.errors import UserError, printable
from sparsekit.metrics.difference import shown_difference
from sparsekit.runs.find import find_runs
from sparsekit.runs.folder import Ending, RunFolder
from sparsekit.runs.launch_record import overrides_of

log = logging.getLogger(__name__)

SWEEP = "sweep.json"
# The status of a run whose gate stopped its deployment: it is measured like a completed one.
STOPPED = "stopped by its gate"
MEASURED = ("completed", STOPPED)
# How the difference of a gate is called, after the metric.
AGAINST = " against dense"
# Hashes of what a config names by its path or not at all: files, models, what is in memory.
CONTENTS = ("data_files", "models", "rows", "weights.layers", "weights.others")


@dataclass(kw_only=True)
class Run:
    """One run folder.

    `config` maps dotted keys to values (`recipe.modifiers.pruning.start`), and groups to choices
    (`student: minilm`); `measures` maps labels to results (`validation accuracy`).
    """

    folder: Path
    status: str
    error: str | None = None
    hash: str | None = None
    seed: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)


def load(folders: Sequence[Path]) -> list[Run]:
    """Every run below the folders once, with those that a sweep reused from earlier sweeps.

    Left out are failed runs that a later one completed, and all but the last completed run of a
    config on the same data and models. Raises UserError for a folder without runs.
    """
    runs: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {folder}; give one that the last line of `sparsekit train` "
                "names after `run:` or `sweep:`"
            )
        paths = [*(run.path for run in find_runs(folder)), *_reused(folder)]
        if not paths:
            raise UserError(
                f"{folder} holds no run: give a run folder, a sweep's folder "
                "(multirun/<date>/<time>) or any folder above them"
            )
        for path in paths:
            real = path.resolve()
            if real not in runs:
                runs[real] = read(path)
    return list(_latest(list(runs.values())))


def read(folder: Path) -> Run:
    """The run in `folder`; never raises for what its files contain."""
    files = RunFolder(folder)
    end = files.ending
    run = Run(folder=folder, status=_status(end), error=end.error, hash=end.hash)
    run.overrides = overrides_of(files)
    try:
        _read_config(run, files.config)
    except (UserError, AttributeError, TypeError, ValueError, RecursionError):
        if run.status in MEASURED:
            run.status, run.error = "broken", "config.yaml is missing or cannot be read"
    try:
        _read_summary(run, end.summary or {})
    except (AttributeError, TypeError, KeyError, ValueError, ArithmeticError) as error:
        problem = printable(f"{type(error).__name__}: {error}")
        run.status, run.error = "broken", f"summary.json: {problem}"
    return run


def _status(ending: Ending) -> str:
    gate = (ending.summary or {}).get("gate")
    stopped = isinstance(gate, dict) and gate.get("passed") is False
    return STOPPED if stopped and ending.status == "failed" else ending.status


def _read_config(run: Run, config: Mapping[str, Any]) -> None:
    run.hash = run.hash or identity_hash(config)
    # Keys that later versions added have their values, so that runs of both are of one config.
    whole = with_added(config)
    run.config = dict(_flat({k: v for k, v in whole.items() if k not in NOT_IDENTITY}))
    for key in ("output_dir", "resume_from_checkpoint", "resume_despite_changes"):
        run.config.pop(f"training.{key}", None)
    seed = config.get("seed")
    run.seed = seed if isinstance(seed, int) else None


def _read_summary(run: Run, summary: Mapping[str, Any]) -> None:
    """The group choices and the measures; a measure that is nan or infinite counts as missing."""
    choices = summary.get("config")
    if isinstance(choices, dict):
        unlike = {"hash", *NOT_IDENTITY}
        run.config |= dict(_flat({k: v for k, v in choices.items() if k not in unlike}))
    measures = {printable(name): value for name, value in _measures(summary)}
    run.measures = {name: value for name, value in measures.items() if math.isfinite(value)}


def _reused(folder: Path) -> Iterator[Path]:
    """Runs of other sweeps that the sweeps below this folder reused."""
    for record in sorted(folder.rglob(SWEEP)):
        for job in _jobs(record):
            path = os.path.join(record.parent, job["folder"])
            # os.path returns False for an impossible name, where Path raises.
            if os.path.isdir(path):
                yield Path(os.path.relpath(path))


def _jobs(record: Path) -> list[dict[str, Any]]:
    """The jobs of a `sweep.json` that have a folder; none where it is damaged."""
    try:
        jobs = json.loads(record.read_bytes())["jobs"]
        return [job for job in jobs if isinstance(job["folder"], str)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _latest(runs: Sequence[Run]) -> Iterator[Run]:
    measured: dict[str, list[Run]] = {}
    # The sort is stable: of equal times the last folder is the latest.
    for run in sorted(runs, key=_ended)[::-1]:
        if run.hash is not None and run.status in MEASURED:
            last = measured.setdefault(run.hash, [])
            if not any(_same_contents(run, other) for other in last):
                last.append(run)
    for run in runs:
        last = measured.get(run.hash or "", [])
        later = [other for other in last if _same_contents(run, other)]
        if run in last or not later:
            yield run
        elif run.status in MEASURED:
            log.warning(
                "%s is left out: %s is a later run of the same config", run.folder, later[0].folder
            )


def _ended(run: Run) -> float:
    """When the run wrote its summary, in seconds; its files record no other time."""
    try:
        return RunFolder(run.folder).summary_file.stat().st_mtime
    except OSError:
        return 0.0


def _same_contents(one: Run, other: Run) -> bool:
    """Whether both read the same, as far as they tell: earlier versions recorded less."""
    pairs = ((one.config.get(key), other.config.get(key)) for key in CONTENTS)
    return all(first is None or second is None or first == second for first, second in pairs)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = printable(f"{prefix}{key}")
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, printable(str(value)) if isinstance(value, str | list | dict) else value


def _measures(summary: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for split, metrics in (summary.get("metrics") or {}).items():
        for name, value in metrics.items():
            yield f"{split} {name}", float(value)
    for name, tested in ((summary.get("gate") or {}).get("metrics") or {}).items():
        yield f"{name}{AGAINST}", shown_difference(name, float(tested["difference"]))
    if overall := summary.get("sparsity"):
        yield "sparsity", float(overall["overall"])
    if shape := summary.get("shape"):
        for name in ("heads", "neurons"):
            if before := sum(shape["before"][name]):
                yield f"{name} left", sum(shape[name]) / before
    for name, timing in (summary.get("runtime") or {}).items():
        yield f"{name} latency ms", float(timing["latency_ms_p50"])
        yield f"{name} items/s", float(timing["items_per_second"])
    if export := summary.get("export"):
        yield "size MB", export["bytes"] / 1e6
        yield "compressed MB", export["bytes_compressed"] / 1e6
    if train := summary.get("train"):
        yield "training s", float(train["seconds"])
