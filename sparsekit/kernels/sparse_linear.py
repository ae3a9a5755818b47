"""Products with a sparse weight, forward and backward, that multiply no zeros; on a CPU."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsekit.kernels.library import Kernel, library
from sparsekit.kernels.tensors import address
from sparsekit.system import cpu_units

# As in the C headers: tokens of a tile and columns of a block, at most, and rows of a chunk.
TOKENS = 96
BLOCK = 96
CHUNK = 768
# Where a sparse matmul takes as long as a dense one, with a margin (docs/performance/training.md).
MIN_SPARSITY = 0.6


def pays_here() -> bool:
    """Whether this CPU multiplies sparse float32 weights faster than dense ones.

    The kernel was measured with AVX-512, whose registers hold what it adds up.
    """
    return (cpu_units() or {}).get("avx512f", False)


class SparseRows(ctypes.Structure):
    """Compressed sparse rows in blocks of columns, as the C file describes them."""

    _fields_ = (
        ("rows", ctypes.c_long),
        ("width", ctypes.c_long),
        ("block", ctypes.c_long),
        ("pointers", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
    )

    def __init__(self, mask: Tensor) -> None:
        rows, width = mask.shape
        # All blocks of about the same width: a narrow last one would cost more for each entry.
        block = -(-width // -(-width // BLOCK))
        pieces = torch.split(mask, block, dim=1)
        counts = torch.stack([piece.sum(1) for piece in pieces])
        chunks = torch.arange(rows) // CHUNK
        order = (chunks * (BLOCK + 1) - counts).argsort(dim=1, stable=True)
        ends = counts.gather(1, order).flatten().cumsum(0).view(len(pieces), rows)
        starts = torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1, -1]])
        found = [piece[of_piece].nonzero() for piece, of_piece in zip(pieces, order, strict=True)]
        columns = torch.cat([each[:, 1] for each in found])
        # The structure holds addresses only: their tensors live with it.
        self.pointer_tensor = torch.cat([starts[:, None], ends], dim=1).int()
        self.order_tensor = order.int()
        # torch has uint16, but few operations of it.
        self.offset_tensor = (columns * TOKENS * 4).to(torch.uint16)
        self.places = torch.cat(
            [
                of_piece[each[:, 0]] * width + each[:, 1] + i * block
                for i, (each, of_piece) in enumerate(zip(found, order, strict=True))
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


KERNEL = Kernel(
    "sparse_linear",
    structures={"sparse_rows": SparseRows},
    constants={"tile_tokens": TOKENS, "block_columns": BLOCK, "chunk_rows": CHUNK},
)


def compiled() -> ctypes.CDLL:
    """The kernels as a library; raises KernelError where it cannot be compiled."""
    return library(KERNEL)


class SparsePattern:
    """Where the numbers of a weight [out, in] are that are not held at zero.

    `mask` is boolean, True where a number is. Building it takes some milliseconds.
    Raises KernelError where the kernel cannot be compiled.
    """

    def __init__(self, mask: Tensor) -> None:
        compiled()
        self._weight = SparseRows(mask)
        self._transposed = SparseRows(mask.t())
        self._places = self._weight.places.int()
        # The entries of the transposed weight among those of the weight.
        order = torch.empty(mask.numel(), dtype=torch.int32)
        order[self._weight.places] = torch.arange(len(self._places), dtype=torch.int32)
        out, width = mask.shape
        places = self._transposed.places
        self._order = order[places % out * width + places // out]

    def entries(self, weight: Tensor) -> Tensor:
        """The numbers of [out, in] that the pattern keeps, in its order; of any type."""
        numbers = weight.detach().reshape(-1)
        if numbers.dtype == torch.float32:
            return _gather(numbers, self._places)
        return numbers.index_select(0, self._places)

    def product(self, rows: Tensor, entries: Tensor, bias: Tensor | None = None) -> Tensor:
        """`F.linear(rows, weight, bias)` of rows [tokens, in]."""
        return _multiply(self._weight, rows, entries, bias)

    def input_gradient(self, errors: Tensor, entries: Tensor, kept: Tensor | None = None) -> Tensor:
        """`errors @ weight` of the output's gradient [tokens, out]; 0 where `kept` is False."""
        of_transposed = _gather(entries, self._order)
        return _multiply(self._transposed, errors, of_transposed, None, kept)

    def weight_gradient(
        self,
        rows: Tensor,
        errors: Tensor,
        zero_point: Tensor | None = None,
        factors: Tensor | None = None,
    ) -> Tensor:
        """`errors.t() @ rows` at the pattern's places, float32 [out, in], and 0 elsewhere.

        `rows` are float32, or uint8 that stand for their differences from `zero_point`. `factors`
        are multiplied in, one float32 for each entry.
        """
        kernels, tokens = compiled(), ctypes.c_long(len(rows))
        rows, errors = rows.contiguous(), errors.contiguous()
        gradient = torch.empty(self._weight.rows, self._weight.width)
        packed = torch.empty(kernels.tiles_of(tokens), self._weight.rows, TOKENS)
        sums = torch.empty(len(self._places))
        kernels.sparse_weight_gradient(
            ctypes.byref(self._weight),
            address(factors),
            address(rows),
            address(zero_point),
            address(errors),
            tokens,
            address(packed),
            address(sums),
            address(gradient),
            torch.get_num_threads(),
        )
        return gradient


def _gather(numbers: Tensor, indices: Tensor) -> Tensor:
    # torch's index_select of one dimension runs on one thread.
    found = torch.empty(len(indices))
    compiled().gather(
        address(numbers),
        address(indices),
        ctypes.c_long(len(indices)),
        address(found),
        torch.get_num_threads(),
    )
    return found


def _multiply(
    weight: SparseRows,
    rows: Tensor,
    entries: Tensor,
    bias: Tensor | None,
    kept: Tensor | None = None,
) -> Tensor:
    kernels, threads = compiled(), torch.get_num_threads()
    rows = rows.contiguous()
    result = torch.empty(len(rows), weight.rows)
    scratch = torch.empty(threads, min(weight.rows, CHUNK), TOKENS)
    kernels.sparse_product(
        ctypes.byref(weight),
        address(entries),
        address(rows),
        ctypes.c_long(len(rows)),
        address(bias),
        address(kept),
        address(result),
        address(scratch),
        threads,
    )
    return result


def sparse_linear(
    values: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern
) -> Tensor:
    """`F.linear` of float32 on a CPU, for a weight that is zero outside of `pattern`.

    Outside of it the weight's gradient is 0. Sums are taken in another order than torch's.
    """
    result: Tensor = _SparseLinear.apply(values, weight, bias, pattern)  # type: ignore[no-untyped-call]
    return result


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern
    ) -> Tensor:
        entries = pattern.entries(weight)
        ctx.save_for_backward(values, entries)
        ctx.pattern = pattern
        result = pattern.product(values.reshape(-1, values.shape[-1]), entries, bias)
        return result.view(*values.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, entries = ctx.saved_tensors
        errors = gradient.reshape(-1, gradient.shape[-1]).contiguous()
        to_values = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_values = ctx.pattern.input_gradient(errors, entries).view(values.shape)
        if ctx.needs_input_grad[1]:
            to_weight = ctx.pattern.weight_gradient(values.reshape(-1, values.shape[-1]), errors)
        if ctx.needs_input_grad[2]:
            to_bias = errors.sum(0)
        return to_values, to_weight, to_bias, None
