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
# Scores that are excluded become this.
_LOWEST = np.finfo(np.float32).min


@dataclass(frozen=True, eq=False)
class ScoreTerms:
    """The arrays of the C structure `score_terms`, contiguous float32.

    masks: [batch, length]; pairs: [batch or 1, heads or 1, keys, queries], queries padded.
    rotation: cosines and sines [head_features, positions], padded.
    whole: [batch], whether a token before the last one that is read reads all tokens of the row
        alike, because it is excluded from each of them; None where no token is.
    """

    masks: npt.NDArray[np.float32]
    pairs: npt.NDArray[np.float32] | None
    rotation: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None
    whole: npt.NDArray[np.bool_] | None


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
            # A term of keys may differ between heads alone, and stand once for all queries.
            each = np.broadcast_to(array, (*array.shape[:2], length, length))
            pairs.append(made(name, _by_key, each))
    whole = None
    if terms.excluded is not None:
        excluded = _checked_excluded(terms.excluded, values[terms.excluded], batch, length)
        keys, pairs_of_keys, whole = _excluded(excluded)
        masks += keys
        pairs += [] if pairs_of_keys is None else [pairs_of_keys]
    rotation = None
    if terms.rotation is not None:
        allowed = [(1,), (1,), (length,), (heads.features,)]
        cosines, sines = (
            made(name, _by_feature, _checked(name, values[name], allowed))
            for name in terms.rotation
        )
        rotation = cosines, sines
    return ScoreTerms(masks, sum(pairs[1:], pairs[0]) if pairs else None, rotation, whole)


def unmasked(terms: ScoreTerms, limit: float) -> npt.NDArray[np.bool_]:
    """Whether some query reads a key, [batch, length]: it is added more than `limit`."""
    added = terms.masks
    if terms.pairs is not None:
        length = added.shape[1]
        added = added + terms.pairs[..., :length].max(axis=(1, 3))
    found: npt.NDArray[np.bool_] = added > limit
    return found if terms.whole is None else found | terms.whole[:, None]


def _excluded(
    excluded: npt.NDArray[np.bool_],
) -> tuple[Array, Array | None, npt.NDArray[np.bool_] | None]:
    """Masks, pairs and `whole` of ScoreTerms, for excluded [batch, queries, keys].

    A text that is padded at its end needs masks alone: the tokens that read nothing, and so all
    tokens alike, are those of the padding, which are not computed.
    """
    no_key: Array = np.logical_and.reduce(excluded, axis=2)
    no_query: Array = np.logical_and.reduce(excluded, axis=1)
    tokens = text_tokens(~no_query)
    earlier = np.arange(excluded.shape[2]) < tokens[:, None]
    whole: npt.NDArray[np.bool_] = np.logical_or.reduce(no_key & earlier, axis=1)
    # Of a text without any token all are computed anyway, and read all alike.
    whole &= ~np.logical_and.reduce(no_query, axis=1)
    masks = np.where(no_query, _LOWEST, np.float32(0))
    if not whole.any() and (excluded == (no_key[:, :, None] | no_query[:, None])).all():
        return masks, None, None
    pairs = np.where(excluded[:, None], _LOWEST, np.float32(0))
    return np.zeros_like(masks), _by_key(pairs), whole


def _checked_excluded(name: str, array: Array, batch: int, length: int) -> Array:
    """`array` as bool [batch, length, length]; raises UserError for another type or shape."""
    shape = (batch, 1, length, length)
    if array.dtype != np.bool_ or array.shape not in (shape, (1, *shape[1:])):
        raise UserError(
            f"runtime=sparse: {name!r} is {array.dtype} {list(array.shape)}, expected bool "
            f"{list(shape)}; the graph was changed: export the run again"
        )
    return np.broadcast_to(array, shape)[:, 0]


def text_tokens(unmasked: Array) -> npt.NDArray[np.int64]:
    """The number of tokens of each row of `unmasked` [batch, length], up to the last True.

    Later tokens have the probability 0, so they need not be computed. Of a row that is masked
    completely all tokens count, since softmax gives them equal probabilities.

    >>> text_tokens(np.array([[True, False, True, False], [False] * 4])).tolist()
    [3, 4]
    """
    length = unmasked.shape[1]
    last = length - np.argmax(unmasked[:, ::-1], axis=1)
    tokens: npt.NDArray[np.int64] = np.where(unmasked.any(axis=1), last, length).astype(np.int64)
    return tokens


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
