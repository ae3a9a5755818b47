"""How much faster a Linear layer trains with sparse matmuls, by sparsity and shape.

    python benchmarks/sparse_products.py            # about a minute
    python benchmarks/sparse_products.py --json     # the last line is one JSON object
    python benchmarks/sparse_products.py --tokens 64 --rounds 1   # the smallest run: seconds

Each figure is the time of a layer's three float32 matmuls (for the output and for the gradients of
input and weight) by torch, divided by that of the sparse ones, including the gathering of the
weight's entries, packing and the scattering of the gradient. Both alternate; medians of all rounds.

Not measured: everything else in a step; see `overhead.py` for whole steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekit.kernels.sparse_linear import SparsePattern, sparse_linear
from sparsekit.system import cores, cpu_name
from sparsekit.training.cpu.allocator import reuse_freed_memory

# [out, in] of the layers of MiniLM and BERT-base.
SHAPES = ((384, 384), (1536, 384), (384, 1536), (768, 768), (3072, 768), (768, 3072))


def step(linear: Callable[[Tensor, Tensor, Tensor], Tensor], tokens: int, weight: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    values = torch.randn(tokens, weight.shape[1], requires_grad=True)
    grad_output = torch.randn(tokens, weight.shape[0])
    weight, bias = weight.clone().requires_grad_(), torch.zeros(len(weight), requires_grad=True)
    begin = time.perf_counter()
    linear(values, weight, bias).backward(grad_output)
    return time.perf_counter() - begin


def ratio(shape: tuple[int, int], sparsity: float, tokens: int, rounds: int) -> float:
    """The median dense time divided by the median sparse time."""
    mask = torch.rand(shape) >= sparsity
    weight, pattern = torch.randn(shape) * mask, SparsePattern(mask)
    seconds: dict[str, list[float]] = {"dense": [], "sparse": []}
    for _ in range(rounds):
        seconds["dense"].append(step(F.linear, tokens, weight))
        seconds["sparse"].append(
            step(lambda *operands: sparse_linear(*operands, pattern), tokens, weight)
        )
    return statistics.median(seconds["dense"]) / statistics.median(seconds["sparse"])


def main() -> None:
    """Measure all shapes and sparsities, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of a batch")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.65, 0.8, 0.9, 0.95])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(
        f"{cpu_name()}, {cores()} cores, {torch.get_num_threads()} threads; {options.tokens} tokens"
    )
    print("out x in     " + "".join(f"{sparsity:>9.0%}" for sparsity in options.sparsity))
    ratios = {}
    for shape in SHAPES:
        with reuse_freed_memory():
            row = [ratio(shape, each, options.tokens, options.rounds) for each in options.sparsity]
        ratios["x".join(map(str, shape))] = dict(zip(map(str, options.sparsity), row, strict=True))
        print(f"{shape[0]:>4} x {shape[1]:<4}  " + "".join(f"{each:>8.2f}x" for each in row))
    if options.json:
        print(json.dumps({"ratio": ratios}))


if __name__ == "__main__":
    main()
