"""What became of a sweep's jobs, as a table and as one message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from sparsekit.runs import Ending, ending
from sparsekit.sweep.jobs import Job


def outcome(job: Job) -> Ending:
    """How the job's run ended, as its folder says."""
    if job.folder is None:
        return Ending(status="not run", error=job.error)
    return ending(job.folder)


def label(job: Job, axes: Sequence[str]) -> str:
    """The job's values along the axes; all of its overrides where the sweep has none."""
    varied = [text for text in job.overrides if text.partition("=")[0] in axes]
    return " ".join(varied or job.overrides)


def summary_table(jobs: Sequence[Job], axes: Sequence[str], folder: Path) -> Table:
    """A row a job: folder, values along the axes, status, the first metric on validation, sparsity
    and median latency."""
    view = Table(title=f"sweep {folder}")
    # Spaces, at which a narrow terminal may break.
    swept = [axis.rpartition(".")[2].replace("_", " ") for axis in axes]
    for heading in ("run", *swept, "status"):
        view.add_column(heading, overflow="fold")
    for heading in ("score", "zeros", "ms"):
        view.add_column(heading, justify="right")
    for job in jobs:
        end = outcome(job)
        values = dict(text.partition("=")[::2] for text in job.overrides)
        status = f"{end.status}{' earlier' if job.reused else ''}"
        cells = [job.folder.name if job.folder else "", *(values.get(axis, "") for axis in axes)]
        view.add_row(*map(Text, (*cells, status, *_results(end))))
    return view


def _results(end: Ending) -> tuple[str, str, str]:
    summary = end.summary or {}
    metrics = (summary.get("metrics") or {}).get("validation") or {}
    sparsity = (summary.get("sparsity") or {}).get("overall")
    latencies = [timing["latency_ms_p50"] for timing in (summary.get("runtime") or {}).values()]
    return (
        " ".join(f"{value:.4f}" for value in list(metrics.values())[:1]),
        "" if sparsity is None else f"{sparsity:.1%}",
        " ".join(f"{value:.2f}" for value in latencies),
    )


def failures(jobs: Sequence[Job], axes: Sequence[str]) -> str | None:
    """One message that names the failed jobs and their first line of error; None without any."""
    lines = []
    for job in jobs:
        end = outcome(job)
        if end.status != "completed":
            where = job.folder.name if job.folder else "-"
            why = (end.error or "no error recorded").splitlines()[0]
            lines.append(f"- {where} ({label(job, axes)}): {end.status}: {why}")
    if not lines:
        return None
    return f"{len(lines)} of {len(jobs)} jobs failed\n" + "\n".join(lines)
