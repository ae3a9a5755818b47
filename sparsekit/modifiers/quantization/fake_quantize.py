"""Fake quantization: values rounded to int8 in the forward pass, straight-through in the backward.

Implemented here because `torch.ao.quantization` is deprecated. Parameters keep the names of the
plain layers, so that a saved model loads without sparsekit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsekit.kernels import quantize
from sparsekit.kernels.sparse_linear import SparsePattern, sparse_linear
from sparsekit.kernels.tensors import float32_on_cpu
from sparsekit.modifiers.processes import several, shared_range
from sparsekit.modifiers.quantization.observers import MINMAX
from sparsekit.modifiers.quantization.rounding import (
    INT8,
    UINT8,
    fake_quantize,
    has_int8_units,
    quantized_linear,
    takes_kernels,
)
from sparsekit.modifiers.quantization.scales import EPSILON, quantization_parameters
from sparsekit.modifiers.quantization.scheme import Activations, Scheme, Weights

# The weight of a new range in the moving average: SparseML's and torch's default.
AVERAGING = 0.01


class FakeQuantizer(nn.Module):
    """Observes the range of values as a moving average, and rounds values within it to integers.

    The range of one step is what `observer` finds, by default the smallest and the largest value.

    limits: the smallest and the largest integer.
    symmetric: fix the zero point in the middle of the limits.
    channels: 0 for one scale, otherwise the number of scales, one for each index of dimension 0.

    A modifier sets `enabled` and `observing` for each epoch; the buffers are the saved state.
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
        self.observer = MINMAX

    @torch.no_grad()
    def observe(self, values: Tensor) -> None:
        """Update the moving average with the range of `values` in all processes.

        No value is read back from the device. No values change nothing.
        """
        # With several processes each has to take part; there torch names the empty tensor.
        if values.numel() == 0 and not several():
            return
        in_kernel = takes_kernels(values, self.min_val) and not several()
        if in_kernel and not self.per_channel and self.observer.name == "minmax":
            state = (self.min_val, self.max_val, self.scale, self.zero_point)
            quantize.observe(values, state, self.limits, self.symmetric, AVERAGING, EPSILON)
            return
        rows = values.flatten(1) if self.per_channel else values.reshape(1, -1)
        low, high = self.observer.range(rows, self.limits, self.symmetric)
        if not self.per_channel:
            low, high = shared_range(low[0], high[0])
        # The first observed range replaces the infinite one.
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

    def watch(self, values: Tensor) -> None:
        """Observe `values` in training, if `observing`.

        Only in the forward pass itself: gradient checkpointing repeats it in the backward pass,
        where the scales must be those that it had.
        """
        if self.observing and self.training and not _in_backward_pass():
            self.observe(values.detach())

    def round(self, values: Tensor) -> Tensor:
        """`values`, rounded if `enabled`; of the same type, or float32 under autocast."""
        if not self.enabled:
            return values
        rounded = fake_quantize(values.float(), self.scale, self.zero_point, self.limits)
        if torch.is_autocast_enabled(values.device.type):
            return rounded  # The next matmul converts it.
        return rounded.to(values.dtype)

    def forward(self, values: Tensor) -> Tensor:
        self.watch(values)
        return self.round(values)


class QuantLinear(nn.Linear):
    """A Linear whose input, weight and output are fake-quantized as `scheme` says.

    pattern: the weights that are not masked, or None. Then masked ones take no part in training's
        matmuls.
    """

    pattern: SparsePattern | None = None

    def __init__(self, source: nn.Linear, scheme: Scheme) -> None:
        has_bias = source.bias is not None
        super().__init__(source.in_features, source.out_features, bias=has_bias, device="meta")
        self.weight, self.bias = source.weight, source.bias
        self.input_quantizer = activation_quantizer(scheme.inputs)
        self.weight_quantizer = weight_quantizer(scheme.weights, source.out_features)
        self.output_quantizer = activation_quantizer(scheme.outputs)
        self.int8_units = has_int8_units()

    def forward(self, values: Tensor) -> Tensor:
        result = self._linear(values)
        return result if self.output_quantizer is None else self.output_quantizer(result)

    def _linear(self, values: Tensor) -> Tensor:
        inputs, weights = self.input_quantizer, self.weight_quantizer
        scales = [each.scale for each in (inputs, weights) if each]
        takes_kernels = not torch.is_autocast_enabled("cpu") and float32_on_cpu(
            values, self.weight, self.bias, *scales
        )
        if not takes_kernels or not (inputs and weights and inputs.enabled and weights.enabled):
            values = inputs(values) if inputs else values
            weight = weights(self.weight) if weights else self.weight
            if not takes_kernels or self.pattern is None or not self.training:
                return F.linear(values, weight, self.bias)
            return sparse_linear(values, weight, self.bias, self.pattern)
        inputs.watch(values)
        weights.watch(self.weight)
        return quantized_linear(
            values,
            self.weight,
            self.bias,
            inputs.scale,
            inputs.zero_point,
            weights.scale,
            self.int8_units,
            self.pattern if self.training else None,
        )


class QuantEmbedding(nn.Embedding):
    """An Embedding whose weight and output are fake-quantized as `scheme` says."""

    def __init__(self, source: nn.Embedding, scheme: Scheme) -> None:
        super().__init__(
            source.num_embeddings,
            source.embedding_dim,
            padding_idx=source.padding_idx,
            device="meta",
        )
        self.weight = source.weight
        # One scale for the whole table: its rows are tokens, not output channels.
        self.weight_quantizer = weight_quantizer(scheme.weights and Weights(), 0)
        self.output_quantizer = activation_quantizer(scheme.outputs)

    def forward(self, ids: Tensor) -> Tensor:
        rows = F.embedding(ids, self.weight, self.padding_idx, sparse=self.sparse)
        if self.weight_quantizer is not None:
            # The range is that of the whole table, but only the selected rows need rounding.
            self.weight_quantizer.watch(self.weight)
            rows = self.weight_quantizer.round(rows)
        return rows if self.output_quantizer is None else self.output_quantizer(rows)


def _in_backward_pass() -> bool:
    """Whether autograd is running this, as gradient checkpointing lets it repeat a forward pass."""
    # What torch.utils.checkpoint asks too; a compiled graph repeats nothing by calling it.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def unseen(model: nn.Module) -> list[str]:
    """The names of enabled quantizers that have observed nothing, whose scale is still 1."""
    return list(_unseen(model))


def _unseen(model: nn.Module) -> dict[str, FakeQuantizer]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, FakeQuantizer)
        and module.enabled
        and not module.min_val.isfinite().all()
    }


@contextmanager
def without_unseen_ranges(model: nn.Module) -> Iterator[None]:
    """Turn off quantizers that have no range yet: quantization may start at this step."""
    quantizers = _unseen(model).values()
    for quantizer in quantizers:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.enabled = True


def activation_quantizer(settings: Activations | None) -> FakeQuantizer | None:
    """The quantizer of a layer's input or output; None leaves it in float32."""
    return None if settings is None else FakeQuantizer(UINT8, settings.symmetric)


def weight_quantizer(settings: Weights | None, channels: int) -> FakeQuantizer | None:
    """The quantizer of a weight with that many output channels; None leaves it in float32."""
    if settings is None:
        return None
    return FakeQuantizer(INT8, symmetric=True, channels=channels if settings.per_channel else 0)
