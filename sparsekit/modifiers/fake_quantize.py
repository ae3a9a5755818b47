"""Fake quantization: values rounded to int8 in the forward pass, straight-through in the backward.

Written on `torch.fake_quantize_per_{tensor,channel}_affine`, since `torch.ao.quantization` is
deprecated. Parameter names stay those of the plain layers, so a saved model loads without us.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Moving average of the observed ranges: SparseML's and torch's default.
AVERAGING = 0.01
EPSILON = float(torch.finfo(torch.float32).eps)
INT8 = (-128, 127)
UINT8 = (0, 255)


def quantization_parameters(
    low: Tensor, high: Tensor, limits: tuple[int, int], symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Scale (float32) and zero point (int32) that map the range [low, high] onto `limits`.

    The range is first widened to hold 0, so that zeros stay exactly zero.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if symmetric:
        scale = torch.maximum(-low, high) / ((limits[1] - limits[0]) / 2)
        return scale.clamp(min=EPSILON), torch.zeros_like(scale, dtype=torch.int32)
    scale = ((high - low) / (limits[1] - limits[0])).clamp(min=EPSILON)
    zero_point = (limits[0] - torch.round(low / scale)).clamp(*limits)
    return scale, zero_point.to(torch.int32)


class FakeQuantizer(nn.Module):
    """Observes a range as a moving average, and rounds to `limits` within it.

    `channels` > 0 gives each index of dimension 0 a scale of its own. `enabled` and `observing`
    are switches that a modifier sets from the epoch; the buffers are the state that is saved.
    """

    min_val: Tensor
    max_val: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, limits: tuple[int, int], symmetric: bool, channels: int = 0) -> None:
        super().__init__()
        self.limits, self.symmetric, self.per_channel = limits, symmetric, channels > 0
        shape = (channels,) if channels else ()
        self.register_buffer("min_val", torch.full(shape, torch.inf))
        self.register_buffer("max_val", torch.full(shape, -torch.inf))
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))
        self.enabled = self.observing = False

    @torch.no_grad()
    def observe(self, values: Tensor) -> None:
        """Move the range towards that of `values`, without waiting for the device."""
        if self.per_channel:
            low, high = torch.aminmax(values.flatten(1), dim=1)
        else:
            low, high = torch.aminmax(values)
        low, high = low.float(), high.float()
        # An infinite range has seen nothing yet and takes the first one as it is.
        seen = torch.isfinite(self.min_val)
        self.min_val.copy_(torch.where(seen, self.min_val + AVERAGING * (low - self.min_val), low))
        self.max_val.copy_(
            torch.where(seen, self.max_val + AVERAGING * (high - self.max_val), high)
        )
        scale, zero_point = quantization_parameters(
            self.min_val, self.max_val, self.limits, self.symmetric
        )
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    def forward(self, values: Tensor) -> Tensor:
        if self.observing and self.training:
            self.observe(values.detach())
        if not self.enabled:
            return values
        values = values.float()
        if self.per_channel:
            return torch.fake_quantize_per_channel_affine(
                values, self.scale, self.zero_point, 0, *self.limits
            )
        return torch.fake_quantize_per_tensor_affine(
            values, self.scale, self.zero_point, *self.limits
        )


class QuantLinear(nn.Linear):
    """A Linear whose input (uint8, asymmetric) and weight (int8, symmetric) are fake-quantized."""

    def __init__(self, source: nn.Linear, per_channel: bool, quantize_output: bool) -> None:
        has_bias = source.bias is not None
        super().__init__(source.in_features, source.out_features, bias=has_bias, device="meta")
        self.weight, self.bias = source.weight, source.bias
        self.input_quantizer = FakeQuantizer(UINT8, symmetric=False)
        self.weight_quantizer = FakeQuantizer(
            INT8, symmetric=True, channels=source.out_features if per_channel else 0
        )
        self.output_quantizer = FakeQuantizer(UINT8, symmetric=False) if quantize_output else None

    def forward(self, values: Tensor) -> Tensor:
        weight = self.weight_quantizer(self.weight)
        result = F.linear(self.input_quantizer(values), weight, self.bias)
        if self.output_quantizer is not None:
            result = self.output_quantizer(result)
        return result


class QuantEmbedding(nn.Embedding):
    """An Embedding whose table (int8, symmetric) and output (uint8) are fake-quantized."""

    def __init__(self, source: nn.Embedding) -> None:
        super().__init__(
            source.num_embeddings,
            source.embedding_dim,
            padding_idx=source.padding_idx,
            device="meta",
        )
        self.weight = source.weight
        self.weight_quantizer = FakeQuantizer(INT8, symmetric=True)
        self.output_quantizer = FakeQuantizer(UINT8, symmetric=False)

    def forward(self, ids: Tensor) -> Tensor:
        table = self.weight_quantizer(self.weight)
        result: Tensor = self.output_quantizer(F.embedding(ids, table, self.padding_idx))
        return result
