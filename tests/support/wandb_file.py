"""Reads a `.wandb` file back: what an offline run would upload.

The file is a LevelDB log (github.com/google/leveldb, doc/log_format.md) behind a 7-byte header,
":W&B" and a version; each record is one protobuf message.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

HEADER, BLOCK, PREFIX = 7, 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class Contents:
    """What W&B would show."""

    project: str = ""
    name: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    exit_code: int | None = None


def records(path: Path) -> Iterator[Record]:
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = HEADER, b""
    while position + PREFIX <= len(data):
        left = BLOCK - position % BLOCK
        if left < PREFIX:  # the rest of a block is padding
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + PREFIX : position + PREFIX + length]
        position += PREFIX + length
        if kind in (FULL, LAST):
            yield Record.FromString(parts)
            parts = b""


def items(entries: Any) -> dict[str, Any]:
    """Keys and decoded values; a nested key is joined by dots."""
    return {
        entry.key or ".".join(entry.nested_key): json.loads(entry.value_json) for entry in entries
    }


def read(path: Path, seconds: float = 20.0) -> Contents:
    """The contents of a finished run's file; W&B's service ends it just after `finish` returns."""
    deadline = time.monotonic() + seconds
    while (contents := read_now(path)).exit_code is None:
        assert time.monotonic() < deadline, f"{path} has no exit record"
        time.sleep(0.05)
    return contents


def read_now(path: Path) -> Contents:
    contents = Contents()
    for record in records(path):
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
                contents.project, contents.name = run.project, run.display_name
                contents.group, contents.tags = run.run_group, list(run.tags)
                contents.config |= items(run.config.update)
            case "config":
                contents.config |= items(record.config.update)
            case "history":
                contents.history.append(items(record.history.item))
            case "summary":
                contents.summary |= items(record.summary.update)
            case "artifact":
                files = [entry.path for entry in record.artifact.manifest.contents]
                contents.artifacts[record.artifact.name] = files
            case "exit":
                contents.exit_code = record.exit.exit_code
    return contents
