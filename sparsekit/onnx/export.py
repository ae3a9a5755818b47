"""From a run's `model/` to its `deployment/`: trace, rewrite, check, describe."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from sparsekit.errors import UserError
from sparsekit.onnx.card import model_card
from sparsekit.onnx.check import check_structure
from sparsekit.onnx.files import copy_folder, source_files
from sparsekit.onnx.forms import FORMS
from sparsekit.onnx.hub import check_repository
from sparsekit.onnx.layers import Layers, other_bytes, read_layers
from sparsekit.onnx.parity import (
    EFFECT_ROWS,
    FP32_TOLERANCE,
    check_logits,
    check_metrics,
    check_trace,
    quantization_effect,
    read_rows,
)
from sparsekit.onnx.sums import write_sums
from sparsekit.onnx.trace import load_model
from sparsekit.onnx.write import write_graphs
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.replacement import remove
from sparsekit.runtime.answers import predict_outputs
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.tasks.base import flat
from sparsekit.runtime.tasks.file import write_task
from sparsekit.sparsity.prunable import prunable
from sparsekit.system import cores
from sparsekit.tasks.base import Task
from sparsekit.tasks.config import task_of

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ExportConfig:
    """What to export, and how to check it.

    form: form of the graph, a key of `FORMS`;
    verify: whether to compare logits and metrics with torch's, which needs `evaluation/`; the file
    itself is always checked;
    check_rows: number of validation rows that are also run one by one; all are run in batches;
    max_logit_diff: allowed mean difference of the logits, relative to the effect of quantization;
    max_metric_drop: by how much each metric may be worse on the whole validation split, or by two
    rows of it where those are more; relative to the value of one without bounds, such as mse, that
    is above 1;
    gate: the comparison with the dense baseline that a run has to pass, see
    `sparsekit.pipeline.gating.ExportGate`; null: none;
    license: the license's id for the model card, such as apache-2.0; null leaves it out;
    push_to_hub: user/name of the model repository to upload the deployment to, at the end.
    """

    form: str = "qdq"
    verify: bool = True
    check_rows: int = 256
    max_logit_diff: float = 0.75
    max_metric_drop: float = 0.005
    gate: dict[str, Any] | None = None
    license: str | None = None
    push_to_hub: str | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"export.form is {self.form!r}, it must be one of {', '.join(FORMS)}")
        if self.check_rows < 1:
            raise UserError(
                f"export.check_rows is {self.check_rows}, it must be at least 1; to skip the "
                "comparison with torch set export.verify=false"
            )
        if self.push_to_hub is not None:
            check_repository(self.push_to_hub)


def export(run: Path, config: ExportConfig) -> dict[str, Any]:
    """Write `run/deployment/` and return the `summary.export` dict.

    Reads `model/`, `evaluation/` and `config.yaml` of the run folder. The deployment is built in a
    temporary folder and moved once every check has passed; then an older one goes, with what was
    measured of it, but only in a run folder: other tools have folders of that name. Raises
    UserError naming the check that failed, and leaves no deployment of a model that fails one. Any
    other error, such as that of a full disk, leaves an older one as it was.
    """
    source = RunFolder(run)
    deployment, task = source.deployment, task_of(source)
    answers = task.answers  # raises where the task's models are not deployed
    if not source.weights.is_file():
        raise UserError(
            f"there is no {source.weights}; give the folder of a run that was trained "
            "and saved: SparseTrainer does that in save_model()"
        )
    try:
        model, state = load_model(source.model, task)
        layers = read_layers(model, state)
        with tempfile.TemporaryDirectory(prefix=".deployment-", dir=run) as scratch:
            folder, traced = Path(scratch) / "deployment", Path(scratch) / "float32.onnx"
            copy_folder(source.model, folder)
            write_graphs(model, task, layers, folder / "model.onnx", traced, config.form)
            structure = check_structure(
                folder / "model.onnx", layers, other_bytes(state, layers), prunable(model)
            )
            verified = verify(source, folder, traced, model, task, layers, config)
            result = {"path": "deployment/model.onnx", **verified, **asdict(structure)}
            write_task(answers, folder)
            card = model_card(folder, source, answers, layers, result, config.license)
            (folder / "README.md").write_text(card, encoding="utf-8")
            write_sums(folder, folder.iterdir())
            # The recipe is no input of the export, but what a reader takes for the one that ran.
            recipe = [source.recipe] if source.recipe.is_file() else []
            write_sums(run, [source.config_file, *recipe, *source_files(source)])
            if os.path.lexists(deployment):
                # Renamed, it is never there in parts; of a link the link alone.
                deployment.rename(Path(scratch) / "earlier")
            folder.rename(deployment)
    except UserError:
        remove(deployment)
        _remove_measured(source)
        raise
    _remove_measured(source)
    return result


def _remove_measured(run: RunFolder) -> None:
    """Remove what was measured of a deployment that is gone."""
    gate = (run.gate, run.gate_page, run.gate_changed)
    for file in (*gate, run.benchmark, run.benchmark_chart):
        remove(file)


def verify(
    run: RunFolder,
    folder: Path,
    traced: Path,
    model: PreTrainedModel,
    task: Task,
    layers: Layers,
    config: ExportConfig,
) -> dict[str, Any]:
    """Compare outputs, then metrics, with torch's; nothing where `config.verify` is false."""
    if not config.verify:
        return {"verified": False, "max_abs_diff": None, "metrics": None}
    encoder = TextEncoder(folder)
    rows = read_rows(run.evaluation("validation"), task, encoder)
    plain, runtime = OnnxRuntime(traced, cores()), OnnxRuntime(folder / "model.onnx", cores())
    check_trace(model, task, plain, encoder, rows.encodings)
    run_on = partial(predict_outputs, answers=task.answers, encoder=encoder)
    batched = run_on(runtime, encodings=rows.encodings)
    some = rows.encodings[: config.check_rows]
    single = run_on(runtime, encodings=some, batch=1)
    unquantized = None
    if any(layer.quantized for layer in layers.values()):
        unquantized = run_on(plain, encodings=rows.encodings[:EFFECT_ROWS])
    differences = []
    for name in task.outputs:
        recorded, limit = rows.outputs[name], FP32_TOLERANCE
        if unquantized is not None:
            compared = (unquantized[name], recorded[:EFFECT_ROWS], batched[name][:EFFECT_ROWS])
            limit = config.max_logit_diff * quantization_effect(*map(flat, compared))
        differences += [
            check_logits(single[name], recorded[: len(some)], limit, "row by row"),
            check_logits(batched[name], recorded, limit, "in padded batches"),
        ]
    exported = check_metrics(task, batched, rows, config.max_metric_drop)
    return {"verified": True, "max_abs_diff": max(differences), "metrics": exported}
