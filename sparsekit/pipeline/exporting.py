"""`sparsekit.export`: the model of a finished run or trainer, exported and checked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sparsekit.benchmark.requests import benchmark, requests_of
from sparsekit.config.arguments import naming_arguments
from sparsekit.config.build import build
from sparsekit.errors import UserError, first_line, suggestion
from sparsekit.onnx.export import ExportConfig
from sparsekit.onnx.hub import push
from sparsekit.pipeline.completion import completed
from sparsekit.pipeline.gating import gated_export
from sparsekit.pipeline.shaping import with_measured_latency
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.progress import quiet_libraries
from sparsekit.runs.summary import describe, unfinished, without_deployment
from sparsekit.system import expanded
from sparsekit.training.trainer import SparseTrainer

# What tells a deployment from a folder of another tool.
_OWN = ("model.onnx", "SHA256SUMS")


def export(
    source: SparseTrainer | str | Path, output: str | Path | None = None, **settings: Any
) -> dict[str, Any]:
    """Export a trained model to ONNX, check the file, and write the deployment folder.

    The exported logits and metrics are compared with torch's on the evaluation split, every weight
    with the trained one, and quantized matmuls must run on integers.

    Args:
        source: a trainer, whose model is saved first, or a run folder of the launcher or of a
            trainer, or its `checkpoints/`, which is `trainer.args.output_dir`.
        output: where the deployment is copied; an earlier deployment there is replaced. A copy
            always stays in `deployment/` of the run folder.
        settings: fields of `sparsekit.onnx.export.ExportConfig`, such as `form` and `verify`; by
            default those of the run's config.

    Returns:
        The `export` part of the run's `summary.json`: `verified`, `max_abs_diff`, `metrics`,
        `int8_matmuls`, `fp32_matmuls`, `zero_fraction`, `bytes`, `bytes_compressed` and `path`,
        here that of the file in `output`.

    Raises:
        UserError: a check that failed, a folder that is not a run, or an `output` that holds
            something else or cannot be written.

    Example:
        ```python
        sparsekit.export(trainer, "deployment")
        sparsekit.Pipeline("deployment")("A warm and funny film.")
        ```
    """
    _check_settings(settings)
    run = _run_of(source)
    target = run.deployment if output is None else expanded(output)
    _check_target(target, run)
    if isinstance(source, SparseTrainer):
        source.save_model()
    with naming_arguments():
        summary, _ = export_folder(run, settings)
    if target.resolve() != run.deployment.resolve():
        _copy(run.deployment, target)
    return {**summary["export"], "path": str(target / "model.onnx")}


def export_folder(run: RunFolder, settings: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Export the model of a run folder, with its config's `export` changed by `settings`.

    A run that failed or was killed after its evaluation is completed: the timings and the upload
    that its config asks for are made too. What a completed run knows of its earlier deployment
    is dropped. Returns the new summary, and why a failed run stays so.
    """
    quiet_libraries()
    _ = run.summary  # raises where it is not a run
    node = {"_target_": _target(), **(run.node("export") or {}), **settings}
    config: ExportConfig = build(node, "export", ExportConfig)
    with run.lock():
        # Read here: another process may have written it until it left the folder.
        before = run.summary
        summary = _exported(run, config, before)
        run.write_summary(summary)
        to_complete = before.get("status") != "completed" and before.get("metrics")
        if to_complete and (timing := requests_of(run)):
            summary["runtime"] = benchmark(run.path, timing)
            if shape := summary.get("shape"):
                summary["shape"] = with_measured_latency(run, shape)
            run.write_summary(summary)
        if config.push_to_hub is not None:
            summary["pushed"] = push(run.deployment, config.push_to_hub)
            run.write_summary(summary)
        summary, lacking = completed(run, summary)
        run.write_summary(summary)
    return summary, lacking


def _exported(run: RunFolder, config: ExportConfig, before: Mapping[str, Any]) -> dict[str, Any]:
    """The summary with the new export; where it fails, the summary of a run without deployment.

    It is unfinished on disk meanwhile, which a process that is killed cannot correct. What fails
    without a verdict on the model, such as a full disk, leaves an earlier deployment and `before`.
    """
    summary = without_deployment(before)
    if before.get("status") == "completed":
        run.write_summary({**summary, **unfinished(run)})
    try:
        gated_export(run, config, before.get("gate", {}).get("against"), summary.update)
    except BaseException as error:
        failed = {**summary, "status": "failed", "error": describe(error)}
        run.write_summary(before if run.deployment.exists() else failed)
        raise
    return summary


def _target() -> str:
    return f"{ExportConfig.__module__}.{ExportConfig.__qualname__}"


def _check_settings(settings: dict[str, Any]) -> None:
    known = [field.name for field in fields(ExportConfig)]
    for name in sorted(settings.keys() - known):
        raise UserError(f"export has no setting {name}{suggestion(name, known)}")


def _run_of(source: object) -> RunFolder:
    """The run folder of a trainer, or the one that a path names by itself or its checkpoints."""
    if isinstance(source, SparseTrainer):
        return source.run
    if not isinstance(source, str | Path):
        raise UserError(
            f"export takes a SparseTrainer or a run folder, not a {type(source).__name__}; train "
            "the model with SparseTrainer first"
        )
    run = RunFolder(expanded(source))
    outer = RunFolder(run.path.absolute().parent)
    return outer if not run.exists and outer.checkpoints == run.path.absolute() else run


def _check_target(target: Path, run: RunFolder) -> None:
    """Raise UserError for a path that holds something else than a deployment, or would damage one.

    What the run itself keeps in `deployment/` may be incomplete: an export replaces it.
    """
    own = run.deployment.resolve()
    if target.resolve() == own:
        return
    if own in target.resolve().parents:
        raise UserError(f"{target} lies in the run's own deployment; choose another folder")
    if target.is_symlink():
        raise UserError(f"{target} is a link; give the folder that it leads to")
    if not target.exists() or all((target / name).is_file() for name in _OWN):
        return
    if not target.is_dir() or any(target.iterdir()):
        raise UserError(
            f"{target} exists and is not a deployment of sparsekit; remove it, or choose another "
            "folder"
        )


def _copy(deployment: Path, target: Path) -> None:
    """Copy the deployment, and only then replace an earlier one; raises UserError if it cannot."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".deployment-", dir=target.parent) as scratch:
            copy = Path(scratch) / "new"
            shutil.copytree(deployment, copy)
            if target.exists():
                target.rename(Path(scratch) / "earlier")
            copy.rename(target)
    except (OSError, shutil.Error) as error:
        raise UserError(
            f"cannot copy the deployment to {target}: {first_line(error)}; it is in {deployment}"
        ) from error
