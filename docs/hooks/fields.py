"""Shows the lines `name: description` of a docstring as a list, for mkdocstrings.

A docstring of sparsekit describes a field or a parameter in a line that begins with its name.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class Fields(griffe.Extension):
    """Marks such lines of classes and functions as items of a Markdown list."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Lines that begin with the name of one of the class's own attributes."""
        mark(cls, {name for name, member in cls.members.items() if member.is_attribute})

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Lines that begin with the name of a parameter."""
        mark(func, {parameter.name for parameter in func.parameters})


def mark(documented: griffe.Object, names: set[str]) -> None:
    """Rewrite the object's docstring, if it has one."""
    if documented.docstring is not None and names:
        documented.docstring.value = listed(documented.docstring.value, names)


def listed(text: str, names: set[str]) -> str:
    """`text` with the lines that describe one of `names` as list items.

    An item ends where its paragraph does; a blank line separates the list from text above it.
    """
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        found = re.match(r"(`?)(\w+)\1: (?=\S)", line)
        if found and found[2] in names:
            if not inside and lines and lines[-1].strip():
                lines.append("")
            line = f"- `{found[2]}`: {line[found.end() :]}"
            inside = True
        elif not line.strip():
            inside = False
        lines.append(line)
    return "\n".join(lines)
