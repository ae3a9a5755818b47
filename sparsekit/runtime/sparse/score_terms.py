"""What attention adds to its scores, and its rotations, as the C kernels read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsekit.errors import UserError
from sparsekit.runtime.sparse.graph import Array
from sparsekit.runtime.sparse.structure import Layer, Terms

# Positions are padded to this, a multiple of the tokens in a vector.
_MULTIPLE = 16


@dataclass(frozen=True, eq=False)
class ScoreTerms:
    """The arrays of the C structure `score_terms`, contiguous float32.

    masks: [batch, length]; pairs: [batch or 1, heads or 1, keys, queries], queries padded.
    rotation: cosines and sines [head_features, positions], padded.
    """

    masks: npt.NDArray[np.float32]
    pairs: npt.NDArray[np.float32] | None
    rotation: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None


@dataclass(frozen=True)
class HeadSizes:
    """The number of heads, 1 where layers with the same terms differ, and their features."""

    heads: int
    features: int


def distinct_terms(layers: Iterable[Layer]) -> dict[Terms, HeadSizes]:
    """The terms of the layers, in their order, with the sizes of the heads that read them."""
    found: dict[Terms, HeadSizes] = {}
    for layer in layers:
        if layer.attention is None or layer.terms is None:
            continue
        features = layer.attention.head_features
        sizes = HeadSizes(len(layer.attention.query.bias) // features, features)
        alike = found.get(layer.terms, sizes) == sizes
        found[layer.terms] = sizes if alike else HeadSizes(1, features)
    return found


def score_terms(
    terms: Terms,
    values: Mapping[str, Array],
    heads: HeadSizes,
    size: tuple[int, int],
    kept: dict[str, Array | None],
) -> ScoreTerms:
    """The values of one layer's terms; raises UserError where a shape does not fit.

    size: batch and length.
    kept: by name, what the kernels read of tensors that depend on the size alone, None where it is
        not yet made.
    """
    batch, length = size

    def made(name: str, make: Callable[[Array], Array], array: Array) -> Array:
        found = kept.get(name)
        if found is None:
            found = make(array)
            if name in kept:
                kept[name] = found
        return found

    masks, pairs = np.zeros((batch, length), np.float32), []
    for name in sorted(terms.added):
        array = _checked(name, values[name], [(1, batch), (1, heads.heads), (1, length), (length,)])
        # A mask of keys may be written out for each query.
        if array.shape[1] == 1 and (array == array[:, :, :1]).all():
            masks += array[:, 0, 0]
        else:
            pairs.append(made(name, _by_key, array))
    rotation = None
    if terms.rotation is not None:
        allowed = [(1,), (1,), (length,), (heads.features,)]
        cosines, sines = (
            made(name, _by_feature, _checked(name, values[name], allowed))
            for name in terms.rotation
        )
        rotation = cosines, sines
    return ScoreTerms(masks, sum(pairs[1:], pairs[0]) if pairs else None, rotation)


def unmasked(terms: ScoreTerms, limit: float) -> npt.NDArray[np.bool_]:
    """Whether some query reads a key, [batch, length]: it is added more than `limit`."""
    added = terms.masks
    if terms.pairs is not None:
        length = added.shape[1]
        added = added + terms.pairs[..., :length].max(axis=(1, 3))
    found: npt.NDArray[np.bool_] = added > limit
    return found


def _by_key(pairs: Array) -> Array:
    """Terms [..., queries, keys] as [..., keys, queries]."""
    return _padded(pairs.swapaxes(2, 3))


def _by_feature(rotation: Array) -> Array:
    """Cosines or sines [1, 1, positions, features] as [features, positions]."""
    return _padded(rotation[0, 0].T)


def _padded(array: Array) -> Array:
    *sizes, length = array.shape
    padded = np.zeros((*sizes, -(-length // _MULTIPLE) * _MULTIPLE), np.float32)
    padded[..., :length] = array
    return padded


def _checked(name: str, array: Array, sizes: Sequence[tuple[int, ...]]) -> Array:
    """The array; raises UserError unless it is float32 and each size is among those allowed."""
    fits = array.ndim == len(sizes) and all(
        n in each for n, each in zip(array.shape, sizes, strict=True)
    )
    if not fits or array.dtype != np.float32:
        expected = ", ".join(" or ".join(map(str, each)) for each in sizes)
        raise UserError(
            f"runtime=sparse: {name!r} is {array.dtype} {list(array.shape)}, expected float32 "
            f"[{expected}]; the graph was changed: export the run again"
        )
    # What was repeated along a batch or along heads is read once.
    once = [slice(1) if step == 0 else slice(None) for step in array.strides[:2]]
    return array[tuple(once)]
