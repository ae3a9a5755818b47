"""Masks: which weights are kept. Pure functions of tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MASK_TYPES = "unstructured, block4, N:M such as 2:4, or [rows, columns] of a block"


@dataclass(frozen=True)
class Blocks:
    """Zeros come in blocks of `rows` x `columns`; 1 x 1 is unstructured."""

    rows: int = 1
    columns: int = 1

    def divides(self, shape: Sequence[int]) -> bool:
        """Whether a weight of this shape, seen as a matrix, consists of whole blocks."""
        rows, columns = _matrix(shape)
        return rows % self.rows == 0 and columns % self.columns == 0


@dataclass(frozen=True)
class NOfM:
    """`kept` of each `group` neighbours in a row are not zero, as sparse tensor cores expect.

    So 2:4 is half, 1:4 three quarters sparse: NVIDIA's and SparseML's meaning, and `inspect`'s.
    """

    kept: int
    group: int

    @property
    def sparsity(self) -> float:
        """The share of zeros, which the pattern fixes."""
        return (self.group - self.kept) / self.group

    def divides(self, shape: Sequence[int]) -> bool:
        """Whether each row of a weight of this shape, seen as a matrix, has whole groups."""
        return _matrix(shape)[1] % self.group == 0


Pattern = Blocks | NOfM


def parse_mask_type(mask_type: str | Sequence[int]) -> Pattern:
    """The pattern that a recipe's `mask_type` names; raises ValueError for what is none.

    >>> parse_mask_type("unstructured"), parse_mask_type("block4"), parse_mask_type("2:4")
    (Blocks(rows=1, columns=1), Blocks(rows=1, columns=4), NOfM(kept=2, group=4))
    """
    if mask_type == "unstructured":
        return Blocks()
    if mask_type == "block4":
        return Blocks(1, 4)
    if isinstance(mask_type, str):
        if match := re.fullmatch(r"(\d+):(\d+)", mask_type):
            kept, group = int(match[1]), int(match[2])
            if 0 < kept < group:
                return NOfM(kept, group)
    elif len(mask_type) == 2 and all(isinstance(size, int) and size > 0 for size in mask_type):
        return Blocks(*mask_type)
    raise ValueError(f"mask_type {mask_type!r} is none of: {MASK_TYPES}")


def magnitude_mask(weight: Tensor, sparsity: float, pattern: Pattern | None = None) -> Tensor:
    """A boolean mask of `weight`'s shape that keeps the largest magnitudes.

    Exactly round(sparsity * number of blocks) blocks are False, those of the smallest mean
    magnitude.
    """
    scores = weight.detach().abs()
    return score_masks([scores], sparsity, pattern or Blocks())[0]


def score_masks(
    scores: Sequence[Tensor],
    sparsity: float,
    pattern: Pattern,
    kept: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Masks that keep the highest scores, ranked over all of `scores` together.

    scores: one tensor for each weight, of its shape; a weight is ranked by its block's mean.
    sparsity: the share of blocks that are False, exactly to the nearest whole block. A pattern
    N:M has its own share: it is applied whole wherever `sparsity` is not 0.
    kept: masks that the new ones must nest in: what is False there stays False.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity {sparsity} lies outside of [0, 1]")
    kept = kept or [torch.ones_like(score, dtype=torch.bool) for score in scores]
    if isinstance(pattern, NOfM):
        if sparsity == 0:
            return list(kept)
        return [_n_of_m(score, keep, pattern) for score, keep in zip(scores, kept, strict=True)]
    blocks = [_block_scores(s, k, pattern) for s, k in zip(scores, kept, strict=True)]
    ranked = torch.cat([block.flatten() for block in blocks])
    chosen = keep_largest(ranked, ranked.numel() - round(sparsity * ranked.numel()))
    parts = torch.split(chosen, [block.numel() for block in blocks])
    return [
        _expand(part.view_as(block), pattern, score) & keep
        for part, block, score, keep in zip(parts, blocks, scores, kept, strict=True)
    ]


def keep_largest(scores: Tensor, count: int) -> Tensor:
    """A boolean mask with exactly `count` True entries, the largest of `scores` (1-D).

    Among equals the first in memory order are dropped first, so the mask is the same on every run.
    One selection instead of a sort: linear in the number of scores.
    """
    dropped = scores.numel() - count
    if dropped == 0 or count == 0:
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    threshold = scores.kthvalue(dropped).values
    mask = scores > threshold
    ties = (scores == threshold).nonzero().flatten()
    # The last of the equals are kept, as many as are still missing.
    missing = count - int(mask.sum())
    mask[ties[ties.numel() - missing :]] = True
    return mask


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    size = 1
    for length in shape[1:]:
        size *= length
    return shape[0], size


def _block_scores(score: Tensor, kept: Tensor, pattern: Blocks) -> Tensor:
    # The mean of each block, [rows of blocks, columns of blocks]; emptied blocks rank lowest.
    rows, columns = _matrix(score.shape)
    shape = (rows // pattern.rows, pattern.rows, columns // pattern.columns, pattern.columns)
    means = score.reshape(shape).float().mean(dim=(1, 3))
    return means.masked_fill(~kept.reshape(shape).any(dim=3).any(dim=1), -torch.inf)


def _expand(blocks: Tensor, pattern: Blocks, like: Tensor) -> Tensor:
    full = blocks.repeat_interleave(pattern.rows, 0).repeat_interleave(pattern.columns, 1)
    return full.view(like.shape)


def _n_of_m(score: Tensor, kept: Tensor, pattern: NOfM) -> Tensor:
    groups = score.float().masked_fill(~kept, -torch.inf).reshape(-1, pattern.group)
    order = groups.argsort(dim=1, stable=True)
    mask = torch.ones_like(groups, dtype=torch.bool)
    mask.scatter_(1, order[:, : pattern.group - pattern.kept], False)
    return mask.view(score.shape) & kept
