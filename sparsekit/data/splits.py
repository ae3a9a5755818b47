"""A share of the training rows split off, decided by what a row says.

Neither the order of the rows nor the run's seed plays a part: sweeps, teachers and resumed runs
agree, a row that moves within its file stays in its split, and a row that is added moves at most
one other row of its class.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from sparsekit.data.duplicates import Keys

Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def share(
    name: str, fraction: float, seed: int, keys: Keys, classes: Codes
) -> npt.NDArray[np.bool_]:
    """Which rows to split off, [rows]: `fraction` of each class, rows of one key together.

    Of each class with two rows or more at least one row is split off, unless its texts are all the
    same. Rows of one key but several classes count as their most frequent one.

    Args:
        name: the split; other names give independent choices.
        fraction: from 0 to 1.
        seed: another one gives another choice.
        keys: equal for rows that stay together, [rows].
        classes: the class of each row as an index from 0, [rows].
    """
    groups, members, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    group_class = _most_frequent(members, classes)
    order = _order(name, seed, groups)
    chosen = np.zeros(len(groups), dtype=bool)
    for index in np.unique(group_class):
        ours = np.flatnonzero(group_class == index)
        ours = ours[np.argsort(order[ours], kind="stable")]
        rows = int(sizes[ours].sum())
        if rows < 2 or len(ours) < 2:
            continue
        left = min(max(1, round(fraction * rows)), rows - 1)
        for group in ours:
            if sizes[group] <= left:
                chosen[group] = True
                left -= int(sizes[group])
            if not left:
                break
        if not chosen[ours].any():  # each group is larger than the share
            chosen[ours[np.argmin(sizes[ours])]] = True
    return chosen[members]


def _most_frequent(members: Codes, classes: Codes) -> Codes:
    """The most frequent class of each group, the first of equals; members: each row's group."""
    pairs, counts = np.unique(np.stack([members, classes]), axis=1, return_counts=True)
    by_count = np.lexsort((pairs[1], -counts, pairs[0]))
    first = np.unique(pairs[0][by_count], return_index=True)[1]
    found: Codes = pairs[1][by_count][first]
    return found


def _order(name: str, seed: int, groups: Keys) -> Keys:
    """A number for each group that is random but for the split's name and the seed."""
    salt = f"{name} {seed} ".encode()
    digests = (hashlib.blake2b(salt + key.tobytes(), digest_size=8).digest() for key in groups)
    return np.fromiter((int.from_bytes(each, "little") for each in digests), np.uint64)
