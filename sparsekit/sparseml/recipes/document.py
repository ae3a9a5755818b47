"""Reads a SparseML recipe file as variables and a flat list of modifiers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsekit.errors import UserError
from sparsekit.sparseml.recipes.expressions import map_expressions, names, rename
from sparsekit.sparseml.recipes.text import Tagged, text_of, values_of

# Metadata, which does not affect training.
UNREAD = ("__metadata__", "version")
# Names that have another meaning at the top level of a native recipe.
RESERVED = ("metadata", "defaults", "path", "variables")


@dataclass(frozen=True)
class Entry:
    """A modifier of a recipe: SparseML's class name, its fields as written, and its place."""

    kind: str
    fields: dict[str, Any]
    place: str


@dataclass
class Document:
    """A recipe's variables and modifiers, with expressions as text.

    scopes: the variables of each name: one, or one for each stage that sets it.
    """

    variables: dict[str, Any] = field(default_factory=dict)
    scopes: dict[str, list[str]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def override(self, values: Mapping[str, Any]) -> None:
        """Set variables, in every stage that has one of the name."""
        for name, value in values.items():
            if name not in self.scopes and name not in self.variables:
                listed = ", ".join(sorted({*self.scopes, *self.variables})) or "none"
                raise UserError(
                    f"recipe.variables.{name}: the recipe has no such variable; it has {listed}"
                )
            for variable in self.scopes.get(name, [name]):
                self.variables[variable] = value

    def read_names(self) -> set[str]:
        """The variables that are used in any expression."""
        read: set[str] = set()
        map_expressions(
            [self.variables, [entry.fields for entry in self.entries]],
            lambda text: read.update(names(text)),
        )
        return read

    def renamed(self, old: str, new: str) -> Document:
        """The same recipe with the variable `old` renamed to `new`."""

        def changed(value: Any) -> Any:
            return map_expressions(value, lambda text: f"eval({rename(text, {old: new})})")

        return Document(
            {new if n == old else n: changed(v) for n, v in self.variables.items()},
            {name: [new if n == old else n for n in flat] for name, flat in self.scopes.items()},
            [Entry(e.kind, changed(e.fields), e.place) for e in self.entries],
        )


def read(path: Path) -> Document:
    """The recipe in a YAML file or the front matter of a Markdown file; raises UserError."""
    return parse(text_of(path), str(path))


def parse(text: str, path: str) -> Document:
    """The recipe in YAML text; `path` is for error messages."""
    content = values_of(text, path)
    if isinstance(content, list):
        content = {"modifiers": content}
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a recipe: it has no modifiers")
    document = Document()
    repeated = {name for name, count in Counter(_all_names(content)).items() if count > 1}
    try:
        _scope(document, content, {}, [], repeated)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not document.entries:
        raise UserError(f"{path} is not a SparseML recipe: it has no list of modifiers")
    return document


def _scope(
    document: Document,
    content: dict[Any, Any],
    outer: Mapping[str, str],
    stages: list[str],
    repeated: Collection[str],
) -> None:
    """Add the variables of a recipe or stage, then its modifiers and the stages within.

    Variables in `repeated`, which several stages have, are prefixed with the stage's name.
    """
    content = {key: value for key, value in content.items() if key not in UNREAD}
    written = _variables(content)
    known = dict(outer)
    for name in written:
        flat_name = f"{name}_variable" if name in RESERVED else name
        known[name] = "_".join([*stages, flat_name]) if name in repeated else flat_name
        document.scopes.setdefault(name, []).append(known[name])

    def flat(value: Any) -> Any:
        return map_expressions(value, lambda text: f"eval({rename(text, known)})")

    for name, value in written.items():
        document.variables[known[name]] = flat(value)
    for key, value in content.items():
        if _is_group(key):
            for entry in _modifiers(value, str(key)):
                document.entries.append(Entry(entry.kind, flat(entry.fields), entry.place))
        elif isinstance(value, Tagged):
            document.entries.append(_entry(value.kind, flat(value.fields), f"line {value.line}"))
        elif isinstance(value, dict) and _holds_modifiers(value):
            _scope(document, value, known, [*stages, str(key)], repeated)
        elif isinstance(value, list) and _holds_modifiers(value):
            raise UserError(
                f"{key}: modifiers must be in a list whose name ends in modifiers, such as "
                f"{key}_modifiers"
            )


def _variables(content: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(key): value
        for key, value in content.items()
        if key not in UNREAD and not _is_group(key) and not _holds_modifiers(value)
    }


def _all_names(content: dict[Any, Any]) -> Iterator[str]:
    yield from _variables(content)
    for key, value in content.items():
        if isinstance(value, dict) and key not in UNREAD and not _is_group(key):
            yield from _all_names(value) if _holds_modifiers(value) else ()


def _modifiers(value: Any, place: str) -> Iterator[Entry]:
    """The modifiers in a group: tagged, or `Name: fields`, in nested lists and mappings."""
    if isinstance(value, Tagged):
        yield _entry(value.kind, value.fields, f"line {value.line}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _modifiers(item, f"{place}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if _is_group(key) or isinstance(item, Tagged):
                yield from _modifiers(item, f"{place}.{key}")
            else:
                yield _entry(str(key), item, f"{place}.{key}")
    elif value is not None:
        raise UserError(f"{place}: {value!r} is not a modifier; write Name: {{field: value}}")


def _entry(kind: str, fields: Any, place: str) -> Entry:
    if fields is not None and not isinstance(fields, dict):
        raise UserError(f"{place}: the fields of {kind} are {fields!r}; write field: value lines")
    return Entry(kind, {str(key): value for key, value in (fields or {}).items()}, place)


def _is_group(key: Any) -> bool:
    return isinstance(key, str) and key.endswith("modifiers")


def _holds_modifiers(value: Any) -> bool:
    if isinstance(value, Tagged):
        return True
    if isinstance(value, list):
        return any(_holds_modifiers(item) for item in value)
    return isinstance(value, dict) and any(
        _is_group(key) or _holds_modifiers(item) for key, item in value.items()
    )
