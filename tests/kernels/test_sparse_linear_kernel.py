"""Linear layers that skip zeros against torch's dense ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from compiler import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.kernels import compiler
from sparsekit.kernels.errors import KernelError
from sparsekit.kernels.library import library
from sparsekit.kernels.sparse_linear import SparsePattern, compiled, sparse_linear

pytestmark = needs_compiler


@pytest.fixture(autouse=True, scope="module")
def unwritten_memory_is_nan() -> Iterator[None]:
    """Memory that a kernel fails to write cannot be right by chance."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def made(tokens: int, width: int, out: int, density: float, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(tokens, width, generator=generator)
    mask = torch.rand(out, width, generator=generator) < density
    weight = torch.randn(out, width, generator=generator) * mask
    grad_output = torch.randn(tokens, out, generator=generator)
    return [values, weight, torch.randn(out, generator=generator), grad_output, mask]


@settings(max_examples=60)
@given(
    # Around the ends of vectors and of tiles.
    tokens=st.integers(1, 400) | st.sampled_from([1, 16, 63, 64, 65, 96, 97, 127, 129, 192, 193]),
    # Around the ends of vectors and of blocks of columns, and rows of more than one chunk.
    width=st.sampled_from([1, 15, 16, 17, 95, 96, 97, 192, 193, 400]),
    out=st.sampled_from([1, 2, 15, 16, 33, 97, 200, 800]),
    density=st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_outputs_and_gradients_equal_those_of_a_dense_linear(
    tokens: int, width: int, out: int, density: float, seed: int
) -> None:
    values, weight, bias, grad_output, mask = made(tokens, width, out, density, seed)
    dense = [t.double().requires_grad_() for t in (values, weight, bias)]
    F.linear(*dense).backward(grad_output.double())
    sparse = [t.clone().requires_grad_() for t in (values, weight, bias)]
    result = sparse_linear(*sparse, SparsePattern(mask))
    result.backward(grad_output)
    assert dense[1].grad is not None
    dense[1].grad *= mask
    # One float32 rounding per addition, of sums that grow with the square root of their length.
    for length, actual, expected in (
        (width, result, F.linear(*dense)),
        (out, sparse[0].grad, dense[0].grad),
        (tokens, sparse[1].grad, dense[1].grad),
        (tokens, sparse[2].grad, dense[2].grad),
    ):
        assert actual is not None and expected is not None
        torch.testing.assert_close(
            actual.double(), expected, rtol=1e-5, atol=2e-6 * length**0.5 + 1e-6
        )
    assert not sparse[1].grad[~mask].any()


def test_batches_of_sequences_and_layers_without_a_bias() -> None:
    values, weight, _, _, mask = made(6 * 7, 40, 24, 0.3, 0)
    given = values.view(6, 7, 40).requires_grad_()
    result = sparse_linear(given, weight.requires_grad_(), None, SparsePattern(mask))
    torch.testing.assert_close(result, F.linear(given, weight))
    result.transpose(0, 1).sum().backward()  # a gradient that is not contiguous
    assert given.grad is not None
    torch.testing.assert_close(given.grad, weight.detach().sum(0).expand(6, 7, 40))


@pytest.mark.parametrize("tokens", [1, 40, 96, 300])
@pytest.mark.parametrize("case", ["some", "none", "one row", "last block", "all"])
def test_results_do_not_depend_on_the_number_of_threads(tokens: int, case: str) -> None:
    values, weight, bias, grad_output, mask = made(tokens, 200, 100, 0.2, 1)
    if case == "all":
        mask = torch.ones_like(mask)
    elif case != "some":
        region = torch.zeros_like(mask)
        region[
            40 if case == "one row" else slice(40), slice(150, 200) if "block" in case else ...
        ] = case != "none"
        mask = mask & region
    weight = weight * mask
    pattern = SparsePattern(mask)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            entries = pattern.entries(weight)
            results.append(
                (
                    pattern.linear(values, entries, bias),
                    pattern.input_gradient(grad_output, entries),
                    pattern.weight_gradient(values, grad_output),
                )
            )
    finally:
        torch.set_num_threads(before)
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))
    output, grad_values, grad_weight = results[0]
    torch.testing.assert_close(output, F.linear(values, weight, bias), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad_values, grad_output @ weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad_weight, (grad_output.t() @ values) * mask, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 17, 130])
def test_uint8_inputs_and_factors_of_a_weight_gradient(tokens: int) -> None:
    _, _, _, grad_output, mask = made(tokens, 100, 50, 0.2, 3)
    generator = torch.Generator().manual_seed(3)
    values = torch.randint(0, 256, (tokens, 100), dtype=torch.uint8, generator=generator)
    zero_point = torch.tensor(117, dtype=torch.int32)
    factors = torch.rand(int(mask.sum()), generator=generator)
    pattern = SparsePattern(mask)
    plain = pattern.weight_gradient(values.float() - zero_point, grad_output)
    assert torch.equal(pattern.weight_gradient(values, grad_output, zero_point), plain)
    scaled = pattern.weight_gradient(values, grad_output, zero_point, factors)
    assert torch.equal(pattern.entries(scaled), pattern.entries(plain) * factors)
    assert not scaled[~mask].any()


@pytest.mark.parametrize("tokens", [1, 17, 130])
def test_uint8_inputs_and_scales_of_a_matmul(tokens: int) -> None:
    _, weight, bias, _, mask = made(tokens, 100, 50, 0.2, 3)
    generator = torch.Generator().manual_seed(3)
    values = torch.randint(0, 256, (tokens, 100), dtype=torch.uint8, generator=generator)
    zero_point, scales = torch.tensor(117, dtype=torch.int32), torch.rand(50, generator=generator)
    pattern, integers = SparsePattern(mask), weight.mul(40).round()
    sums = (values.double() - zero_point) @ integers.double().t()
    result = pattern.linear(values, pattern.entries(integers), None, zero_point)
    assert torch.equal(result.double(), sums)  # integers below 2**24: exact in any order
    scaled = pattern.linear(values, pattern.entries(integers), bias, zero_point, scales)
    assert torch.equal(scaled, sums.float().mul(scales).add(bias))  # each step rounded, as in torch


def test_the_rows_of_entries() -> None:
    mask = made(1, 70, 30, 0.3, 5)[-1]
    pattern = SparsePattern(mask)
    numbers = torch.arange(30.0)
    by_row = numbers[:, None].expand(30, 70).contiguous()
    assert torch.equal(pattern.of_rows(numbers), pattern.entries(by_row))


def test_an_input_gradient_is_zero_where_it_is_masked() -> None:
    values, weight, _, grad_output, mask = made(70, 40, 30, 0.3, 4)
    pattern = SparsePattern(mask)
    entries, positive = pattern.entries(weight), values > 0
    gradient = pattern.input_gradient(grad_output, entries, positive)
    plain = pattern.input_gradient(grad_output, entries)
    assert torch.equal(gradient, torch.where(positive, plain, 0.0))
    assert gradient[positive].abs().max() > 0


@pytest.mark.parametrize("width", [40, 37])  # whole vectors, and not
def test_what_is_masked_is_zero_even_for_nan(width: int) -> None:
    values, weight, _, grad_output, mask = made(70, width, 30, 0.3, 4)
    pattern = SparsePattern(mask)
    entries, positive = pattern.entries(weight), values > 0
    grad_output[3, 5], grad_output[40, 6] = torch.nan, torch.inf
    gradient = pattern.input_gradient(grad_output, entries, positive)
    assert torch.equal(gradient[~positive], torch.zeros(int((~positive).sum())))
    plain = pattern.input_gradient(grad_output, entries)[positive]
    torch.testing.assert_close(gradient[positive], plain, rtol=0, atol=0, equal_nan=True)
    assert gradient.isnan().any()
    factors = (torch.arange(len(entries)) % 2).float()
    by_entry = pattern.entries(pattern.weight_gradient(values, grad_output, factors=factors))
    assert not by_entry[::2].any() and by_entry[1::2].isnan().any()


def test_operands_may_be_transposed() -> None:
    values, weight, bias, grad_output, mask = made(70, 40, 30, 0.3, 4)
    pattern = SparsePattern(mask)
    entries, positive = pattern.entries(weight), values > 0
    turned = positive.t().contiguous().t()
    assert torch.equal(
        pattern.input_gradient(grad_output, entries, turned),
        pattern.input_gradient(grad_output, entries, positive),
    )
    spread = torch.stack([bias, bias + 1], dim=1)[:, 0]
    plain = pattern.linear(values, entries, bias, scales=bias)
    assert torch.equal(pattern.linear(values, entries, spread, scales=spread), plain)


def test_other_types_do_not_reach_the_kernel() -> None:
    values, weight, bias, grad_output, mask = made(7, 40, 30, 0.3, 4)
    pattern = SparsePattern(mask)
    entries = pattern.entries(weight)
    with pytest.raises(AssertionError):
        pattern.linear(values.double(), entries)
    with pytest.raises(AssertionError):
        pattern.linear(values, entries, bias.bfloat16())
    with pytest.raises(AssertionError):
        pattern.weight_gradient(values, grad_output.double())


def test_a_frozen_layer_gets_no_gradient() -> None:
    values, weight, bias, grad_output, mask = made(10, 20, 30, 0.2, 2)
    values.requires_grad_()
    sparse_linear(values, weight, bias, SparsePattern(mask)).backward(grad_output)
    assert values.grad is not None and weight.grad is None and bias.grad is None


@pytest.mark.usefixtures("no_compiler")
def test_the_error_without_a_compiler_names_the_fix() -> None:
    with pytest.raises(KernelError, match="no C compiler 'no-such-compiler'; install gcc"):
        compiled()


def test_the_error_of_a_failing_compiler_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "FLAGS", ("-no-such-flag", "-shared"))
    library.cache_clear()
    try:
        with pytest.raises(KernelError, match=r"'cc' compiles nothing here: .*no-such-flag"):
            compiled()
    finally:
        library.cache_clear()
