"""Products that multiply no zeros give what torch's dense ones give."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.kernels import compiler
from sparsekit.kernels.compiler import KernelError, library
from sparsekit.kernels.sparse_product import SOURCE, SparsePattern, sparse_linear

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler, as cc")


def made(tokens: int, width: int, out: int, density: float, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(tokens, width, generator=generator)
    mask = torch.rand(out, width, generator=generator) < density
    weight = torch.randn(out, width, generator=generator) * mask
    errors = torch.randn(tokens, out, generator=generator)
    return [values, weight, torch.randn(out, generator=generator), errors, mask]


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 200),
    width=st.sampled_from([1, 15, 16, 17, 191, 192, 193, 400]),
    out=st.sampled_from([1, 2, 15, 16, 33, 200]),
    density=st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_products_and_gradients_are_those_of_a_dense_linear(
    tokens: int, width: int, out: int, density: float, seed: int
) -> None:
    values, weight, bias, errors, mask = made(tokens, width, out, density, seed)
    dense = [t.double().requires_grad_() for t in (values, weight, bias)]
    F.linear(*dense).backward(errors.double())
    sparse = [t.clone().requires_grad_() for t in (values, weight, bias)]
    result = sparse_linear(*sparse, SparsePattern(mask))
    result.backward(errors)
    assert dense[1].grad is not None
    dense[1].grad *= mask
    # One rounding to float32 an addition, of sums that are about the root of their length.
    for length, found, wanted in (
        (width, result, F.linear(*dense)),
        (out, sparse[0].grad, dense[0].grad),
        (tokens, sparse[1].grad, dense[1].grad),
        (tokens, sparse[2].grad, dense[2].grad),
    ):
        assert found is not None and wanted is not None
        torch.testing.assert_close(
            found.double(), wanted, rtol=1e-5, atol=2e-6 * length**0.5 + 1e-6
        )
    assert not sparse[1].grad[~mask].any()


def test_batches_of_sentences_and_layers_without_a_bias() -> None:
    values, weight, _, _, mask = made(6 * 7, 40, 24, 0.3, 0)
    given = values.view(6, 7, 40).requires_grad_()
    result = sparse_linear(given, weight.requires_grad_(), None, SparsePattern(mask))
    torch.testing.assert_close(result, F.linear(given, weight))
    result.transpose(0, 1).sum().backward()  # a gradient that is not contiguous
    assert given.grad is not None
    torch.testing.assert_close(given.grad, weight.detach().sum(0).expand(6, 7, 40))


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    values, weight, bias, errors, mask = made(300, 200, 100, 0.2, 1)
    pattern = SparsePattern(mask)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            entries = pattern.entries(weight)
            found.append(
                (
                    pattern.product(values, entries, bias),
                    pattern.input_gradient(errors, entries),
                    pattern.weight_gradient(values, errors),
                )
            )
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_a_layer_that_is_frozen_gets_no_gradient() -> None:
    values, weight, bias, errors, mask = made(10, 20, 30, 0.2, 2)
    values.requires_grad_()
    sparse_linear(values, weight, bias, SparsePattern(mask)).backward(errors)
    assert values.grad is not None and weight.grad is None and bias.grad is None


@pytest.mark.usefixtures("no_compiler")
def test_a_machine_without_a_compiler_is_told_what_to_do() -> None:
    with pytest.raises(KernelError, match="no C compiler 'no-such-compiler'; install gcc"):
        library(SOURCE)


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "FLAGS", ("-no-such-flag", "-shared"))
    library.cache_clear()
    try:
        with pytest.raises(KernelError, match=r"cannot compile here: .*no-such-flag"):
            library(SOURCE)
    finally:
        library.cache_clear()
