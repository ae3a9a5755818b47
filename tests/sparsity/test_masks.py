"""Masks as pure functions: exact counts, nesting, patterns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsekit.errors import UserError
from sparsekit.sparsity.masks import (
    Blocks,
    NOfM,
    Pattern,
    keep_largest,
    magnitude_mask,
    masked,
    mean_share,
    named_masks,
    parse_mask_type,
    score_masks,
)

PATTERNS: list[Pattern] = [Blocks(), Blocks(1, 4), Blocks(2, 2), Blocks(4, 1)]
shares = st.floats(0, 1)
seeds = st.integers(0, 2**31)


def weights(seed: int, rows: int = 8, columns: int = 12) -> Tensor:
    # Few values, so that ties are common.
    return torch.randint(-5, 6, (rows, columns), generator=torch.Generator().manual_seed(seed))


@given(seed=seeds, count=st.integers(0, 60))
def test_the_count_is_exact_and_the_largest_stay(seed: int, count: int) -> None:
    scores = weights(seed, 1, 60).flatten().float()
    mask = keep_largest(scores, count)
    order = np.argsort(scores.numpy(), kind="stable")
    assert set(mask.nonzero().flatten().tolist()) == set(order[60 - count :].tolist())


@given(seed=seeds, sparsity=shares, pattern=st.sampled_from(PATTERNS))
def test_a_mask_prunes_whole_blocks_to_the_nearest(
    seed: int, sparsity: float, pattern: Blocks
) -> None:
    mask = magnitude_mask(weights(seed).float(), sparsity, pattern)
    blocks = mask.reshape(8 // pattern.rows, pattern.rows, 12 // pattern.columns, pattern.columns)
    kept = blocks.float().mean(dim=(1, 3))
    assert set(kept.flatten().tolist()) <= {0.0, 1.0}
    assert int((kept == 0).sum()) == round(sparsity * kept.numel())


@given(seed=seeds, low=shares, high=shares, pattern=st.sampled_from([*PATTERNS, NOfM(2, 4)]))
def test_masks_nest(seed: int, low: float, high: float, pattern: Pattern) -> None:
    low, high = sorted((low, high))
    first = score_masks([weights(seed).abs().float()], low, pattern)
    later = weights(seed + 1).float()  # may be negative, as movement scores are
    [mask] = score_masks([later], high, pattern, first)
    assert not (mask & ~first[0]).any()
    if isinstance(pattern, Blocks):
        size = pattern.rows * pattern.columns
        assert int((~mask).sum()) == round(high * 96 / size) * size


@given(seed=seeds, sparsity=shares)
def test_ranking_over_all_layers(seed: int, sparsity: float) -> None:
    scores = [weights(seed).abs().float(), weights(seed + 1, 4, 4).abs().float() * 10]
    masks = score_masks(scores, sparsity, Blocks())
    dropped = sum(int((~mask).sum()) for mask in masks)
    assert dropped == round(sparsity * 112)
    below = torch.cat([s[~m] for s, m in zip(scores, masks, strict=True)])
    above = torch.cat([s[m] for s, m in zip(scores, masks, strict=True)])
    assert not len(below) or not len(above) or below.max() <= above.min()


@given(seed=seeds, group=st.sampled_from([(2, 4), (1, 2), (3, 4), (1, 4)]))
def test_each_group_keeps_its_own(seed: int, group: tuple[int, int]) -> None:
    kept, size = group
    pattern = parse_mask_type(f"{kept}:{size}")
    # SparseML 1.8 asks for a sparsity of 0.25 where the mask_type is 3:4.
    assert pattern == NOfM(kept, size) and pattern.sparsity == 1 - kept / size
    mask = magnitude_mask(weights(seed).float(), pattern.sparsity, pattern)
    assert (mask.reshape(-1, size).sum(dim=1) == kept).all()


@pytest.mark.parametrize(
    "mask_type", ["blocky", "4:2", "0:4", "2:4:8", [0, 4], [1, 2, 3], [1.5, 2], ""]
)
def test_unknown_mask_types(mask_type: Any) -> None:
    with pytest.raises(ValueError, match=r"is none of: unstructured, block4, N:M"):
        parse_mask_type(mask_type)


def test_shapes_that_do_not_divide() -> None:
    assert Blocks(1, 4).divides((3, 8)) and NOfM(2, 4).divides((3, 2, 2))
    assert not Blocks(1, 4).divides((4, 6)) and not Blocks(2, 2).divides((3, 4))
    assert not NOfM(2, 4).divides((8, 6))


@pytest.mark.parametrize("sparsity", [-0.1, 1.1])
def test_a_share_outside_of_zero_and_one(sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"lies outside of \[0, 1\]"):
        magnitude_mask(torch.ones(4, 4), sparsity)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masked_values_are_zero_whatever_they_were(dtype: torch.dtype) -> None:
    values = torch.tensor([[1.5, -2.0, torch.nan], [torch.inf, -0.0, 3e-39]], dtype=dtype)
    mask = torch.tensor([[True, False, False], [False, False, True]])
    for each, kept in ((values, mask), (values.t(), mask.t())):
        result = masked(each, kept)
        assert result.dtype == dtype
        assert torch.equal(result, torch.where(kept, each, 0.0))
        assert not result[~kept].signbit().any()


@pytest.mark.parametrize("pattern", [*PATTERNS, NOfM(2, 4)])
def test_scores_that_are_not_numbers_rank_nothing(pattern: Pattern) -> None:
    scores = weights(0).abs().float()
    scores[3, 5] = float("nan")
    with pytest.raises(UserError, match=r"b\.weight would be pruned are not numbers"):
        score_masks([torch.ones(8, 12), scores], 0.5, pattern, names=["a.weight", "b.weight"])


def test_masks_of_named_weights_reach_the_mean_of_their_shares() -> None:
    scores = {"a": weights(0).abs().float(), "b": 100 * (1 + weights(1).abs().float())}
    shares = {"a": 0.25, "b": 0.75}
    each = named_masks(scores, shares, Blocks(), ranks_globally=False)
    assert {name: zeros(mask) for name, mask in each.items()} == shares
    # Together, the small scores of a are pruned first: half of all weights is all of a.
    ranked = named_masks(scores, shares, Blocks(), ranks_globally=True)
    assert zeros(ranked["a"]) == 1 and zeros(ranked["b"]) == 0
    kept = {name: torch.rand_like(score) > 0.1 for name, score in scores.items()}
    within = named_masks(scores, shares, Blocks(), kept, ranks_globally=False)
    assert all(bool((within[name] <= kept[name]).all()) for name in scores)


def test_the_mean_share_counts_weights_by_their_size() -> None:
    sizes = {"a": torch.ones(1, 10), "b": torch.ones(3, 10)}
    assert mean_share({"a": 0.0, "b": 1.0}, sizes) == 0.75
    assert mean_share({"a": 0.1, "b": 0.1}, sizes) == 0.1


def zeros(mask: torch.Tensor) -> float:
    """The share of weights that a mask prunes."""
    return 1 - mask.float().mean().item()
