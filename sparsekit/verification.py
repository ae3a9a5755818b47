"""A finished run, checked once more from the outside: everything is read back from disk."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pyarrow.parquet as pq
from safetensors.torch import load_file

from sparsekit import metrics
from sparsekit.config import UserError, build
from sparsekit.export.check import check_structure
from sparsekit.export.layers import other_bytes, read_layers
from sparsekit.export.onnx import ExportConfig, read_settings, verify
from sparsekit.export.sums import check_sums
from sparsekit.export.trace import load_model, trace
from sparsekit.models import prunable, sparsity
from sparsekit.recipe import Recipe

# Shares and metrics are sums over the same numbers: only the order of addition may differ.
TOLERANCE = 1e-9


def verify_run(run: Path, summary: dict[str, Any]) -> dict[str, str]:
    """What was checked, and what was found; `summary` is the run's.

    Files against their sums; the recipe's masks in the saved weights; sparsity, the graph's weights
    and int8 products, logits and metrics, each computed again and compared with the summary.
    Raises UserError naming the file or the check that failed.
    """
    recorded = summary.get("export")
    if not recorded:
        raise UserError(f"{run} has no deployment to verify; export it first: sparsekit export RUN")
    files = check_sums(run) + check_sums(run / "deployment")
    recipe = Recipe.load(run / "model" / "recipe.yaml")
    broken = recipe.violations(load_file(run / "model" / "model.safetensors"))
    if broken:
        raise UserError(f"check 'masks' failed in {run / 'model'}: {'; '.join(broken)}")
    model, state = load_model(run / "model")
    layers = read_layers(model, state)
    found = sparsity(model)["overall"]
    if "sparsity" in summary:
        _same("sparsity", found, summary["sparsity"]["overall"])
    deployment, settings = run / "deployment", read_settings(run / "config.yaml")
    _check_metrics(run, settings["dataset"]["metrics"], summary.get("metrics") or {})
    counted = prunable(model)
    file = deployment / "model.onnx"
    structure = check_structure(file, layers, other_bytes(state, layers), counted)
    for name, value in vars(structure).items():
        _same(name, value, recorded[name])
    node = settings.get("export") or {}
    config = build(node, "export") if node.get("_target_") else ExportConfig()
    with tempfile.TemporaryDirectory() as scratch:
        traced = Path(scratch) / "float32.onnx"
        ir.save(trace(model), traced)
        parity = verify(run, deployment, traced, model, layers, settings, config)
    for name, value in (parity["metrics"] or {}).items():
        _same(name, value, (recorded["metrics"] or {}).get(name, value))
    return _findings(files, recipe, found, vars(structure), parity)


def _check_metrics(run: Path, names: Sequence[str], recorded: Mapping[str, Any]) -> None:
    """The metrics of each split against those of the logits that torch left for it."""
    for split, values in recorded.items():
        file = run / "evaluation" / f"{split}.parquet"
        if not file.is_file():
            raise UserError(f"there is no {file}, whose metrics summary.json has; train again")
        columns = pq.read_table(file, columns=["label", "logits"]).to_pydict()
        logits = np.array(columns["logits"], dtype=np.float32)
        for name, value in metrics.compute(names, logits, np.array(columns["label"])).items():
            _same(f"{split} {name}", value, values.get(name, value))


def _same(name: str, found: float, recorded: float) -> None:
    if not np.isclose(found, recorded, rtol=0, atol=TOLERANCE):
        raise UserError(
            f"check '{name}' failed: it is {found}, summary.json says {recorded}; the summary or "
            "the run was changed: train or export again"
        )


def _findings(
    files: int, recipe: Recipe, share: float, structure: dict[str, Any], parity: dict[str, Any]
) -> dict[str, str]:
    products = structure["int8_matmuls"] + structure["fp32_matmuls"]
    found = {
        "files": f"{files} as they were exported",
        "recipe": f"{recipe.num_epochs:g} epochs; every mask holds in the saved weights",
        "sparsity": f"{share:.2%} in the weights, {structure['zero_fraction']:.2%} in the graph",
        "int8 products": f"{structure['int8_matmuls']} of {products}",
    }
    if not parity["verified"]:
        return found | {"logits": "not compared: the run has export.verify=false"}
    found["logits"] = f"as torch's, at most {parity['max_abs_diff']:.2g} apart"
    return found | {name: f"{value:.4f}" for name, value in parity["metrics"].items()}
