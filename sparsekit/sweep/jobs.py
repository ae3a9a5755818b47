"""The jobs of a sweep: expanded from its axes, identified by config, matched with earlier runs."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import Override

from sparsekit.config.command_line import assigned
from sparsekit.config.identity import config_hash, identity_hash
from sparsekit.errors import UserError, parse_json
from sparsekit.runs.find import find_runs
from sparsekit.runs.folder import Ending, RunFolder

log = logging.getLogger(__name__)

RERUN = ("failed", "all", "none")
RECORD = "sweep.json"


@dataclass(kw_only=True)
class Job:
    """One job: its overrides, the hash of its resolved config, and the folder of its run.

    `hash` is None if the config does not compose, and `error` is the reason. `data_files` and
    `models` are the hashes of the data set's files and of local models, which the config names by
    path alone. `reused` marks the run of an earlier call; `resumed` marks an interrupted run that
    goes on in its own folder. `number` is the launcher's, which numbers the jobs of a call
    consecutively.
    """

    overrides: list[str]
    hash: str | None = None
    error: str | None = None
    data_files: str | None = None
    models: str | None = None
    folder: Path | None = None
    number: int | None = None
    reused: bool = False
    resumed: bool = False

    @property
    def key(self) -> str:
        """What identifies the job in a later call: its config hash, or its overrides."""
        return self.hash or " ".join(self.overrides)

    @property
    def launched(self) -> list[str]:
        """The overrides that the launcher gets: a resumed job's name its folder."""
        if not self.resumed:
            return self.overrides
        assert self.folder is not None
        # An absolute path, to which joining it to the sweep's folder makes no difference.
        folder = assigned("hydra.sweep.subdir", str(self.folder.absolute()))
        return [*self.overrides, folder, "training.resume_from_checkpoint=auto"]


def expand(overrides: Sequence[Override]) -> tuple[list[list[str]], list[str]]:
    """Every combination of the axes' values as overrides, the last axis fastest, and the axes.

    The last of two overrides of one key counts. Raises UserError for an axis without values.
    """
    axes: dict[str, list[str]] = {}
    swept: dict[str, bool] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            value = override.get_value_element_as_str()
            axes[key] = [key if override.is_delete() else f"{key}={value}"]
        elif override.is_discrete_sweep():
            axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise UserError(f"{override.input_line} is an interval; list its values: {key}=1,2,3")
        if not axes[key]:
            raise UserError(f"{override.input_line} has no values; give at least one: {key}=VALUE")
        swept[key] = override.is_sweep_override()
    jobs = [list(job) for job in itertools.product(*axes.values())]
    return jobs, [key for key, is_swept in swept.items() if is_swept]


def sweep_key(overrides: Sequence[Override]) -> str:
    """The identity of a sweep, whatever the values of its axes: fixed overrides and axis names."""
    parts = {
        override.get_key_element(): None
        if override.is_sweep_override()
        else override.get_value_element_as_str()
        for override in overrides
        if not override.get_key_element().startswith(("hydra.", "hydra/", "sweep.", "tracking"))
    }
    return config_hash(parts)


def earlier_runs(folders: Iterable[Path]) -> dict[str, list[tuple[Path, Ending]]]:
    """The runs of each config hash below the folders, in the order in which they are found."""
    found: dict[str, list[tuple[Path, Ending]]] = {}
    # The sweep's own folder usually lies below the root, where it is found a second time.
    runs = {run.path.resolve(): run for folder in folders for run in find_runs(folder)}
    for run in runs.values():
        end = run.ending
        identity = end.hash or _config_hash(run)
        if identity is not None:
            found.setdefault(identity, []).append((run.path, end))
    return found


def _config_hash(run: RunFolder) -> str | None:
    """The hash of the config of a run that was killed before it wrote its summary."""
    try:
        return identity_hash(run.config)
    except (UserError, AttributeError):
        return None


def to_run(
    jobs: Sequence[Job],
    known: Mapping[str, Sequence[tuple[Path, Ending]]],
    rerun: str,
    resumable: Callable[[RunFolder, Job], bool],
) -> list[Job]:
    """The jobs to run; the others get the folder of their earlier run.

    rerun: failed (jobs that are missing or failed), none (missing jobs only) or all.
    resumable: whether an interrupted run has a checkpoint from which it can go on.

    A job listed twice runs once, and a run on other data or models does not count as the job's. A
    job that is to go on from a checkpoint gets the folder of its interrupted run.
    """
    if rerun not in RERUN:
        raise UserError(f"sweep.rerun={rerun!r} must be one of {', '.join(RERUN)}")
    missing: dict[str, Job] = {}
    for job in jobs:
        if job.hash is None or job.hash in missing:
            continue
        runs = [] if rerun == "all" else known.get(job.hash, [])
        ended = ("completed", "failed") if rerun == "none" else ("completed",)
        finished = [(run, end) for run, end in runs if end.status in ended]
        done = [run for run, end in finished if _same_content(end, job)]
        if done:
            job.folder, job.reused = done[-1], True
            continue
        if finished:
            log.warning("%s has run on other data or models: their files changed", finished[-1][0])
        missing[job.hash] = job
        begun = [run for run, _ in reversed(runs) if resumable(RunFolder(run), job)]
        if begun:
            job.folder, job.resumed = begun[0], True
    return list(missing.values())


def _same_content(end: Ending, job: Job) -> bool:
    """Whether a run read the files that the job would read now, as far as its summary tells."""
    config = (end.summary or {}).get("config")
    recorded = config if isinstance(config, Mapping) else {}
    now = {"data_files": job.data_files, "models": job.models}
    return all(recorded.get(name) in (None, content) for name, content in now.items())


def read_record(folder: Path) -> tuple[str, list[Job]] | None:
    """The key and jobs of `sweep.json` in a sweep's folder; None if it cannot be read."""
    try:
        record = parse_json((folder / RECORD).read_text(encoding="utf-8"))
        jobs = [
            Job(
                overrides=job["overrides"],
                hash=job["hash"],
                folder=(folder / job["folder"]) if job["folder"] else None,
            )
            for job in record["jobs"]
        ]
        return record["key"], jobs
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(folder: Path, key: str, axes: Sequence[str], jobs: Sequence[Job]) -> None:
    """Write `sweep.json`: where each job's run lies, relative to the sweep's folder.

    Jobs of an earlier call with this folder stay listed.
    """
    listed = {job.key: job for job in (read_record(folder) or ("", []))[1]}
    listed |= {job.key: job for job in jobs}
    record = {
        "key": key,
        "axes": list(axes),
        "jobs": [
            {
                "overrides": job.overrides,
                "hash": job.hash,
                "folder": os.path.relpath(job.folder, folder) if job.folder else None,
            }
            for job in listed.values()
        ],
    }
    temporary = folder / f".{RECORD}.tmp"
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / RECORD)


def find_sweep(root: Path, key: str) -> Path | None:
    """The newest sweep below `root` with this key."""
    found = []
    for record in root.glob(f"*/*/{RECORD}"):
        known = read_record(record.parent)
        if known is not None and known[0] == key:
            found.append(record.parent)
    return max(found, default=None)


def next_number(folder: Path) -> int:
    """One more than the largest job number in `folder`, so that no job writes to another's."""
    taken = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    return max(taken, default=-1) + 1
