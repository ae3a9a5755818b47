"""Whether a student can be exported, checked before it is trained."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel

from sparsekit.cache import cached, content_hash
from sparsekit.config.sources import own_sources
from sparsekit.errors import UserError
from sparsekit.onnx.check import check_structure
from sparsekit.onnx.layers import other_bytes, read_layers
from sparsekit.onnx.parity import check_probes
from sparsekit.onnx.probes import probes
from sparsekit.onnx.trace_cache import IRRELEVANT, PACKAGES
from sparsekit.onnx.write import write_graphs
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.sparsity.prunable import prunable
from sparsekit.system import cores
from sparsekit.tasks.base import Task
from sparsekit.tasks.cache_key import cache_key

log = logging.getLogger(__name__)

_INSTEAD = "choose another student, or train without an export: export=none runtime=none"
# Architectures that cannot be exported, with the reason, by `model_type`.
_REFUSED = {
    "longformer": "it pads each text to its attention window, by a length that is not known when "
    "the graph is written",
    "fnet": "ONNX runtimes have no Fourier transform of the kind that it mixes tokens with",
    "funnel": "it pools tokens by strides that torch.onnx.export cannot trace",
    "led": "its attention in chunks depends on each text's length",
    "reformer": "it sorts tokens into buckets, which torch.onnx.export cannot trace",
}


def export_problem(config: PreTrainedConfig) -> str | None:
    """Why a model of this config cannot be exported, known without its weights; None: unknown."""
    reason = _REFUSED.get(config.model_type)
    if config.model_type == "big_bird" and config.attention_type == "block_sparse":
        reason = (
            "its sparse attention draws random blocks; set attention_type to original_full in its "
            "config.json"
        )
    if reason is None:
        return None
    return f"the architecture {config.model_type} cannot be exported: {reason}; {_INSTEAD}"


def check_exportable(model: PreTrainedModel, task: Task, form: str) -> None:
    """Export `model`, untrained and in float32, and compare it with torch on the probes.

    Done once for each architecture and exporter, as the result does not depend on the weights: what
    passed is kept in the cache. Takes seconds, and saves the training of a model that would be
    refused at its export.

    Args:
        model: the student as it is loaded.
        task: what it is trained for; its `max_length` is the longest text to check.
        form: form of the graph, a key of `FORMS`.

    Raises:
        UserError: the check that failed.
    """
    config = {k: v for k, v in model.config.to_dict().items() if k not in IRRELEVANT}
    settings = [json.dumps(config, sort_keys=True, default=str), form, *cache_key(task)]
    versions = [f"{name} {version(name)}" for name in (*PACKAGES, "onnx", "onnxruntime")]
    identity = [*settings, *versions, sys.version, own_sources()]

    def check(folder: Path) -> None:
        log.info("checking that %s can be exported, once", type(model).__name__)
        with tempfile.TemporaryDirectory() as scratch, _eager(model):
            _check(model, task, form, Path(scratch))
        (folder / "checked.json").write_text(json.dumps(identity), encoding="utf-8")

    cached("exportable", content_hash(identity), check)


def _check(model: PreTrainedModel, task: Task, form: str, folder: Path) -> None:
    state = model.state_dict()
    layers = read_layers(model, state)
    traced, file = folder / "float32.onnx", folder / "model.onnx"
    try:
        write_graphs(model, task, layers, file, traced, form)
        check_structure(file, layers, other_bytes(state, layers), prunable(model))
        batches = probes(model, task.max_length)
        for graph in (traced, file):
            check_probes(model, task, OnnxRuntime(graph, cores()), batches)
    except UserError as error:
        raise UserError(
            f"{type(model).__name__} would be refused at its export, after training: {error}, or "
            "train it without an export: export=none runtime=none"
        ) from error


@contextlib.contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """Let `model` compute attention as its exported graph does, in eval mode."""
    implementation, training = model.config._attn_implementation, model.training
    model.eval().set_attn_implementation("eager")
    try:
        yield
    finally:
        model.train(training).set_attn_implementation(implementation)
