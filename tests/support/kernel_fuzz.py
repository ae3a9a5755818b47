"""Random inputs for the C kernels, through the functions that Python calls them by.

As a script it is watched by a sanitizer of the compiler:
`python kernel_fuzz.py encoder ROUNDS GRAPH ...` or `python kernel_fuzz.py training ROUNDS`
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from sparsekit.errors import UserError
from sparsekit.kernels import adamw, attention, dropout, fisher, quantize
from sparsekit.kernels.sparse_linear import SparsePattern
from sparsekit.runtime.base import Inputs
from sparsekit.runtime.sparse.dense_matmul import matmul
from sparsekit.runtime.sparse.runtime import SparseRuntime

# The smallest float32 that is not normal, and others that need care.
SPECIAL = (np.nan, np.inf, -np.inf, 1e-45, -1e-39, 0.0, -0.0, 3.4e38, -3.4e38)


def request(random: np.random.Generator, batch: int, length: int, vocabulary: int) -> Inputs:
    """Texts of all lengths, masks with holes, rows without any token; not always contiguous."""
    ids = random.integers(0, vocabulary, (batch, length))
    mask = (np.arange(length) < random.integers(0, length + 1, (batch, 1))).astype(np.int64)
    if random.random() < 0.3:
        mask = mask * random.integers(0, 2, mask.shape)
    if random.random() < 0.3:
        ids = np.asfortranarray(ids)
    elif random.random() < 0.3:
        ids = np.repeat(ids, 2, axis=1)[:, ::2]
    types = random.integers(0, 2, ids.shape)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def refused(
    random: np.random.Generator, vocabulary: int, names: Collection[str]
) -> Iterator[Inputs]:
    """Inputs that C must not see, for a graph with inputs of these names."""
    good = request(random, 3, 8, vocabulary)
    wide = np.iinfo(np.int64)
    for wrong in (-1, vocabulary, 2**31, 2**32 + 1, wide.max, wide.min):
        ids = np.array(good["input_ids"])
        ids[random.integers(3), random.integers(8)] = wrong
        yield good | {"input_ids": ids}
    for other in (good["input_ids"][:0], good["input_ids"][:, :0], good["input_ids"][0]):
        yield dict.fromkeys(good, other)
    for name in names:
        array = good[name]
        yield good | {name: array[:2]}
        yield good | {name: array[None]}
        for dtype in (np.int32, np.float32, np.bool_, ">i8"):
            yield good | {name: array.astype(dtype)}


def limits(graph: Path) -> tuple[int, int]:
    """The words and the positions that the graph's embeddings have rows for."""
    rows = {
        tensor.name: tensor.dims[0] for tensor in onnx.load(graph).graph.initializer if tensor.dims
    }
    words, positions = (
        next((count for name, count in rows.items() if any(each in name for each in names)), None)
        for names in (
            ("word_embeddings.weight", "tok_embeddings.weight"),
            ("position_embeddings.weight",),
        )
    )
    assert words is not None
    # RoBERTa's positions begin at 2; ModernBERT's are rotated, of any number.
    return words, 100 if positions is None else positions - 2


def fuzz_encoder(graph: Path, rounds: int) -> int:
    """Run random requests with 1, 2, 3 and 8 threads, which must answer with the same bits.

    Returns the number of requests, those that are refused included.
    """
    random = np.random.default_rng(0)
    runtimes = [SparseRuntime(graph, threads) for threads in (1, 2, 3, 8)]
    words, positions = limits(graph)
    requests = [request(random, 1, positions, words), request(random, 10_000, 1, words)]
    for _ in range(rounds):
        batch, length = random.integers(1, 40), random.integers(1, min(positions, 150))
        requests.append(request(random, batch, length, words))
    for inputs in requests:
        first, *others = [runtime.run(inputs) for runtime in runtimes]
        assert np.isfinite(first).all()
        for other in others:
            np.testing.assert_array_equal(other, first)
    names = [each.name for each in onnx.load(graph).graph.input]
    wrong = list(refused(random, words, names))
    for inputs in wrong:
        try:
            runtimes[1].run(inputs)
        except UserError:
            continue
        described = {name: (array.dtype, array.shape) for name, array in inputs.items()}
        raise AssertionError(f"not refused: {described}")
    return len(requests) + len(wrong)


def values(random: np.random.Generator, *shape: int, special: bool) -> torch.Tensor:
    made = random.normal(0, 3, shape).astype(np.float32)
    if special:
        places = random.random(shape) < 0.2
        made[places] = random.choice(np.array(SPECIAL, np.float32), int(places.sum()))
    return torch.from_numpy(made)


def fuzz_training(rounds: int) -> int:
    """Call every kernel of training with random sizes, empty ones and special values too.

    The same bits must come from one thread and from three. Returns the number of calls.
    """
    calls = 0
    for seed in range(rounds):
        for call in (_dropped, _norm, _quantized, _observed, _attended, _multiplied, _surgical):
            results = []
            for threads in (1, 3):
                torch.set_num_threads(threads)
                results.append(call(np.random.default_rng(seed)))
            for one, other in zip(*results, strict=True):
                torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True)
            calls += 1
    torch.set_num_threads(1)
    return calls


def _dropped(random: np.random.Generator) -> Sequence[torch.Tensor]:
    rows = values(random, random.integers(0, 400), random.integers(1, 50), special=True)
    kept = dropout.drop(rows, int(random.integers(-(2**63), 2**63 - 1)), 2**15)
    finite = rows.isfinite() & (rows != 0)
    assert ((kept == 0) | (kept == 2 * rows))[finite].all()
    return [kept]


def _norm(random: np.random.Generator) -> Sequence[torch.Tensor]:
    sizes = random.integers(0, 20_000, random.integers(1, 5))
    special = bool(random.random() < 0.3)
    gradients = [values(random, int(size), special=special) for size in sizes]
    norm = adamw.norm(gradients)
    if not special:
        torch.testing.assert_close(norm, torch.cat(gradients).norm())
    return [norm]


def _quantized(random: np.random.Generator) -> Sequence[torch.Tensor]:
    rows, width = random.integers(0, 60), random.integers(1, 90)
    x = values(random, rows, width, special=True)
    limits = (-128, 127) if random.random() < 0.5 else (0, 255)
    zero_point = None if limits[0] else torch.tensor(7, dtype=torch.int32)
    scale = torch.rand(rows, 1) * 0 + 0.1 if random.random() < 0.5 else torch.tensor(0.1)
    quantized, inside = quantize.quantize(x, scale, zero_point, limits)
    # What NaN becomes depends on the processor.
    return [quantized[~x.isnan()], inside[~x.isnan()]]


def _observed(random: np.random.Generator) -> Sequence[torch.Tensor]:
    x = values(random, random.integers(1, 90), random.integers(1, 90), special=False)
    x[x.abs() > 6] = 1e-45
    state = (torch.tensor(torch.inf), torch.tensor(-torch.inf), torch.tensor(1.0))
    zero_point = torch.tensor(0, dtype=torch.int32)
    quantize.observe(x, (*state, zero_point), (0, 255), False, 0.01, 1e-7)
    assert state[0] == x.min() and state[1] == x.max()
    return [*state, zero_point]


def _attended(random: np.random.Generator) -> Sequence[torch.Tensor]:
    batch, heads, size = random.integers(1, 4), random.integers(1, 4), 16 * random.integers(1, 5)
    shape = (batch, random.integers(1, 70), heads, size)
    query, key, value, grad_output = (
        values(random, *shape, special=random.random() < 0.1) for _ in range(4)
    )
    scale, seed, keep = 1 / float(size) ** 0.5, 5, int(random.choice([0, 60_000]))
    out, probabilities = attention.attention(query, key, value, None, scale, seed, keep)
    given = (query, key, value, probabilities, grad_output, scale, seed, keep)
    return [out, *attention.gradients(*given)]


def _multiplied(random: np.random.Generator) -> Sequence[torch.Tensor]:
    out, width = random.integers(1, 200), random.integers(1, 200)
    rows = values(random, random.integers(0, 300), width, special=bool(random.random() < 0.3))
    mask = torch.from_numpy(random.random((out, width)) < random.choice([0, 0.1, 1]))
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(1)) * mask
    pattern = SparsePattern(mask)
    entries = pattern.entries(weight)
    result = pattern.linear(rows, entries)
    if rows.isfinite().all():
        expected = torch.nn.functional.linear(rows, weight)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-3)
    gradients = pattern.input_gradient(result, entries), pattern.weight_gradient(rows, result)
    return [result, *gradients]


def _surgical(random: np.random.Generator) -> Sequence[torch.Tensor]:
    width, out = random.integers(1, 500), random.integers(1, 20)
    examples, tokens = random.integers(1, 70), random.integers(1, 9)
    size, group = 4 * int(random.integers(1, 20)), int(random.choice([1, 2, 4]))
    special = bool(random.random() < 0.1)
    sums = fisher.empty_sums(width * out, size)
    inputs = values(random, examples, tokens, width, special=special)
    grad_outputs = values(random, examples, out, tokens, special=special)
    fisher.add_products(sums, size, inputs, grad_outputs)
    mask = torch.from_numpy((random.random(width * out) < 0.5).astype(np.float32))
    damping = (int(examples), 1e-3, 1e-6)
    inverses = fisher.inverse_squares(sums, size, mask, group, damping)
    weight = values(random, width * out, special=False)
    moved = fisher.compensated(sums, size, weight, mask, damping)
    assert special or (inverses.isfinite().all() and not moved[mask == 0].any())
    return [sums, inverses, moved]


def fuzz_products(rounds: int) -> int:
    """Multiply matrices of random sizes as the heads of a graph do; returns their number."""
    random = np.random.default_rng(0)
    for _ in range(rounds):
        rows, inputs, columns = random.integers(0, [300, 100, 100])
        a = values(random, 1, rows, inputs, special=bool(random.random() < 0.3)).numpy()
        b = values(random, inputs, columns, special=False).numpy()
        product = matmul(a, b)
        if np.isfinite(a).all():
            np.testing.assert_allclose(product, a @ b, rtol=1e-4, atol=1e-3)
    return rounds


if __name__ == "__main__":
    kernels, rounds, *graphs = sys.argv[1:]
    if kernels == "encoder":
        done = sum(fuzz_encoder(Path(graph), int(rounds)) for graph in graphs)
        done += fuzz_products(20 * int(rounds))
    else:
        done = fuzz_training(int(rounds))
    sys.stdout.write(str(done))
