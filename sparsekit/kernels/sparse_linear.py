"""Linear layers that skip the zeros of a sparse weight, forward and backward; CPU only."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsekit.kernels.library import Kernel, constant, library
from sparsekit.kernels.tensors import address, float32_on_cpu
from sparsekit.system import cpu_units

# Below this, a dense matmul is about as fast (docs/performance/training.md).
MIN_SPARSITY = 0.6


def pays_here() -> bool:
    """Whether sparse float32 matmuls are faster than dense ones on this CPU.

    Measured with AVX-512 and with AVX2; the kernel's sums do not fit into smaller registers.
    """
    return (cpu_units() or {}).get("avx2", False)


class SparseRows(ctypes.Structure):
    """Compressed sparse rows in blocks of columns; mirrors `sparse_rows` in C.

    mask: bool [rows, width], True where the weight has an entry.
    """

    _fields_ = (
        ("rows", ctypes.c_long),
        ("width", ctypes.c_long),
        ("block", ctypes.c_long),
        ("pointers", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
    )

    def __init__(self, mask: Tensor) -> None:
        sizes = _sizes()
        rows, width = mask.shape
        # Blocks of about equal width: a narrow last one would cost more per entry.
        block = -(-width // -(-width // sizes.block))
        blocks = torch.split(mask, block, dim=1)
        counts = torch.stack([each.sum(1) for each in blocks])
        chunks = torch.arange(rows) // sizes.chunk
        order = (chunks * (sizes.block + 1) - counts).argsort(dim=1, stable=True)
        ends = counts.gather(1, order).flatten().cumsum(0).view(len(blocks), rows)
        starts = torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1, -1]])
        entries = [each[rows_of].nonzero() for each, rows_of in zip(blocks, order, strict=True)]
        columns = torch.cat([each[:, 1] for each in entries])
        # The structure stores addresses only: the tensors must live as long.
        self.pointer_tensor = torch.cat([starts[:, None], ends], dim=1).int()
        self.order_tensor = order.int()
        # torch supports few operations on uint16.
        self.offset_tensor = (columns * sizes.tokens * 4).to(torch.uint16)
        # The index of each entry in the flattened weight.
        self.indices = torch.cat(
            [
                rows_of[each[:, 0]] * width + each[:, 1] + i * block
                for i, (each, rows_of) in enumerate(zip(entries, order, strict=True))
            ]
        )
        super().__init__(
            rows,
            width,
            block,
            self.pointer_tensor.data_ptr(),
            self.order_tensor.data_ptr(),
            self.offset_tensor.data_ptr(),
        )


KERNEL = Kernel("sparse_linear", structures={"sparse_rows": SparseRows})


def compiled() -> ctypes.CDLL:
    """The loaded library of the kernels; raises KernelError where it cannot be compiled."""
    return library(KERNEL)


class _Sizes(NamedTuple):
    """What the kernels of this CPU work on at once: more with larger registers."""

    tokens: int  # the largest number in a tile
    block: int  # the largest number of columns in a block
    chunk: int  # the rows of a chunk


def _sizes() -> _Sizes:
    return _sizes_of(compiled())


@functools.cache
def _sizes_of(kernels: ctypes.CDLL) -> _Sizes:
    names = ("tile_tokens", "block_columns", "chunk_rows")
    return _Sizes(*(constant(kernels, name) for name in names))


class SparsePattern:
    """The entries of a sparse weight [out, in]: its positions that are not masked.

    mask: bool [out, in], True for an entry.

    Takes some milliseconds to build. Raises KernelError where the kernel cannot be compiled.
    """

    def __init__(self, mask: Tensor) -> None:
        compiled()
        self._weight = SparseRows(mask)
        self._transposed = SparseRows(mask.t())
        self._indices = self._weight.indices.int()
        # For each entry of the transposed weight, its position among the entries of the weight.
        positions = torch.empty(mask.numel(), dtype=torch.int32)
        positions[self._weight.indices] = torch.arange(len(self._indices), dtype=torch.int32)
        out, width = mask.shape
        indices = self._transposed.indices
        self._positions = positions[indices % out * width + indices // out]
        self._rows = self._indices // width

    def entries(self, weight: Tensor) -> Tensor:
        """The values of `weight` [out, in], of any type, at the pattern's entries, in its order."""
        values = weight.detach().reshape(-1)
        if values.dtype == torch.float32:
            return _gather(values, self._indices)
        return values.index_select(0, self._indices)

    def of_rows(self, values: Tensor) -> Tensor:
        """For each entry of the pattern, in its order, the value of its row; float32 [out]."""
        return _gather(values.contiguous(), self._rows)

    def linear(
        self,
        rows: Tensor,
        entries: Tensor,
        bias: Tensor | None = None,
        zero_point: Tensor | None = None,
        scales: Tensor | None = None,
    ) -> Tensor:
        """`F.linear(rows, weight, bias)`; `entries`: float32, those of the weight.

        rows: float32 [tokens, in], or uint8 with a `zero_point`, which is subtracted.
        scales: float32 [out], multiplied into the sums before the bias is added.
        """
        return _matmul(self._weight, rows, entries, bias, zero_point=zero_point, scales=scales)

    def input_gradient(
        self, grad_output: Tensor, entries: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """`grad_output @ weight` for grad_output [tokens, out], and 0 where `mask` is False."""
        transposed_entries = _gather(entries, self._positions)
        return _matmul(self._transposed, grad_output, transposed_entries, None, mask)

    def weight_gradient(
        self,
        rows: Tensor,
        grad_output: Tensor,
        zero_point: Tensor | None = None,
        factors: Tensor | None = None,
    ) -> Tensor:
        """`grad_output.T @ rows` at the pattern's entries, float32 [out, in], and 0 elsewhere.

        rows: float32 [tokens, in], or uint8 with a `zero_point`, which is subtracted.
        factors: one float32 for each entry, multiplied into its gradient, which is 0 where the
            factor is 0.
        """
        kernels, tokens = compiled(), ctypes.c_long(len(rows))
        assert float32_on_cpu(rows if zero_point is None else None, grad_output, factors)
        rows, grad_output = rows.contiguous(), grad_output.contiguous()
        gradient = torch.empty(self._weight.rows, self._weight.width)
        packed = torch.empty(kernels.count_tiles(tokens), self._weight.rows, _sizes().tokens)
        sums = torch.empty(len(self._indices))
        kernels.sparse_weight_gradient(
            ctypes.byref(self._weight),
            address(factors),
            address(rows),
            address(zero_point),
            address(grad_output),
            tokens,
            address(packed),
            address(sums),
            address(gradient),
            torch.get_num_threads(),
        )
        return gradient


def _gather(values: Tensor, indices: Tensor) -> Tensor:
    # torch's index_select of a one-dimensional tensor uses one thread only.
    gathered = torch.empty(len(indices))
    compiled().gather(
        address(values),
        address(indices),
        ctypes.c_long(len(indices)),
        address(gathered),
        torch.get_num_threads(),
    )
    return gathered


def _matmul(
    weight: SparseRows,
    rows: Tensor,
    entries: Tensor,
    bias: Tensor | None,
    mask: Tensor | None = None,
    zero_point: Tensor | None = None,
    scales: Tensor | None = None,
) -> Tensor:
    kernels, threads = compiled(), torch.get_num_threads()
    assert float32_on_cpu(rows if zero_point is None else None, entries, bias, scales)
    rows = rows.contiguous()
    bias, mask, scales = (
        each if each is None else each.contiguous() for each in (bias, mask, scales)
    )
    result = torch.empty(len(rows), weight.rows)
    sizes = _sizes()
    scratch = torch.empty(threads, min(weight.rows, sizes.chunk), sizes.tokens)
    kernels.sparse_matmul(
        ctypes.byref(weight),
        address(entries),
        address(rows),
        address(zero_point),
        ctypes.c_long(len(rows)),
        address(scales),
        address(bias),
        address(mask),
        address(result),
        address(scratch),
        threads,
    )
    return result


def sparse_linear(
    values: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern
) -> Tensor:
    """`F.linear` of float32 tensors on a CPU, for a weight that is zero outside of `pattern`.

    The weight's gradient is 0 outside of it too. Sums are added in another order than torch's.
    """
    rows = values.reshape(-1, values.shape[-1])
    result: Tensor = _SparseLinear.apply(rows, weight, bias, pattern)  # type: ignore[no-untyped-call]
    # Reshaped here: autograd refuses to change the result in place, as DeBERTa does, where a
    # function of its own returned a view.
    return result.view(*values.shape[:-1], len(weight))


class _SparseLinear(torch.autograd.Function):
    """`sparse_linear` of two-dimensional values."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern
    ) -> Tensor:
        entries = pattern.entries(weight)
        ctx.save_for_backward(rows, entries)
        ctx.pattern = pattern
        return pattern.linear(rows, entries, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        rows, entries = ctx.saved_tensors
        grad_output = grad_output.contiguous()
        grad_rows = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_rows = ctx.pattern.input_gradient(grad_output, entries)
        if ctx.needs_input_grad[1]:
            grad_weight = ctx.pattern.weight_gradient(rows, grad_output)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_output.sum(0)
        return grad_rows, grad_weight, grad_bias, None
