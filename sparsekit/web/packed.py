"""The file of a page's model: a header in JSON, and tensors without their zeros.

| bytes | |
|---|---|
| 16 | `MAGIC` |
| 4 | the version of the format, little-endian, as all numbers are |
| 4 | the bytes of the header |
| | the header, UTF-8, padded with spaces to a multiple of 8 |
| | the tensors |

The header's key `tensors` describes each tensor by its name: `type`, `shape`, `coding`, and the
`offset`, a multiple of 8, and the number of its `bytes` behind the header. `plain` is the values;
`mask` is the values that are not zero, then a bit for each value, the lowest bit of a byte first.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsekit.runtime.sparse.graph import Array

MAGIC = b"sparsekit model\0"
VERSION = 1
_ALIGNMENT = 8
_TYPES = ("float32", "int32", "int64", "int8", "uint8")


class Tensors:
    """Tensors that are added one by one; `entries` describes them, by their names."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, name: str, array: Array) -> str:
        """Add a tensor, coded as what takes fewer bytes; returns its name.

        A name that is there already names the same tensor.
        """
        if name in self.entries:
            return name
        if array.dtype.name not in _TYPES:
            raise TypeError(f"{name} is {array.dtype}, not one of {', '.join(_TYPES)}")
        plain = np.ascontiguousarray(array).tobytes()
        masked = _masked(array)
        coding, data = ("mask", masked) if len(masked) < len(plain) else ("plain", plain)
        self.add_bytes(name, data, type=array.dtype.name, shape=list(array.shape), coding=coding)
        return name

    def add_bytes(self, name: str, data: bytes, **description: Any) -> str:
        """Add bytes as they are; returns their name."""
        self.entries[name] = {**description, "offset": self._size, "bytes": len(data)}
        self._parts.append(data + b"\0" * (-len(data) % _ALIGNMENT))
        self._size += len(self._parts[-1])
        return name

    def file(self, header: Mapping[str, Any]) -> bytes:
        """The whole file; its header gets the descriptions of the tensors."""
        text = json.dumps({**header, "tensors": self.entries}, ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        numbers = np.array([VERSION, len(text)], "<u4").tobytes()
        return b"".join([MAGIC, numbers, text, *self._parts])


def compressed(data: bytes) -> bytes:
    """Gzip, which every browser can decompress from a script; the same bytes at each call."""
    return gzip.compress(data, 9, mtime=0)


def _masked(array: Array) -> bytes:
    nonzero = array.ravel() != 0
    values: bytes = array.ravel()[nonzero].tobytes()
    return values + np.packbits(nonzero, bitorder="little").tobytes()
