"""Traced graphs, cached without their weights.

torch takes seconds to trace a model, most of the time of an export, and the graph depends on the
architecture alone. So it is traced once, its weights become inputs, and each export fills in its
own: a run's check before training and its export, all jobs of a sweep, the next run tomorrow.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsekit.cache import CacheError, cached, content_hash, file_hash
from sparsekit.config.sources import defining_files, own_sources
from sparsekit.errors import first_line

log = logging.getLogger(__name__)

KIND = "traces"
GRAPH = "graph.onnx"
# What turns a module into a graph.
PACKAGES = ("torch", "transformers", "onnxscript", "onnx_ir")
# Parts of a config that change no operation.
IRRELEVANT = ("_name_or_path", "id2label", "label2id", "architectures", "transformers_version")


def with_weights(
    traced: nn.Module, identity: Iterable[str], capture: Callable[[], ir.Model]
) -> ir.Model:
    """The graph that `capture` returns, from the cache where it is, with the weights of `traced`.

    Args:
        traced: the module that is traced; its `model` is one of transformers.
        identity: what decides about the graph besides the module.
        capture: traces the module; not called if an equal one has been traced before.

    Where the cache cannot be written, the graph is traced anew, and a warning says so.
    """
    weights = _named_tensors(traced)
    # The classes of all modules and of the task.
    sources = defining_files(type(each) for each in [*traced.modules(), *vars(traced).values()])
    if sources is None:
        return capture()
    key = content_hash([*identity, *_identity(traced, weights, sources)])

    def make(folder: Path) -> None:
        graph = capture()
        _take_out(graph.graph, weights)
        ir.save(graph, folder / GRAPH)

    try:
        graph = ir.load(cached(KIND, key, make) / GRAPH)
    except (CacheError, OSError) as error:
        log.warning("the graph is traced anew, and not cached: %s", first_line(error))
        return capture()
    _fill_in(graph.graph, weights)
    return graph


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name; a shared one by each of its names."""
    named = dict(module.named_parameters(remove_duplicate=False))
    return {**named, **dict(module.named_buffers(remove_duplicate=False))}


def _take_out(graph: ir.Graph, weights: dict[str, Tensor]) -> None:
    """Turn the weights among the initializers into inputs; constants of the code stay."""
    for name, value in list(graph.initializers.items()):
        if name in weights:
            del graph.initializers[name]
            value.const_value = None
            graph.inputs.append(value)


def _fill_in(graph: ir.Graph, weights: dict[str, Tensor]) -> None:
    for value in list(graph.inputs):
        if value.name in weights:
            graph.inputs.remove(value)
            value.const_value = TorchTensor(weights[value.name].detach(), name=value.name)
            graph.register_initializer(value)


def _identity(traced: nn.Module, weights: dict[str, Tensor], sources: Iterable[Path]) -> list[str]:
    """All that decides about the graph: sizes, configuration, code, and what translates it."""
    model = traced.model
    assert isinstance(model, PreTrainedModel)
    config = {k: v for k, v in model.config.to_dict().items() if k not in IRRELEVANT}
    sizes = [f"{name} {tuple(w.shape)} {w.dtype}" for name, w in weights.items()]
    modules = {
        name: (type(module).__qualname__, _numbers(module))
        for name, module in traced.named_modules()
    }
    return [
        *sizes,
        json.dumps(modules),
        json.dumps(config, sort_keys=True, default=str),
        str(model.config._attn_implementation),
        sys.version,
        *(f"{name} {version(name)}" for name in PACKAGES),
        own_sources(),
        *(file_hash(path) for path in sources),
    ]


def _numbers(module: nn.Module) -> dict[str, float]:
    """The attributes of a module that become constants of a graph, such as a norm's epsilon."""
    attributes = {name: value for name, value in vars(module).items() if name != "training"}
    return {name: value for name, value in attributes.items() if isinstance(value, int | float)}
