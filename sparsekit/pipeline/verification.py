"""Verification of a finished run: everything is read back from disk and computed again."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsekit.config.build import build
from sparsekit.errors import UserError
from sparsekit.models.pruning import sparsity
from sparsekit.onnx.check import check_parameters, check_structure, read_graph, stored_arrays
from sparsekit.onnx.export import ExportConfig, verify
from sparsekit.onnx.layers import other_bytes, read_layers
from sparsekit.onnx.trace import load_model, trace
from sparsekit.pipeline.file_checks import (
    TOLERANCE,
    check_files,
    check_summary,
    describe_failure,
    mapping,
)
from sparsekit.pipeline.planned_zeros import check_planned_zeros
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.evaluation_table import as_outputs, read_columns
from sparsekit.sparsity.prunable import prunable
from sparsekit.tasks.base import Task
from sparsekit.tasks.config import task_of


def verify_run(run: RunFolder, summary: dict[str, Any]) -> dict[str, str]:
    """The result of each check by its name; `summary` is the run's.

    The files are compared with their checksums, and the zeros of the saved weights with the
    recipe's plan.
    Sparsity, the graph's weights, the count of int8 matmuls, logits and metrics are computed again
    and compared with the summary. A run that failed after its evaluation is checked like any other,
    and its failure is the first result. Raises UserError naming the file or the check that failed,
    and for a run that failed before its evaluation: its model may be that of an earlier run.
    """
    recorded = summary.get("export")
    if not recorded or not isinstance(recorded, Mapping):
        raise UserError(f"{run} has no deployment to verify; export it first: sparsekit export RUN")
    failure = describe_failure(run, summary)
    deployment, task = run.deployment, task_of(run)
    files = check_files(run)
    model, state = load_model(run.model, task)
    zeros = check_planned_zeros(run, summary, model)
    layers = read_layers(model, state)
    measured = sparsity(model)
    if claimed := mapping(summary, "sparsity"):
        _same("sparsity", measured["overall"], claimed.get("overall"))
        _same_claims("sparsity of", measured["layers"], mapping(claimed, "layers"))
    _check_metrics(run, task, TextEncoder(deployment).labels, mapping(summary, "metrics"))
    structure = check_structure(run.graph, layers, other_bytes(state, layers), prunable(model))
    for name, value in vars(structure).items():
        _same(name, value, recorded.get(name))
    check_parameters(stored_arrays(read_graph(run.graph)), state)
    node = run.node("export")
    config = build(node, "export", ExportConfig) if node else ExportConfig()
    with tempfile.TemporaryDirectory() as scratch:
        traced = Path(scratch) / "float32.onnx"
        ir.save(trace(model, task), traced)
        parity = verify(run, deployment, traced, model, task, layers, config)
    if recorded.get("verified") and not parity["verified"]:
        raise UserError(
            f"check 'logits' failed: {run.config_file} has export.verify=false, summary.json "
            "says that they were compared; set it to true"
        )
    _same_claims("exported", parity["metrics"] or {}, mapping(recorded, "metrics"))
    check_summary(run)
    return failure | _results(files, zeros, measured["overall"], vars(structure), parity)


def _check_metrics(
    run: RunFolder, task: Task, names: Sequence[str], recorded: Mapping[str, Any]
) -> None:
    """Compare each split's metrics with those of the outputs that torch computed for it."""
    for split in recorded:
        file = run.evaluation(split)
        if not file.is_file():
            raise UserError(f"there is no {file}, whose metrics summary.json has; train again")
        columns = read_columns(file, ["label", *task.outputs])
        outputs = as_outputs(columns, task.outputs, task.per_token)
        found = task.score(outputs, columns["label"], names)
        _same_claims(split, found, mapping(recorded, split))


def _same_claims(what: str, computed: Mapping[str, float], claimed: Mapping[str, Any]) -> None:
    """Raise UserError unless every claimed value is the computed one; some may be missing."""
    for name, value in claimed.items():
        _same(f"{what} {name}", computed.get(name), value)


def _same(name: str, computed: float | None, recorded: Any) -> None:
    if (
        not isinstance(computed, int | float)
        or not isinstance(recorded, int | float)
        or not np.isclose(computed, recorded, rtol=0, atol=TOLERANCE)
    ):
        raise UserError(
            f"check '{name}' failed: it is {computed}, summary.json says {recorded}; the "
            "summary or the run was changed: train or export again"
        )


def _results(
    files: int, zeros: str, share: float, structure: dict[str, Any], parity: dict[str, Any]
) -> dict[str, str]:
    matmuls = structure["int8_matmuls"] + structure["fp32_matmuls"]
    found = {
        "files": f"{files} unchanged since the export",
        "recipe": zeros,
        "sparsity": f"{share:.2%} in the weights, {structure['zero_fraction']:.2%} in the graph",
        "int8 matmuls": f"{structure['int8_matmuls']} of {matmuls}",
    }
    if not parity["verified"]:
        return found | {"logits": "not compared: the run has export.verify=false"}
    found["logits"] = f"within {parity['max_abs_diff']:.2g} of torch's"
    return found | {name: f"{value:.4f}" for name, value in parity["metrics"].items()}
