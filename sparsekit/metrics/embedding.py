"""Metrics of embeddings: agreement with human scores, and with a teacher's nearest neighbours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError

Array = npt.NDArray[np.floating]

# The nearest texts that are compared, and the texts whose neighbours are: the cost is quadratic.
NEIGHBOURS = 10
MOST_TEXTS = 4096


def spearman(values: Array, scores: Array) -> float:
    """Spearman's rank correlation of two arrays [pairs]; equal values have their mean rank.

    Raises UserError where it is undefined: fewer than 2 pairs, or all values of one side equal.

    >>> spearman(np.array([0.1, 0.2, 0.9]), np.array([1.0, 2.0, 3.0]))
    1.0
    """
    ranks = np.stack([mean_ranks(values), mean_ranks(scores)])
    if len(values) < 2 or not ranks.std(axis=1).all():
        raise UserError(
            f"dataset.metrics: spearman is undefined for {len(values)} pairs with "
            f"{len(np.unique(scores))} different scores; leave it out, or add pairs to the split"
        )
    return float(round(np.corrcoef(ranks)[0, 1], 12))


def mean_ranks(values: Array) -> Array:
    """The rank of each value, 0 for the least; equal values share the mean of their ranks.

    >>> mean_ranks(np.array([5.0, 1.0, 5.0])).tolist()
    [1.5, 0.0, 1.5]
    """
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    ranks: Array = (last - (counts - 1) / 2)[index]
    return ranks


def neighbour_overlap(ours: Array, theirs: Array) -> float:
    """The mean share of each text's nearest texts in `ours` that are its nearest in `theirs`.

    ours, theirs: vectors of length 1, [texts, features] each, of the same texts. The 10 nearest
    are compared, in fewer than 20 texts the nearest half; of more than 4096 texts the first.
    """
    count = min(len(ours), MOST_TEXTS)
    nearest = max(1, min(NEIGHBOURS, count // 2))
    both = np.stack([_nearest(vectors[:count], nearest) for vectors in (ours, theirs)])
    shared = (both[0][:, :, None] == both[1][:, None, :]).any(axis=2)
    return float(shared.mean())


def _nearest(vectors: Array, count: int) -> npt.NDArray[np.int64]:
    """The indices [texts, count] of the texts with the largest cosine, the text itself left out."""
    found = []
    for start in range(0, len(vectors), 512):
        cosines = vectors[start : start + 512] @ vectors.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        found.append(np.argpartition(-cosines, count - 1, axis=1)[:, :count])
    return np.concatenate(found)
