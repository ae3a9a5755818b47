"""Parses the text of a SparseML recipe to plain Python values and `!Modifier` tags."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sparsekit.errors import UserError
from sparsekit.sparseml.zoo import shipped_recipe

# Files in SparseML's repository have a licence in a comment before it.
_FRONT_MATTER = re.compile(r"^(---|\+\+\+)[ \t]*\n(.*?)^\1[ \t]*$", re.DOTALL | re.MULTILINE)
MARKDOWN = (".md", ".markdown")
# The prefix of recipes in SparseZoo, which is closed.
ZOO = "zoo:"
# Far more than any recipe has; nested aliases exceed it at once.
MOST_VALUES = 100_000


@dataclass(frozen=True)
class Tagged:
    """A `!Modifier` with its fields and line."""

    kind: str
    fields: Any
    line: int


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with `!Modifier` tags and YAML 1.2 numbers; refuses duplicate keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        assert isinstance(node, yaml.MappingNode)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines and key.value != "<<":
                problem = f"{key.value} is in line {lines[key.value]} already; keep one of them"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node


# YAML 1.1 reads 1e-4 as text, and 2:4 as the sexagesimal number 124.
_NUMBERS = {
    "int": r"[-+]?(0b[01_]+|0x[\da-fA-F_]+|0[0-7_]*|[1-9][\d_]*)$",
    "float": r"[-+]?((\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))$"
    r"|\.(nan|NaN|NAN)$",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag.rpartition(":")[2] not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _form in _NUMBERS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(_form), list("-+.0123456789")
    )


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> Tagged:
    fields: Any = None
    if isinstance(node, yaml.MappingNode):
        fields = loader.construct_mapping(node, deep=True)
    elif not isinstance(node, yaml.ScalarNode) or node.value:
        raise yaml.constructor.ConstructorError(
            None, None, f"!{suffix} must be followed by its fields", node.start_mark
        )
    # Some files have the framework before the class, as in !pytorch.EpochRangeModifier.
    return Tagged(suffix.rpartition(".")[2], fields, node.start_mark.line + 1)


_Loader.add_multi_constructor("!", _tagged)


def content_of(path: Path) -> str:
    """The text of a recipe file. Raises UserError for a file that cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"there is no recipe file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from error


def text_of(path: Path) -> str:
    """The YAML of a file, or of a Markdown file's front matter, with the same line numbers.

    Raises UserError for a file that cannot be read.
    """
    if str(path).startswith(ZOO):
        own = shipped_recipe(str(path))
        instead = f"recipe={own} trains the same way" if own else "give the path of a recipe file"
        raise UserError(f"{path}: SparseZoo is closed; {instead}")
    text = content_of(path)
    if path.suffix.lower() not in MARKDOWN:
        return text
    front = _FRONT_MATTER.search(text)
    if front is None:
        raise UserError(f"{path} has no YAML front matter between two lines of ---")
    # Empty lines before it preserve the line numbers in errors.
    return "\n" * text[: front.start(2)].count("\n") + front[2]


def values_of(text: str, path: str) -> Any:
    """The values in YAML text, `!Modifier` as Tagged; `path` is for error messages.

    Raises UserError with line and column for invalid YAML.
    """
    try:
        content = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context
        raise UserError(f"{path} is not readable YAML{where}: {problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # ValueError: a date such as 2020-13-01, or a number of thousands of digits.
        raise UserError(f"{path} is not readable YAML: {error}") from error
    pending, count = [content], 0
    while pending:
        value = pending.pop()
        inner = value.fields if isinstance(value, Tagged) else value
        pending += inner.values() if isinstance(inner, dict) else []
        pending += inner if isinstance(inner, list) else []
        count += 1
        if count > MOST_VALUES:
            raise UserError(
                f"{path} holds more than {MOST_VALUES} values: an alias stands within its "
                "own anchor, or in too many others; write its content out"
            )
    return content
