"""The operators around the encoder, in numpy, which suffices for their little work."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from sparsekit.errors import UserError, first_line
from sparsekit.runtime.sparse.graph import Array, Node, refused

Operator = Callable[..., Any]
# By the numbers of ONNX's element types.
_TYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}


def run(
    nodes: Iterable[Node],
    values: dict[str, Array],
    operators: Mapping[str, Operator] | None = None,
) -> None:
    """Compute the outputs of `nodes`, in order, from `values` into `values`.

    operators: the functions by name; None: `OPERATORS`.

    Raises UserError naming the node whose inputs have inconsistent shapes or types.
    """
    operators = OPERATORS if operators is None else operators
    for node in nodes:
        inputs = [values[name] if name else None for name in node.inputs]
        try:
            # As in ONNX, overflow gives infinity; the logits are checked.
            with np.errstate(all="ignore"):
                found = operators[node.op](*inputs, **node.attributes)
            # Further outputs of other operators are never read.
            several = found if isinstance(found, tuple) else (found,)
            values.update(zip(node.outputs, several, strict=False))
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            shapes = ", ".join("none" if x is None else str(list(x.shape)) for x in inputs)
            raise UserError(
                f"runtime=sparse cannot compute {node.op} {node.name!r} of inputs {shapes}: "
                f"{first_line(error)}; the graph does not support this input: export the run again"
            ) from error


def check(nodes: Iterable[Node]) -> None:
    """Raise UserError for the first node that is not supported."""
    for node in nodes:
        if node.op not in OPERATORS:
            raise refused(node, "the operator is not supported")
        if node.op == "CumSum" and any(node.attributes.values()):
            raise refused(node, "the options exclusive and reverse are not supported")
        if node.op == "LayerNormalization" and node.attributes.get("axis", -1) not in (-1, 2):
            raise refused(node, "it is not over the last axis, the features")
        if node.attributes.get("noop_with_empty_axes"):
            raise refused(node, "the option noop_with_empty_axes is not supported")
        if node.attributes.get("block_size"):
            raise refused(node, "scales of blocks are not supported")


def quantize(x: Array, scale: Array, zero_point: Array, axis: int = 1) -> Array:
    """QuantizeLinear with one scale, or one for each index along `axis`."""
    _check_parameters(scale, zero_point)
    limits = np.iinfo(zero_point.dtype)
    scale, shift = along(scale, axis, x.shape), along(zero_point, axis, x.shape)
    levels = np.rint(x / scale) + shift.astype(np.float32)
    integers: Array = np.clip(levels, limits.min, limits.max).astype(zero_point.dtype)
    return integers


def dequantize(
    q: Array, scale: Array, zero_point: Array | None = None, axis: int = 1, **_: int
) -> Array:
    """DequantizeLinear to float32."""
    values = q.astype(np.float32)
    if zero_point is not None:
        _check_parameters(scale, zero_point)
        values -= along(zero_point, axis, q.shape).astype(np.float32)
    result: Array = values * along(scale, axis, q.shape)
    return result


def _check_parameters(scale: Array, zero_point: Array) -> None:
    if scale.shape != zero_point.shape:
        raise ValueError(
            f"scale {list(scale.shape)} and zero point {list(zero_point.shape)} differ in shape"
        )


def along(parameters: Array, axis: int, x_shape: tuple[int, ...]) -> Array:
    """One parameter, or one for each index along `axis`, in a shape that broadcasts to `x_shape`.

    Raises ValueError for another number of parameters.
    """
    if parameters.ndim == 0:
        return parameters
    if parameters.ndim > 1 or len(parameters) != x_shape[axis]:
        raise ValueError(
            f"scales or zero points have shape {list(parameters.shape)} along axis {axis}"
        )
    shape = [1] * len(x_shape)
    shape[axis] = -1
    return parameters.reshape(shape)


def layer_norm(
    x: Array, weight: Array, bias: Array | None = None, epsilon: float = 1e-5, **_: int
) -> Array:
    """LayerNormalization over the last axis; `check` refuses others."""
    centered = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centered * centered).mean(axis=-1, keepdims=True) + epsilon)
    result: Array = centered / deviation * weight
    return result if bias is None else result + bias


def erf(x: Array) -> Array:
    """The error function, to 2e-7 (Abramowitz and Stegun, 7.1.26).

    Some heads compute it for all tokens. With `math.erf` for each value that took a fifth of the
    time of a EuroBERT of 6 layers.
    """
    magnitude = np.abs(x.astype(np.float64))
    t = 1 / (1 + 0.3275911 * magnitude)
    series = 1.061405429 * t
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + coefficient) * t
    result: Array = np.copysign(1 - series * np.exp(-magnitude * magnitude), x).astype(x.dtype)
    return result


def gelu(x: Array, approximate: bytes = b"none") -> Array:
    """Gelu: x P(X < x), by the error function or its approximation by tanh."""
    if approximate == b"tanh":
        inner = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    else:
        inner = erf(x / np.sqrt(2))
    result: Array = (0.5 * x * (1 + inner)).astype(x.dtype)
    return result


def matmul(a: Array, b: Array) -> Array:
    """`a @ b` on this thread alone.

    numpy's BLAS would use threads that spin for 30 ms after each call, on cores that the encoder of
    the next run needs: on two cores, two threads were not faster than one.
    """
    result: Array = np.einsum("...ij,...jk->...ik", a, b)
    return result


def _gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Array:
    scaled = np.float32(alpha) * matmul(a.T if transA else a, b.T if transB else b)
    return scaled if c is None else scaled + np.float32(beta) * c


def _slice(
    x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None
) -> Array:
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    where = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        where[axis] = slice(int(start), int(end), int(step))
    return x[tuple(where)]


def _unsqueeze(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(int(axis) for axis in np.atleast_1d(axes)))


def _shape(x: Array, start: int = 0, end: int | None = None) -> Array:
    return np.array(x.shape[start:end], np.int64)


def _reshape(x: Array, shape: Array, allowzero: int = 0) -> Array:
    if shape.ndim != 1:
        raise ValueError(f"the shape has {shape.ndim} dimensions, expected one")
    sizes = [x.shape[i] if n == 0 and not allowzero else int(n) for i, n in enumerate(shape)]
    return x.reshape(sizes)


def _cumsum(x: Array, axis: Array, **_: int) -> Array:
    return np.cumsum(x, axis=int(axis), dtype=x.dtype)


def _reduce_sum(x: Array, axes: Array | None = None, keepdims: int = 1, **_: int) -> Array:
    # Without axes over all of them: the option noop_with_empty_axes is refused by `check`.
    if axes is not None and axes.ndim != 1:
        raise ValueError(f"the axes have {axes.ndim} dimensions, expected one")
    along_axes = None if axes is None else tuple(int(axis) for axis in axes)
    return np.asarray(x.sum(axis=along_axes, keepdims=bool(keepdims)))


def _arg_max(x: Array, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Array:
    if select_last_index:
        raise ValueError("select_last_index is not supported")
    return np.asarray(np.argmax(x, axis=axis, keepdims=bool(keepdims)))


def _split(
    x: Array, sizes: Array | None = None, axis: int = 0, num_outputs: int | None = None
) -> tuple[Array, ...]:
    if sizes is not None:
        return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))
    if num_outputs is None or x.shape[axis] % num_outputs:
        raise ValueError(f"it does not divide {x.shape[axis]} into {num_outputs} equal parts")
    return tuple(np.split(x, num_outputs, axis=axis))


def _squeeze(x: Array, axes: Array | None = None) -> Array:
    return np.squeeze(x, None if axes is None else tuple(int(a) for a in np.atleast_1d(axes)))


def _gather_nd(x: Array, indices: Array, batch_dims: int = 0) -> Array:
    if batch_dims:
        raise ValueError(f"batch_dims is {batch_dims}, only 0 is supported")
    return np.asarray(x[tuple(np.moveaxis(indices, -1, 0))])


def _sum(*terms: Array) -> Array:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _div(x: Array, y: Array) -> Array:
    """Div; of integers the quotient rounded toward zero, where numpy's would be a float."""
    if np.issubdtype(x.dtype, np.floating):
        return np.divide(x, y)
    quotient: Array = (x - np.fmod(x, y)) // y
    return quotient


def _pow(base: Array, exponent: Array) -> Array:
    """Pow, in the type of the base whatever the exponent's is."""
    power: Array = np.asarray(np.power(base, exponent)).astype(base.dtype)
    return power


def _clip(x: Array, lowest: Array | None = None, highest: Array | None = None) -> Array:
    """Clip, with either limit or none."""
    if lowest is not None:
        x = np.maximum(x, lowest)
    return x if highest is None else np.minimum(x, highest)


OPERATORS: dict[str, Operator] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "ArgMax": _arg_max,
    "Cast": lambda x, to: x.astype(_TYPES[to]),
    "Concat": lambda *x, axis: np.concatenate(x, axis=axis),
    "Ceil": np.ceil,
    "Clip": _clip,
    "Cos": np.cos,
    "CumSum": _cumsum,
    "DequantizeLinear": dequantize,
    "Div": _div,
    "Equal": np.equal,
    "Erf": erf,
    "Expand": lambda x, shape: np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape))),
    "Gather": lambda x, indices, axis=0: np.take(x, indices, axis=axis),
    "GatherND": _gather_nd,
    "Gelu": gelu,
    "Gemm": _gemm,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "LayerNormalization": layer_norm,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Log": np.log,
    "MatMul": matmul,
    "Max": lambda *x: functools.reduce(np.maximum, x),
    "Min": lambda *x: functools.reduce(np.minimum, x),
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Pow": _pow,
    "QuantizeLinear": quantize,
    "Range": np.arange,
    "ReduceSum": _reduce_sum,
    "Relu": lambda x: np.maximum(x, 0),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sign": np.sign,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Sin": np.sin,
    "Slice": _slice,
    "Split": _split,
    "Sqrt": np.sqrt,
    "Squeeze": _squeeze,
    "Sub": np.subtract,
    "Sum": _sum,
    "Tanh": np.tanh,
    "Tile": np.tile,
    "Transpose": lambda x, perm=None: x.transpose(perm),
    "Unsqueeze": _unsqueeze,
    "Where": np.where,
}
