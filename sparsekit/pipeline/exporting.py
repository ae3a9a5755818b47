"""`sparsekit.export`: the model of a finished run or trainer, exported and checked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sparsekit.config.build import build
from sparsekit.errors import UserError
from sparsekit.onnx.export import ExportConfig
from sparsekit.onnx.export import export as export_run
from sparsekit.onnx.hub import push
from sparsekit.pipeline.completion import completed
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.progress import quiet_libraries
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
            trainer.
        output: where the deployment is copied; an earlier deployment there is replaced. It always
            is in `deployment/` of the run folder.
        settings: fields of `sparsekit.onnx.export.ExportConfig`, such as `form` and `verify`; by
            default those of the run's config.

    Returns:
        The `export` part of the run's `summary.json`: `verified`, `max_abs_diff`, `metrics`,
        `int8_matmuls`, `fp32_matmuls`, `zero_fraction`, `bytes` and `bytes_compressed`.

    Raises:
        UserError: a check that failed, a folder that is not a run, or an `output` that holds
            something else.

    Example:
        ```python
        sparsekit.export(trainer, "deployment")
        sparsekit.Pipeline("deployment")("A warm and funny film.")
        ```
    """
    target = None if output is None else Path(output).expanduser()
    if target is not None:
        _check_target(target)
    if isinstance(source, SparseTrainer):
        source.save_model()
        run = source.run
    else:
        run = RunFolder(Path(source).expanduser())
    summary, _ = export_folder(run, settings)
    if target is not None and target.resolve() != run.deployment.resolve():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(run.deployment, target)
    exported: dict[str, Any] = summary["export"]
    return exported


def export_folder(run: RunFolder, settings: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Export the model of a run folder, with its config's `export` changed by `settings`.

    A failed run whose stages are all done afterwards becomes completed. Returns the new summary,
    and why a failed run stays failed.
    """
    quiet_libraries()
    before = run.summary
    node = {"_target_": _target(), **(run.node("export") or {}), **settings}
    config: ExportConfig = build(node, "export", ExportConfig)
    with run.lock():
        summary = {**before, "export": export_run(run.path, config)}
        run.write_summary(summary)
        if config.push_to_hub is not None:
            summary["pushed"] = push(run.deployment, config.push_to_hub)
            run.write_summary(summary)
        summary, lacking = completed(run, summary)
        run.write_summary(summary)
    return summary, lacking


def _target() -> str:
    return f"{ExportConfig.__module__}.{ExportConfig.__qualname__}"


def _check_target(target: Path) -> None:
    """Raise UserError for an existing folder that is not a deployment."""
    if not target.exists() or all((target / name).is_file() for name in _OWN):
        return
    if not target.is_dir() or any(target.iterdir()):
        raise UserError(
            f"{target} exists and is not a deployment of sparsekit; remove it, or choose another "
            "folder"
        )
