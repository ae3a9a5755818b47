"""`sparsekit export --layout`: a deployment in the folders of another server or client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sparsekit.errors import UserError, first_line, suggestion
from sparsekit.onnx.layouts import ovms, transformers_js, triton
from sparsekit.onnx.layouts.source import Source, read_source
from sparsekit.runtime.deployment import deployment_of

LAYOUTS: dict[str, Callable[[Source, Path], Path]] = {
    "triton": triton.write_onnxruntime,
    "triton-openvino": triton.write_openvino,
    "ovms": ovms.write,
    "transformers.js": transformers_js.write,
}


def write_layout(
    run: Path, layout: str, output: Path | None = None, name: str | None = None
) -> Path:
    """Write the deployment of a run, or a deployment folder, in the layout; returns its folder.

    Args:
        run: a run folder or a deployment folder.
        layout: a key of `LAYOUTS`.
        output: the repository; None: `repository/` beside the deployment.
        name: of the model in the repository; None: that of the run folder.

    Raises:
        UserError: a layout or a name that does not exist, a folder without a deployment, a task
            that the client cannot run, or an output that cannot be written.
    """
    if layout not in LAYOUTS:
        raise UserError(f"there is no layout {layout!r}{suggestion(layout, LAYOUTS)}")
    source = read_source(run, name)
    repository = output or deployment_of(run).absolute().parent / "repository"
    if repository.exists() and not repository.is_dir():
        raise UserError(f"{repository} is a file; choose another folder with --output")
    if (repository / "model.onnx").exists():
        raise UserError(f"{repository} is a deployment; choose another folder with --output")
    try:
        return LAYOUTS[layout](source, repository)
    except OSError as error:
        raise UserError(
            f"cannot write {repository}: {first_line(error)}; choose another folder with --output"
        ) from error
