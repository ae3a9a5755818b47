"""Files with one thing changed: bytes, values of JSON and YAML; and hostile documents."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**30, 1e308, -1e308, "", "x" * 5000, "\x1b[31m", "../../outside"),
    *([], [None], {}, {"a": {}}, "${oc.env:HOME}", "os.system", [[[[]]]]),
)
BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 12)}]\n" for i in range(1, 12)
)
DOCUMENTS = (
    *(b"", b"\xff\xfe\x00", b"{", b"[1]", b"null", b"1", b"- a\n- b\n", b"\x00" * 64),
    *(BOMB.encode(), b"[" * 20_000, b"{" * 20_000, b'{"a":' * 5_000, b"a: " * 3_000),
)


def of_bytes(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A flipped byte, a cut, a repetition, zeros, or a block moved elsewhere."""
    if not content:
        return "text", b"x"
    at, size = rng.randrange(len(content)), rng.randrange(1, 65)
    match rng.randrange(7):
        case 0 | 1:
            flipped = bytes([content[at] ^ (1 << rng.randrange(8))])
            return f"bit of byte {at}", content[:at] + flipped + content[at + 1 :]
        case 2:
            return f"cut to {at}", content[:at]
        case 3:
            return f"{size} bytes removed at {at}", content[:at] + content[at + size :]
        case 4:
            return f"{size} bytes twice at {at}", content[: at + size] + content[at:]
        case 5:
            noise = rng.randbytes(size)
            return f"{size} random bytes at {at}", content[:at] + noise + content[at + size :]
        case _:
            # The header of a binary file: lengths, offsets, counts.
            at = rng.randrange(min(len(content), 64))
            return f"0xff at {at}", content[:at] + b"\xff\xff\xff\xff" + content[at + 4 :]


def of_tree(tree: Any, rng: random.Random) -> tuple[str, Any]:
    """The tree with one node replaced, removed, renamed or doubled."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places:
        return "empty", rng.choice(VALUES)
    parent, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del parent[key]
            return f"without {key}", tree
        case 1 if isinstance(parent, dict):
            parent[f"{key}_x"] = parent.pop(key)
            return f"{key} renamed", tree
        case 2:
            parent[key] = [parent[key]] * 2
            return f"{key} in a list", tree
        case _:
            parent[key] = rng.choice(VALUES)
            return f"{key} is {str(parent[key])[:20]!r}", tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def mutants(file: Path, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` changed contents of the file, each with what was changed in words."""
    rng, content = random.Random(f"{file.name} {seed}"), file.read_bytes()
    text = file.suffix in (".json", ".yaml")
    load: Callable[[bytes], Any] = json.loads if file.suffix == ".json" else yaml.safe_load
    tree = load(content) if text else None
    for number in range(count):
        if text and number < min(len(DOCUMENTS), count // 3):
            yield f"document {number}", DOCUMENTS[number]
        elif text and rng.random() < 0.75:
            what, changed = of_tree(tree, rng)
            dumped = json.dumps(changed) if file.suffix == ".json" else yaml.safe_dump(changed)
            yield what, dumped.encode()
        else:
            yield of_bytes(content, rng)
