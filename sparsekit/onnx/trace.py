"""From a saved transformers model to a float32 ONNX graph that knows its modules."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
import torch
from huggingface_hub.errors import StrictDataclassError
from onnx_ir.passes import common
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sparsekit.errors import UserError, first_line
from sparsekit.models.loading import positions_of
from sparsekit.models.quantizers import QUANTIZER, saved_state
from sparsekit.onnx.probes import beyond_windows, input_names, probes
from sparsekit.onnx.trace_cache import with_weights
from sparsekit.shape.config import shaped
from sparsekit.tasks.base import Task

# From 20 on, Gelu and LayerNormalization are one node each; 21 only adds 4-bit and blocked
# quantization. So 20 is the lowest, and most widely supported, opset with the short graph.
OPSET = 20
# Outputs of the same float32 operations with the mask in another form.
MASK_TOLERANCE = 1e-5
# Architectures that subtract the mask from 1.0, which torch 2.13 cannot export for integers.
_FLOAT_MASK = ("xlnet",)
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
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model, info = shaped(task.head, config).from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, RuntimeError, OSError, StrictDataclassError) as error:
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


class _Traced(nn.Module):
    """Returns the task's outputs of a model for the inputs of the graph."""

    def __init__(self, model: PreTrainedModel, task: Task) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        inputs = {"input_ids": input_ids, "attention_mask": self._mask(attention_mask)}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        return self._task.model_outputs(
            self.model(**inputs), {**inputs, "attention_mask": attention_mask}
        )

    def _mask(self, attention_mask: Tensor) -> Tensor:
        if self.model.config.model_type in _FLOAT_MASK:
            return attention_mask.to(torch.float32)
        return attention_mask


class _TracedWithTerm(_Traced):
    """Passes the attention mask as the four-dimensional term that is added to the scores.

    transformers would otherwise build that term by index arithmetic, which is exported as GatherND
    and Range nodes where one subtraction is enough.
    """

    def _mask(self, attention_mask: Tensor) -> Tensor:
        hidden = 1.0 - attention_mask[:, None, None, :].to(torch.float32)
        return hidden * torch.finfo(torch.float32).min


@torch.inference_mode()
def masks_padding_only(model: PreTrainedModel, task: Task) -> bool:
    """Whether attention in `model` hides the padding and nothing else, in every layer.

    A model with windows, causal attention or masks of its own would compute something else if it
    got the term of `_TracedWithTerm`, which takes the place of all that.
    """
    plain, with_term = _Traced(model, task), _TracedWithTerm(model, task)
    for batch in probes(model, beyond_windows(model.config, positions_of(model.config))):
        expected = plain(**batch)[0]
        try:
            output = with_term(**batch)[0]
        except Exception:  # what a model raises for a mask of four dimensions, which few expect
            return False
        if task.answers.per_token:
            real = batch["attention_mask"].bool()
            expected, output = expected[real], output[real]
        if not torch.allclose(output, expected, rtol=MASK_TOLERANCE, atol=MASK_TOLERANCE):
            return False
    return True


def trace(model: PreTrainedModel, task: Task) -> ir.Model:
    """The graph of `model`: int64 inputs [batch, sequence], the task's outputs in float32.

    The mask is the one that the architecture defines. Raises UserError for an architecture that
    torch cannot export.

    Each node's `meta["module"]` names the module that it came from. torch's own metadata, which
    has source paths of this machine, is removed.
    """
    kind = _TracedWithTerm if masks_padding_only(model, task) else _Traced
    traced = kind(model, task).eval()
    graph = with_weights(traced, [kind.__name__, repr(task)], lambda: _captured(traced, task))
    program = torch.onnx.ONNXProgram(graph, None)
    program.optimize()
    graph = program.model
    for node in graph.graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "['', '']"))
        node.meta["module"] = scopes[-2].removeprefix(_WRAPPER)
    for value in list(graph.graph.initializers.values()):
        assert value.name is not None
        value.name = value.name.removeprefix(_WRAPPER)
    common.ClearMetadataAndDocStringPass()(graph)
    return graph


def _captured(traced: _Traced, task: Task) -> ir.Model:
    """What torch.onnx.export makes of the model, before its optimizations."""
    names = input_names(traced.model)
    # The axes of one input are named, the others derived: torch warns about equal names.
    named = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    derived = dict.fromkeys((0, 1), torch.export.Dim.AUTO)
    with _quiet_exporter(), _named_failure(traced.model):
        program = torch.onnx.export(
            traced,
            # A tensor for each input: torch treats inputs that share a tensor as one.
            kwargs={name: torch.ones((2, 8), dtype=torch.long) for name in names},
            output_names=list(task.outputs),
            dynamic_shapes={n: named if n == "input_ids" else derived for n in names},
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph:
        # The rest is source code and its paths.
        for name in node.metadata_props.keys() - {_SCOPES}:
            del node.metadata_props[name]
    return program.model


@contextmanager
def _named_failure(model: PreTrainedModel) -> Iterator[None]:
    """Turn the exporter's failure, whose message is a page of advice on torch, into a UserError."""
    try:
        yield
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UserError(
            f"the architecture {type(model).__name__} cannot be exported: torch.onnx.export failed "
            f"with {type(cause).__name__}: {first_line(cause)}; choose another student"
        ) from error


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's warnings about a missing torchvision and a deprecated check.

    Silences the graph that it prints where it fails too: the error names the cause.
    """
    levels = {"torch.onnx._internal.exporter._registration": logging.ERROR}
    levels |= dict.fromkeys(("torch._subclasses.fake_tensor", "torch.export"), logging.CRITICAL)
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
