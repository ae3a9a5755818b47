"""What goes into `summary.json`: errors as text, values as plain JSON or as flat columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsekit.errors import UserError


def describe(error: BaseException) -> str:
    """The text for `summary.error`: a UserError's message, and any other error with its type."""
    if isinstance(error, KeyboardInterrupt):
        return f"stopped by {str(error) or 'SIGINT'}"
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def unfinished(run: object) -> dict[str, str]:
    """Status and error of a run at work on its deployment: what is left of it if it is killed."""
    return {
        "status": "unfinished",
        "error": "it is still running, or it was killed after its model was evaluated; "
        f"complete it: sparsekit export {run}",
    }


def without_deployment(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary without what is known of a deployment; the gate keeps its baseline."""
    known = {k: v for k, v in summary.items() if k not in ("export", "gate", "runtime", "pushed")}
    if against := summary.get("gate", {}).get("against"):
        known["gate"] = {"against": against}
    if latency := (shape := summary.get("shape") or {}).get("latency"):
        predicted = {key: value for key, value in latency.items() if key != "measured_ms"}
        known["shape"] = {**shape, "latency": predicted}
    return known


def scalars(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary as W&B's flat columns: `validation/accuracy`, `sparsity`, `export/bytes`, ...

    Left out: per-layer sparsities, too many for columns; what W&B has already.
    """
    flat: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, Mapping):
            for key, child in value.items():
                walk(child, f"{name}/{key}" if name else str(key))
        elif isinstance(value, bool | int | float | str):
            flat[name.removeprefix("metrics/")] = value

    walk({key: summary[key] for key in summary.keys() - {"config", "environment", "sparsity"}}, "")
    sparsity = summary.get("sparsity", {})
    return flat | ({"sparsity": sparsity["overall"]} if "overall" in sparsity else {})


def plain_json(value: Any) -> Any:
    """Plain JSON: NumPy scalars as numbers, paths as text, nan and inf as text (JSON has none)."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(child) for child in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
