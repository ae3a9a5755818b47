"""Inspection of a model's weights: zeros, N:M sparsity and quantizers, layer by layer.

Reads the files without building the model; imports torch only for `.bin` files.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  teaches NumPy the name bfloat16
import numpy as np
import numpy.typing as npt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open

from sparsekit.errors import UserError
from sparsekit.models.hub import QUANTIZERS, fetch_model, weight_files

GROUP = 4  # weights along the input dimension, as sparse tensor cores take them (2:4)
_IN_A_LAYER_STACK = re.compile(r"\.\d+\.")
_QUANTIZER = re.compile(r"(?P<module>.+)\.(?P<kind>[a-z]+)_quantizer\.scale")
# Operands of the two matmuls of attention, as `modifiers.quantization` names their quantizers.
_ATTENTION = {"query", "key", "probabilities", "value"}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One 2-D weight [out, in] (an embedding's: [tokens, features])."""

    name: str
    shape: tuple[int, int]
    zeros: int
    pattern: str | None  # "2:4" when every group of 4 holds at most 2 non-zeros; None: unstructured
    weights: str  # the deployed type: "int8", "int8 per channel", or that of the file, "float32"
    activations: str | None  # "uint8" where the layer's input (an embedding's output) is quantized

    @property
    def sparsity(self) -> float:
        """The share of zeros."""
        return self.zeros / (self.shape[0] * self.shape[1])

    @property
    def prunable(self) -> bool:
        """Whether it belongs to the transformer layers, which `sparsity.overall` counts."""
        return _IN_A_LAYER_STACK.search(self.name) is not None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A model's layers in the order of their names, and the size of its weight files in bytes."""

    folder: Path
    layers: list[Layer]
    bytes: int
    attention: list[str]  # modules whose matmuls of query, key and value are int8

    @property
    def sparsity(self) -> float:
        """The share of zeros over the prunable layers; 0 where there are none."""
        layers = [layer for layer in self.layers if layer.prunable]
        size = sum(layer.shape[0] * layer.shape[1] for layer in layers)
        return sum(layer.zeros for layer in layers) / size if size else 0.0

    @property
    def quantized(self) -> int:
        """The number of layers with int8 weights."""
        return sum(layer.weights.startswith("int8") for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `sparsekit inspect --json` prints them."""
        return {
            "folder": str(self.folder),
            "bytes": self.bytes,
            "sparsity": self.sparsity,
            "quantized": self.quantized,
            "attention": self.attention,
            "layers": {
                layer.name: {
                    "shape": list(layer.shape),
                    "sparsity": layer.sparsity,
                    "pattern": layer.pattern,
                    "weights": layer.weights,
                    "activations": layer.activations,
                    "prunable": layer.prunable,
                }
                for layer in self.layers
            },
        }


def inspect(model: str) -> Inspection:
    """Inspect a model folder, a run folder (its `model/`) or a Hub id.

    Raises UserError for a model without weights and for a weights file that cannot be read.
    """
    folder = fetch_model(model)
    files = [*weight_files(folder), *folder.glob(QUANTIZERS)]
    matrices: dict[str, tuple[tuple[int, int], str, int, str | None]] = {}
    quantizers: dict[tuple[str, str], int] = {}
    for name, array in (pair for file in files for pair in _arrays(file)):
        if match := _QUANTIZER.fullmatch(name):
            quantizers[match["module"], match["kind"]] = array.size
        elif array.ndim == 2 and name.endswith(".weight"):
            zeros = int(np.count_nonzero(array == 0))
            shape = (array.shape[0], array.shape[1])
            module = name.removesuffix(".weight")
            matrices[module] = (shape, str(array.dtype), zeros, nm_pattern(array))
    layers = []
    for name in sorted(matrices, key=_natural):
        shape, dtype, zeros, pattern = matrices[name]
        scales = quantizers.get((name, "weight"))
        layers.append(
            Layer(
                name=name,
                shape=shape,
                zeros=zeros,
                pattern=pattern,
                weights=dtype if scales is None else f"int8{' per channel' * (scales > 1)}",
                activations="uint8" if quantizers.keys() & _activation(name) else None,
            )
        )
    return Inspection(
        folder=folder,
        layers=layers,
        bytes=sum(file.stat().st_size for file in files),
        attention=sorted(
            {m for m, _ in quantizers if all((m, kind) in quantizers for kind in _ATTENTION)},
            key=_natural,
        ),
    )


def nm_pattern(weight: npt.NDArray[Any]) -> str | None:
    """The N:4 sparsity that all of `weight` [out, in] has along `in`, or None.

    >>> nm_pattern(np.array([[0.0, 1, 0, 2], [3, 0, 0, 0]]))
    '2:4'
    """
    if weight.shape[1] % GROUP:
        return None
    most = int(np.count_nonzero(weight.reshape(-1, GROUP), axis=1).max())
    return f"{max(most, 1)}:{GROUP}" if most < GROUP else None


@dataclass(frozen=True)
class _Dotted:
    """A dotted name that is wrapped before a dot, not within a word."""

    text: str

    def _parts(self) -> list[str]:
        return re.split(r"(?=\.)", self.text)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(map(len, self._parts())), len(self.text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for part in self._parts():
            if len(lines[-1] + part) > options.max_width:
                lines.append("")
            lines[-1] += part
        yield from (Text(line, overflow="fold") for line in lines if line)


def table(inspection: Inspection) -> Table:
    """The layers as a table for the terminal."""
    attention = (
        f", attention matmuls in int8 in {len(inspection.attention)} layers"
        if inspection.attention
        else ""
    )
    view = Table(
        title=f"{inspection.folder}",
        caption=f"sparsity {inspection.sparsity:.2%} over the encoder's layers (marked *), "
        f"{inspection.bytes / 1e6:.1f} MB{attention}",
    )
    view.add_column("layer")
    for heading in ("shape", "sparsity", "N:M"):
        view.add_column(heading, justify="right", no_wrap=True)
    for heading in ("weights", "activations"):
        view.add_column(heading, no_wrap=True)
    for layer in inspection.layers:
        view.add_row(
            _Dotted(f"{layer.name}{' *' * layer.prunable}"),
            f"{layer.shape[0]} x {layer.shape[1]}",
            f"{layer.sparsity:.2%}",
            layer.pattern or "-",
            layer.weights,
            layer.activations or "-",
        )
    return view


def _activation(name: str) -> set[tuple[str, str]]:
    return {(name, "input"), (name, "output")}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _arrays(file: Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    try:
        if file.suffix == ".safetensors":
            yield from _safetensors(file)
        else:
            yield from _torch_file(file)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"cannot read the weights {file}: {reason}; the file may be cut short: fetch or save "
            "it again"
        ) from error


def _safetensors(file: Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    with safe_open(file, framework="numpy") as opened:
        for name in opened.keys():  # noqa: SIM118  it is not a mapping
            try:
                array = opened.get_tensor(name)
            except AttributeError as error:  # NumPy has no such type.
                kind = opened.get_slice(name).get_dtype()
                raise UserError(
                    f"{file}: {name} is of type {kind}, which cannot be inspected; save the model "
                    "in float16, bfloat16 or float32"
                ) from error
            yield name, array


def _torch_file(file: Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    import torch

    state = torch.load(file, map_location="cpu", weights_only=True)
    values = state if isinstance(state, dict) else {"it": state}
    for name, value in values.items():
        if values is not state or not isinstance(value, torch.Tensor):
            raise UserError(
                f"{file} is no state dict: {name} is a {type(value).__name__}; save "
                "model.state_dict() alone"
            )
        # Of narrow floats NumPy knows float16 alone.
        narrow = value.is_floating_point() and value.dtype.itemsize < 4
        wide = value.float() if narrow and value.dtype != torch.float16 else value
        yield name, wide.numpy()
