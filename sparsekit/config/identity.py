"""What a run is, as a hash: its config without where it is kept, shown and swept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Keys that say where a run is kept, shown and repeated, not what it is.
NOT_IDENTITY = ("output_dir", "tracking", "sweep")


def config_hash(values: dict[str, Any]) -> str:
    """A short content hash of plain config values, equal across machines and key order."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def identity_hash(values: Mapping[str, Any]) -> str:
    """The hash of what a run is: its resolved config without where it is kept, shown and swept."""
    identifying = {key: value for key, value in values.items() if key not in NOT_IDENTITY}
    if "training" in values:
        training = values["training"]
        identifying["training"] = {k: v for k, v in training.items() if k != "output_dir"}
    return config_hash(identifying)
