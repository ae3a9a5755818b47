"""Quantization schemes of a layer: which parts are quantized, and how, as in SparseML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SIDES = ("input_activations", "weights", "output_activations")
_OPTIONS = ("num_bits", "symmetric", "strategy", "kwargs")


@dataclass(frozen=True)
class Activations:
    """Uint8 with one scale; `symmetric` fixes the zero point at 128."""

    symmetric: bool = False


@dataclass(frozen=True)
class Weights:
    """Symmetric int8 with one scale, or one for each output channel."""

    per_channel: bool = False


@dataclass(frozen=True)
class Scheme:
    """How the parts of a layer are quantized; None leaves a part in float32."""

    inputs: Activations | None = Activations()
    weights: Weights | None = Weights()
    outputs: Activations | None = None


NAMED = {
    "default": Scheme(),
    "deepsparse": Scheme(),
    "tensorrt": Scheme(inputs=Activations(symmetric=True)),
}


def parse_scheme(value: str | Mapping[str, Any] | None) -> Scheme:
    """The scheme of a name or a map; sides that a map leaves out are as in `default`.

    A side is null, or has `num_bits` (8), `symmetric` and `strategy` (tensor, or channel for
    weights). Raises ValueError for an unknown key and for what int8 deployment cannot express.
    """
    if value is None or isinstance(value, str):
        if (value or "default") not in NAMED:
            raise ValueError(f"scheme {value!r} is not one of {', '.join(NAMED)}")
        return NAMED[value or "default"]
    if unknown := [key for key in value if key not in (*SIDES, "target_hardware")]:
        raise ValueError(f"a scheme has no {unknown[0]!r}; known: {', '.join(SIDES)}")
    default = NAMED["default"]
    inputs, outputs = (
        _activations(side, value[side]) if side in value else kept
        for side, kept in (("input_activations", default.inputs), ("output_activations", None))
    )
    weights = _weights(value["weights"]) if "weights" in value else default.weights
    return Scheme(inputs, weights, outputs)


def _options(side: str, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    if unknown := [key for key in given if key not in _OPTIONS]:
        raise ValueError(f"{side} has no {unknown[0]!r}; known: {', '.join(_OPTIONS)}")
    if given.get("num_bits", 8) != 8:
        raise ValueError(f"{side}: num_bits {given['num_bits']} is not 8, which deployment runs")
    if given.get("kwargs"):
        raise ValueError(f"{side}: kwargs {given['kwargs']} have no meaning here; remove them")
    if given.get("strategy", "tensor") not in ("tensor", "channel"):
        raise ValueError(f"{side}: strategy {given['strategy']!r} is neither tensor nor channel")
    return dict(given)


def _activations(side: str, given: Mapping[str, Any] | None) -> Activations | None:
    options = _options(side, given)
    if options is None:
        return None
    if options.get("strategy", "tensor") != "tensor":
        raise ValueError(f"{side}: strategy channel is for weights; set strategy: tensor")
    return Activations(bool(options.get("symmetric", False)))


def _weights(given: Mapping[str, Any] | None) -> Weights | None:
    options = _options("weights", given)
    if options is None:
        return None
    if not options.get("symmetric", True):
        raise ValueError("weights: int8 matmuls need symmetric weights; set symmetric to true")
    return Weights(options.get("strategy", "tensor") == "channel")
