"""The text of a SparseML recipe as plain Python values, its `!Modifier` tags kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sparsekit.errors import UserError
from sparsekit.sparseml.zoo import shipped_recipe

# Cards of SparseML's own repository have a licence in a comment above it.
_FRONT_MATTER = re.compile(r"^(---|\+\+\+)[ \t]*\n(.*?)^\1[ \t]*$", re.DOTALL | re.MULTILINE)
MARKDOWN = (".md", ".markdown")
# How recipes in SparseZoo, which is gone, were named.
ZOO = "zoo:"
# Far more than any recipe holds; aliases within aliases reach it at once.
MOST_VALUES = 100_000


@dataclass(frozen=True)
class Tagged:
    """A `!Modifier` with its fields, before it is known where it stands."""

    kind: str
    fields: Any
    line: int


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with `!Modifier` tags, numbers as in YAML 1.2, and no key twice."""

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


# YAML 1.1 reads 1e-4 as text, and 2:4 as 124, two of sixty and four.
_NUMBERS = {
    "int": r"[-+]?(0b[01_]+|0x[\da-fA-F_]+|0[0-7_]*|[1-9][\d_]*)$",
    "float": r"[-+]?((\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))$"
    r"|\.(nan|NaN|NAN)$",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in found if tag.rpartition(":")[2] not in _NUMBERS]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
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
    # SparseML writes the framework before the class in some files: !pytorch.EpochRangeModifier
    return Tagged(suffix.rpartition(".")[2], fields, node.start_mark.line + 1)


_Loader.add_multi_constructor("!", _tagged)


def text_of(path: Path) -> str:
    """The YAML of a file, or of a Markdown file's front matter, with its line numbers kept.

    Raises UserError for a file that cannot be read.
    """
    if str(path).startswith(ZOO):
        own = shipped_recipe(str(path))
        instead = f"recipe={own} trains the same way" if own else "give the path of a recipe file"
        raise UserError(f"{path}: SparseZoo is gone; {instead}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from error
    if path.suffix.lower() not in MARKDOWN:
        return text
    front = _FRONT_MATTER.search(text)
    if front is None:
        raise UserError(f"{path} has no YAML front matter between two lines of ---")
    # Empty lines in the place of what stands before keep the line numbers of errors true.
    return "\n" * text[: front.start(2)].count("\n") + front[2]


def values_of(text: str, path: str) -> Any:
    """What YAML text holds, `!Modifier` as Tagged; `path` is used in errors.

    Raises UserError with line and column where it is not YAML.
    """
    try:
        content = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context
        raise UserError(f"{path} is not readable YAML{where}: {problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # A ValueError is a date with a month of 13, or a number of thousands of digits.
        raise UserError(f"{path} is not readable YAML: {error}") from error
    waiting, seen = [content], 0
    while waiting:
        value = waiting.pop()
        inner = value.fields if isinstance(value, Tagged) else value
        waiting += inner.values() if isinstance(inner, dict) else []
        waiting += inner if isinstance(inner, list) else []
        seen += 1
        if seen > MOST_VALUES:
            raise UserError(
                f"{path} holds more than {MOST_VALUES} values: an alias stands within what it "
                "names, or within too many others; write its content out"
            )
    return content
