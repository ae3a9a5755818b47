"""The Linear and Embedding layers of a saved model, with the quantizers that training left.

The names of the saved tensors tell what is quantized: `<module>.weight_quantizer`,
`.input_quantizer` and `.output_quantizer`, each with a `scale` and a `zero_point`; an attention has
`.query_quantizer`, `.key_quantizer`, `.probabilities_quantizer` and `.value_quantizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from sparsekit.errors import UserError
from sparsekit.models.quantizers import QUANTIZER
from sparsekit.sparsity.used import used_layers

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """q = clip(round(x / scale) + zero_point), within the limits of `dtype`.

    scale: float32, a scalar, or [out] with one for each output channel; zero_point: `dtype`, of the
    same shape.
    """

    scale: Array
    zero_point: Array

    @property
    def dtype(self) -> np.dtype[Any]:
        """int8 for weights, uint8 for activations."""
        return self.zero_point.dtype

    def quantize(self, weight: Array) -> Array:
        """The integers of `weight` [out, in], bit-equal to torch's fake quantization.

        torch multiplies by the float32 inverse of the scale, so dividing would differ at ties.
        """
        shape = (-1,) + (1,) * (weight.ndim - 1)
        inverse = (np.float32(1) / self.scale).reshape(shape)
        zero_point = self.zero_point.astype(np.float32).reshape(shape)
        limits = np.iinfo(self.dtype)
        levels = np.rint(weight * inverse) + zero_point
        return np.clip(levels, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, integers: Array) -> Array:
        """The float32 values of `integers` [out, in]."""
        shape = (-1,) + (1,) * (integers.ndim - 1)
        zero_point = self.zero_point.astype(np.float32).reshape(shape)
        values: Array = (integers.astype(np.float32) - zero_point) * self.scale.reshape(shape)
        return values


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One Linear (weight [out, in]) or Embedding (weight [tokens, features])."""

    name: str
    weight: Array
    embedding: bool
    weights: Quantizer | None
    inputs: Quantizer | None
    outputs: Quantizer | None

    @property
    def quantized(self) -> bool:
        """Whether its weight, input or output is quantized."""
        return any((self.weights, self.inputs, self.outputs))

    @property
    def int8_matmul(self) -> bool:
        """Whether its matmul should run on integers: a Linear with both operands quantized."""
        return not self.embedding and self.weights is not None and self.inputs is not None

    @property
    def storage(self) -> Quantizer | None:
        """The quantizer that its weight is stored with; None for float32.

        An Embedding's output is a row of its table, so where both are quantized the table holds the
        output's integers: the same values, without rounding at run time.
        """
        rounded = self.embedding and self.weights is not None and self.outputs is not None
        return self.outputs if rounded else self.weights

    @property
    def stored(self) -> Array:
        """Its weight as stored in the graph: integers where quantized; a Linear's is [in, out]."""
        array = self.weight
        if self.weights is not None:
            array = self.weights.quantize(self.weight)
            if self.embedding and self.outputs is not None:
                array = self.outputs.quantize(self.weights.dequantize(array))
        return array if self.embedding else array.T

    @property
    def stored_name(self) -> str:
        """The name of its weight in the graph."""
        if self.weights is not None:
            return f"{self.name}.weight_quantized"
        return f"{self.name}.weight" if self.embedding else f"{self.name}.weight_transposed"


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Quantizers of the operands of attention's two matmuls: query x key, probabilities x value."""

    query: Quantizer
    key: Quantizer
    probabilities: Quantizer
    value: Quantizer

    @property
    def matmuls(self) -> list[dict[str, Quantizer]]:
        """The two operands of each matmul, by their names in the graph."""
        return [
            {"query": self.query, "key": self.key},
            {"probabilities": self.probabilities, "value": self.value},
        ]


class Layers(dict[str, Layer]):
    """The layers of a model and its quantized `attentions`, both by module name."""

    def __init__(
        self, layers: Iterable[Layer] = (), attentions: Mapping[str, Attention] | None = None
    ) -> None:
        super().__init__({layer.name: layer for layer in layers})
        self.attentions = dict(attentions or {})

    @property
    def int8_operands(self) -> set[str]:
        """The names in the graph of an operand of each matmul that should run on integers."""
        weights = {layer.stored_name for layer in self.values() if layer.int8_matmul}
        return weights | self.attention_operands

    @property
    def attention_operands(self) -> set[str]:
        """The names in the graph of the first operand of each quantized matmul of attention."""
        return {
            f"{name}.{next(iter(operands))}_quantized"
            for name, attention in self.attentions.items()
            for operands in attention.matmuls
        }


def read_layers(model: nn.Module, state: dict[str, Tensor]) -> Layers:
    """The layers that `model` uses, by module name, with the quantizers in `state`.

    Raises UserError for a scale or zero point that int8 cannot represent.
    """
    layers, attentions, used = [], {}, used_layers(model)
    for name, module in model.named_modules():
        if name in used:
            layer = Layer(
                name=name,
                weight=state[f"{name}.weight"].float().numpy(),
                embedding=isinstance(module, nn.Embedding),
                weights=_quantizer(state, f"{name}.weight_quantizer", np.int8),
                inputs=_quantizer(state, f"{name}.input_quantizer", np.uint8),
                outputs=_quantizer(state, f"{name}.output_quantizer", np.uint8),
            )
            layers.append(layer)
        query = _quantizer(state, f"{name}.query_quantizer", np.uint8)
        key = _quantizer(state, f"{name}.key_quantizer", np.int8)
        probabilities = _quantizer(state, f"{name}.probabilities_quantizer", np.uint8)
        value = _quantizer(state, f"{name}.value_quantizer", np.int8)
        if query and key and probabilities and value:
            attentions[name] = Attention(
                query=query, key=key, probabilities=probabilities, value=value
            )
    return Layers(layers, attentions)


def other_bytes(state: dict[str, Tensor], layers: Layers) -> int:
    """Bytes in float32 of the parameters that are not a layer's weight: biases, LayerNorm."""
    weights = {f"{name}.weight" for name in layers}
    names = [name for name in state if QUANTIZER not in name and name not in weights]
    return sum(state[name].numel() * 4 for name in names)


def _quantizer(state: dict[str, Tensor], prefix: str, dtype: type[np.integer]) -> Quantizer | None:
    if f"{prefix}.scale" not in state:
        return None
    scale = state[f"{prefix}.scale"].float().numpy()
    zero_point = state[f"{prefix}.zero_point"].double().numpy()
    limits = np.iinfo(dtype)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise UserError(
            f"{prefix}.scale holds {scale.min()}, a scale must be positive and finite: the "
            "quantizer's range diverged; lower recipe.init_lr or start quantization later"
        )
    inside = (zero_point >= limits.min) & (zero_point <= limits.max)
    if not (inside & (zero_point == np.rint(zero_point))).all():
        raise UserError(
            f"{prefix}.zero_point holds {zero_point.flat[0]}, it must be an integer in "
            f"{limits.min}..{limits.max}; the weights file was changed: train again"
        )
    return Quantizer(scale=scale, zero_point=zero_point.astype(dtype))
