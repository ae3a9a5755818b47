"""A run that failed after its evaluation, completed by `sparsekit export` and `benchmark`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsekit.config.identity import identity_hash
from sparsekit.errors import UserError
from sparsekit.pipeline.verification import verify_run
from sparsekit.runs.folder import RunFolder


def completed(run: RunFolder, summary: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The summary with status completed if everything the config asks for exists and is verified.

    Otherwise the summary unchanged, and the reason why the run stays failed.
    """
    if summary.get("status") == "completed":
        return summary, None
    try:
        if reason := _incomplete(summary, run):
            return summary, reason
        verify_run(run, summary)
    except UserError as error:
        return summary, str(error)
    return {**summary, "status": "completed", "error": None}, None


def _incomplete(summary: Mapping[str, Any], run: RunFolder) -> str | None:
    """Why the run is not complete, whether or not its files are intact; None if it is."""
    if not (summary.get("train") and summary.get("metrics")):
        # model/ may be that of an earlier run in the same folder.
        return "it failed before its model was evaluated: run it again"
    identity = summary.get("config")
    if not isinstance(identity, Mapping) or identity.get("hash") != identity_hash(run.config):
        return (
            "its config.yaml is not what it began with, so that its checks may be others: restore "
            "it, or run it again"
        )
    if not summary.get("export"):
        return "it has no deployment yet: sparsekit export RUN"
    if run.node("runtime") and not summary.get("runtime"):
        return "it was not timed yet: sparsekit export RUN, or benchmark RUN"
    if (run.node("export") or {}).get("push_to_hub") and not summary.get("pushed"):
        return "its deployment was not pushed to the Hub yet: sparsekit export RUN"
    return None
