"""The outcome of a sweep's jobs, as a table and as one message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from sparsekit.runs.folder import Ending, RunFolder
from sparsekit.sweep.jobs import Job


def outcome(job: Job) -> Ending:
    """How the job's run ended."""
    if job.folder is None:
        return Ending(status="not run", error=job.error)
    return RunFolder(job.folder).ending


def label(job: Job, axes: Sequence[str]) -> str:
    """The job's values along the axes; all of its overrides where the sweep has none."""
    varied = [text for text in job.overrides if text.partition("=")[0] in axes]
    return " ".join(varied or job.overrides)


def summary_table(jobs: Sequence[Job], axes: Sequence[str], folder: Path) -> Table:
    """A row a job: folder, values along the axes, status, the first metric on validation, sparsity
    and the median latency on each runtime that timed any of them."""
    view = Table(title=f"sweep {folder}")
    # Spaces, at which a narrow terminal may break.
    swept = [axis.rpartition(".")[2].replace("_", " ") for axis in axes]
    ends = [outcome(job) for job in jobs]
    # In the order of the jobs: a sweep may vary the runtime.
    runtimes = list(dict.fromkeys(name for end in ends for name in _latencies(end)))
    for heading in ("run", *swept):
        view.add_column(heading, overflow="fold", min_width=max(map(len, heading.split())))
    view.add_column("status", min_width=len("completed"))
    for heading in ("score", "zeros", *(f"{name}\nms" for name in runtimes)):
        # A truncated name would not identify the runtime.
        view.add_column(heading, justify="right", no_wrap=True)
    for job, end in zip(jobs, ends, strict=True):
        values = dict(text.partition("=")[::2] for text in job.overrides)
        status = f"{end.status}{' earlier' if job.reused else ''}"
        cells = [job.folder.name if job.folder else "", *(values.get(axis, "") for axis in axes)]
        times = _latencies(end)
        measured = [f"{times[name]:.2f}" if name in times else "" for name in runtimes]
        view.add_row(*map(Text, (*cells, status, *_results(end), *measured)))
    return view


def _results(end: Ending) -> tuple[str, str]:
    summary = end.summary or {}
    metrics = (summary.get("metrics") or {}).get("validation") or {}
    sparsity = (summary.get("sparsity") or {}).get("overall")
    return (
        " ".join(f"{value:.4f}" for value in list(metrics.values())[:1]),
        "" if sparsity is None else f"{sparsity:.1%}",
    )


def _latencies(end: Ending) -> dict[str, float]:
    """The median latency in milliseconds on each runtime, by its name."""
    timings = (end.summary or {}).get("runtime") or {}
    return {name: timing["latency_ms_p50"] for name, timing in timings.items()}


def failures(jobs: Sequence[Job], axes: Sequence[str]) -> str | None:
    """One message with each failed job and the first line of its error; None if none failed."""
    lines = []
    for job in jobs:
        end = outcome(job)
        if end.status != "completed":
            where = job.folder.name if job.folder else "-"
            reason = (end.error or "no error recorded").splitlines()[0]
            lines.append(f"- {where} ({label(job, axes)}): {end.status}: {reason}")
    if not lines:
        return None
    return f"{len(lines)} of {len(jobs)} jobs failed\n" + "\n".join(lines)
