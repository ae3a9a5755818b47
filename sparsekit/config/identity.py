"""The hash that identifies a run: of its config without output, tracking and sweep keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Keys that do not change the result: output folder, tracking, sweep.
NOT_IDENTITY = ("output_dir", "tracking", "sweep")
# Keys of later versions, each with the value that means what its absence meant before: hashes and
# checkpoints of earlier runs stay comparable.
ADDED: Mapping[tuple[str, ...], Any] = {
    ("task",): {"_target_": "sparsekit.tasks.text_classification.TextClassification"},
    ("dataset", "label_case"): "refuse",
    ("dataset", "strip_labels"): True,
    ("dataset", "validation_fraction"): 0.1,
    ("dataset", "test_fraction"): 0.0,
    ("dataset", "split_seed"): 0,
    ("dataset", "drop_empty"): False,
    ("dataset", "drop_labels"): [],
    ("dataset", "drop_leaked"): False,
    ("dataset", "delimiter"): None,
    ("dataset", "columns"): None,
    ("dataset", "quotes"): True,
    ("dataset", "streaming"): False,
    ("dataset", "shuffle_buffer"): 10_000,
    ("dataset", "unlabeled"): None,
    ("dataset", "augment"): {
        "copies": 0,
        "methods": ["ngrams", "deletion"],
        "masked_lm": None,
        "seed": 0,
    },
    ("student", "shrink"): {
        "_target_": "sparsekit.shape.shrink.Shrink",
        "heads": 0.0,
        "neurons": 0.0,
        "hidden": 0.0,
        "layers": 0.0,
        "method": "magnitude",
        "global_ranking": False,
        "rows": 512,
        "seed": 0,
    },
    ("export", "gate"): {"max_drop": None, "against": None, "alpha": 0.05, "metrics": []},
}


def config_hash(values: dict[str, Any]) -> str:
    """A short hash of plain config values, independent of the machine and the order of keys."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def identity_hash(values: Mapping[str, Any]) -> str:
    """The hash of a resolved config without the keys that do not change the result."""
    kept = {key: value for key, value in values.items() if key not in NOT_IDENTITY}
    identifying = without_added(kept)
    if "training" in values:
        training = values["training"]
        identifying["training"] = {
            key: value
            for key, value in training.items()
            if key not in ("output_dir", "resume_despite_changes")
        }
        # A resumed run ends where an unbroken one does. Set, not removed: hashes stay as they were.
        if "resume_from_checkpoint" in training:
            identifying["training"]["resume_from_checkpoint"] = None
    return config_hash(identifying)


def with_added(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the keys of `ADDED` that they lack, in the groups that they have."""
    result = dict(values)
    for (group, *rest), value in ADDED.items():
        node = result.get(group)
        if not rest:
            result.setdefault(group, value)
        elif isinstance(node, Mapping) and rest[0] not in node:
            result[group] = {**node, rest[0]: value}
    return result


def without_added(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without the keys of `ADDED` whose value means what their absence means."""
    result = dict(values)
    for (group, *rest), value in ADDED.items():
        node = result.get(group)
        if not rest and node == value:
            del result[group]
        elif rest and isinstance(node, Mapping) and node.get(rest[0]) == value:
            result[group] = {key: node[key] for key in node if key != rest[0]}
    return result
