"""Every text file is read and written as UTF-8, whatever the locale is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from project import ROOT

FILES = sorted((ROOT / "sparsekit").rglob("*.py")) + sorted((ROOT / "hydra_plugins").glob("*.py"))
TEXT = ("read_text", "write_text")


def unnamed(tree: ast.AST) -> list[int]:
    """The lines that open a file as text without naming an encoding."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        named = any(keyword.arg == "encoding" for keyword in call.keywords)
        opened = name == "open" and "b" not in _mode(call) and not _other_open(call)
        if not named and (name in TEXT or opened):
            found.append(call.lineno)
    return found


def _mode(call: ast.Call) -> str:
    """The mode of `open(file, mode)`, `gzip.open(file, mode)` or `path.open(mode)`, if written."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    given += call.args[1:] or ([] if isinstance(call.func, ast.Name) else call.args)
    first = given[0] if given else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def _other_open(call: ast.Call) -> bool:
    """Whether the function opens no file by a mode: `os.open`."""
    return (
        isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and (call.func.value.id in ("os", "webbrowser", "zipfile"))
    )


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_encodings_are_named(file: Path) -> None:
    assert unnamed(ast.parse(file.read_text(encoding="utf-8"))) == []


def test_the_walk_finds_what_is_unnamed() -> None:
    assert len(FILES) > 150
    code = "path.read_text()\nopen(name)\nopen(name, 'rb')\npath.write_text(x, encoding='utf-8')\n"
    code += "open('table.db')\npath.open('rb')\nopen(name, mode='wb')\nbz2.open(name, 'rb')"
    assert unnamed(ast.parse(code)) == [1, 2, 5]
