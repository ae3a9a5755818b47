"""Two runs of one config: whether they ended the same, and what could explain a difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from sparsekit.runs.folder import RunFolder

# Keys of the summary that are equal in equal runs; timings and the environment may differ.
_COMPARED = ("metrics", "teacher", "sparsity", "quantization")


def other_weights(first: RunFolder, second: RunFolder) -> str | None:
    """How the weights of two runs differ; None where they are the same bits."""
    one, two = load_file(first.weights), load_file(second.weights)
    if one.keys() != two.keys():
        return f"{len(one.keys() ^ two.keys())} tensors are in one of the runs alone"
    changed = [name for name in one if one[name].tobytes() != two[name].tobytes()]
    if not changed:
        return None
    same_shape = [name for name in changed if one[name].shape == two[name].shape]
    by = max((_distance(one[name], two[name]) for name in same_shape), default=float("nan"))
    return f"{len(changed)} of {len(one)} tensors differ, by {by:.3g} at most, such as {changed[0]}"


def _distance(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.abs(one.astype(np.float64) - two.astype(np.float64)).max())


def differences(first: RunFolder, second: RunFolder) -> Iterator[str]:
    """A line for each value of config, results and environment in which two runs differ."""
    one, two = first.summary, second.summary
    parts = {"config": (one.get("config"), two.get("config"))}
    parts |= {name: (one.get(name), two.get(name)) for name in _COMPARED}
    parts["environment"] = (one.get("environment"), two.get("environment"))
    for name, (before, after) in parts.items():
        then, now = dict(_flat(before, name)), dict(_flat(after, name))
        for key in {**then, **now}:
            if then.get(key) != now.get(key):
                yield f"{key}: {then.get(key)}, now {now.get(key)}"


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}")
    else:
        yield name, value
