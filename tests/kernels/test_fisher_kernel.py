"""The Fisher's kernels against torch's operations on the same gradients."""

from __future__ import annotations

import pytest
import torch
from compiler import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsekit.errors import UserError
from sparsekit.sparsity import surgeon
from sparsekit.sparsity.fisher import BlockFisher, Fisher
from sparsekit.sparsity.gradients import Products
from sparsekit.sparsity.masks import parse_mask_type
from sparsekit.sparsity.packed_fisher import LARGEST, PackedFisher, block_bytes, block_fisher

pytestmark = needs_compiler

CPU = torch.device("cpu")
# Large, since float32 sums differ in their last bits, which an ill-conditioned matrix amplifies.
DAMP = 1.0


def products(out: int, width: int, examples: int, tokens: int) -> Products:
    return Products(torch.randn(examples, tokens, width), torch.randn(examples, out, tokens))


def answers(
    fisher: Fisher, weight: Tensor, mask: Tensor, stays: Tensor, group: int
) -> list[Tensor]:
    saliency = fisher.saliency(weight, mask, DAMP, group)
    return [saliency[mask], fisher.compensate(weight, stays, DAMP)]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    out=st.sampled_from([1, 3, 40]),
    width=st.sampled_from([1, 7, 16, 130, 384]),
    size=st.sampled_from([4, 8, 20, 48, 52]),
    examples=st.sampled_from([1, 5, 33]),
    tokens=st.sampled_from([1, 6]),
    group=st.sampled_from([1, 4]),
)
def test_blocks_are_those_of_torch_with_any_number_of_threads(
    seed: int, out: int, width: int, size: int, examples: int, tokens: int, group: int
) -> None:
    torch.manual_seed(seed)
    weights = out * width
    plain, packed = BlockFisher.zeros(weights, size, CPU), PackedFisher.zeros(weights, size)
    threaded = PackedFisher.zeros(weights, size)
    before = torch.get_num_threads()
    for _ in range(2):
        made = products(out, width, examples, tokens)
        plain.add(made)
        try:
            torch.set_num_threads(1)
            packed.add(made)
            torch.set_num_threads(3)
            threaded.add(made)
        finally:
            torch.set_num_threads(before)
    assert torch.equal(packed.sums, threaded.sums)
    weight = torch.randn(weights)
    # Groups of weights are pruned and kept together.
    mask = (torch.rand(-(-weights // group)) > 0.3).repeat_interleave(group)[:weights]
    stays = mask & (torch.rand(-(-weights // group)) > 0.3).repeat_interleave(group)[:weights]
    given_ = (weight * mask, mask, stays, group)
    for ours, torchs in zip(answers(packed, *given_), answers(plain, *given_), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-3, atol=1e-4)
    assert not packed.compensate(weight * mask, stays, DAMP)[~stays].any()


def test_dense_gradients_are_those_of_their_products() -> None:
    torch.manual_seed(0)
    made = products(6, 30, 9, 4)
    ours, dense = PackedFisher.zeros(180, 50), PackedFisher.zeros(180, 50)
    ours.add(made)
    dense.add(Products.of(made.dense().clone()))
    torch.testing.assert_close(ours.sums, dense.sums)
    assert len(made) == ours.count == dense.count == 9


def test_it_takes_half_the_memory() -> None:
    plain, packed = BlockFisher.zeros(384 * 384, 50, CPU), PackedFisher.zeros(384 * 384, 50)
    assert packed.sums.nbytes == pytest.approx(plain.total.nbytes * 51 / 100, rel=0.01)
    assert block_bytes(384 * 384, 50, CPU) == pytest.approx(packed.sums.nbytes, rel=0.01)
    meta = torch.device("meta")
    assert block_bytes(384 * 384, 50, meta) == pytest.approx(plain.total.nbytes, rel=0.01)


def test_the_kernels_are_used_where_they_pay(request: pytest.FixtureRequest) -> None:
    assert isinstance(block_fisher(100, 50, CPU), PackedFisher)
    assert isinstance(block_fisher(1000, LARGEST + 1, CPU), BlockFisher)
    assert isinstance(block_fisher(100, 50, torch.device("meta")), BlockFisher)
    request.getfixturevalue("no_compiler")
    assert isinstance(block_fisher(100, 50, CPU), BlockFisher)


@pytest.mark.parametrize("kind", ["plain", "packed"])
def test_a_layer_that_cannot_be_inverted_is_named(kind: str) -> None:
    layers = {"encoder.weight": torch.nn.Linear(8, 4)}
    fisher = BlockFisher.zeros(32, 8, CPU) if kind == "plain" else PackedFisher.zeros(32, 8)
    fisher.add(Products.of(torch.full((1, 32), torch.nan)))
    masks = {"encoder.weight": torch.ones(4, 8, dtype=torch.bool)}
    named = r"Fisher information of encoder\.weight cannot be inverted with damp 0\.001; raise damp"
    with pytest.raises(UserError, match=named):
        surgeon.saliencies(
            layers, {"encoder.weight": fisher}, masks, 1e-3, parse_mask_type("unstructured")
        )
    with pytest.raises(UserError, match=named):
        surgeon.repair(layers, {"encoder.weight": fisher}, masks, 1e-3)
