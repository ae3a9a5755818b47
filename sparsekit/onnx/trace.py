"""From a saved transformers model to a float32 ONNX graph that knows its modules."""

from __future__ import annotations

import ast
import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from sparsekit.errors import UserError, first_line
from sparsekit.models.quantizers import QUANTIZER, saved_state
from sparsekit.tasks.base import Task

# From 20 on, Gelu and LayerNormalization are one node each; 21 only adds 4-bit and blocked
# quantization. So 20 is the lowest, and most widely supported, opset with the short graph.
OPSET = 20
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_SCOPES = "pkg.torch.onnx.name_scopes"
_WRAPPER = "model."


def load_model(folder: Path, task: Task) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The plain float32 model in `folder`, in eval mode, and all its weights and quantizers.

    Raises UserError where the weights cannot be read or some are missing.
    """
    state = saved_state(folder)
    verbosity = transformers_logging.get_verbosity()
    # transformers would warn about the keys of each quantizer; unknown keys are checked below.
    transformers_logging.set_verbosity_error()
    try:
        # Eager attention is two matmuls and a softmax, which every runtime supports.
        model, info = task.head.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        raise UserError(
            f"cannot load the model in {folder}: {first_line(error)}; its config.json is missing "
            "or was changed: train or save the model again"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    unknown = [key for key in info["unexpected_keys"] if QUANTIZER not in key]
    if info["missing_keys"] or unknown:
        raise UserError(
            f"the weights in {folder} do not fit its config.json: missing "
            f"{sorted(info['missing_keys'])}, unknown {sorted(unknown)}; train or save it again"
        )
    return model.eval(), state


def input_names(model: PreTrainedModel) -> list[str]:
    """The names of the model's inputs: not every architecture has token types."""
    return [name for name in INPUTS if name in inspect.signature(model.forward).parameters]


class _Traced(nn.Module):
    """Passes the attention mask as the four-dimensional term that is added to the scores.

    transformers would otherwise build that term by index arithmetic, which is exported as GatherND
    and Range nodes where one subtraction is enough.
    """

    def __init__(self, model: PreTrainedModel, task: Task) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        hidden = 1.0 - attention_mask[:, None, None, :].to(torch.float32)
        inputs = {"input_ids": input_ids, "attention_mask": hidden * torch.finfo(torch.float32).min}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        return self._task.model_outputs(
            self.model(**inputs), {**inputs, "attention_mask": attention_mask}
        )


def trace(model: PreTrainedModel, task: Task) -> ir.Model:
    """The graph of `model`: int64 inputs [batch, sequence], the task's outputs in float32.

    Each node's `meta["module"]` names the module that it came from. torch's own metadata, which
    has source paths of this machine, is removed.
    """
    names = input_names(model)
    # The axes of one input are named, the others derived: torch warns about equal names.
    named = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    derived = dict.fromkeys((0, 1), torch.export.Dim.AUTO)
    with _quiet_exporter():
        program = torch.onnx.export(
            _Traced(model, task).eval(),
            # A tensor for each input: torch treats inputs that share a tensor as one.
            kwargs={name: torch.ones((2, 8), dtype=torch.long) for name in names},
            output_names=list(task.outputs),
            dynamic_shapes={n: named if n == "input_ids" else derived for n in names},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    graph = program.model
    for node in graph.graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "['', '']"))
        node.meta["module"] = scopes[-2].removeprefix(_WRAPPER)
    for value in list(graph.graph.initializers.values()):
        assert value.name is not None
        value.name = value.name.removeprefix(_WRAPPER)
    common.ClearMetadataAndDocStringPass()(graph)
    return graph


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's warnings about a missing torchvision and a deprecated check."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        registration.setLevel(level)
