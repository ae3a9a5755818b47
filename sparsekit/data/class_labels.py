"""Classes that a column stores as numbers beside their names, each split and file in its order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Features

from sparsekit.data.columns import item_feature, value_text
from sparsekit.errors import UserError


def names_of(feature: Any) -> list[str]:
    """The names of a column of classes or of lists of classes; none for another column."""
    inner = item_feature(feature) or feature
    return list(inner.names) if isinstance(inner, ClassLabel) else []


def namer(names: Sequence[str]) -> Callable[[Any], str | None]:
    """A function of a stored value that gives its name, and the value as text where it has none.

    >>> text = namer(["no", "yes"])
    >>> text(1), text(-1), text("1"), text(None)
    ('yes', '-1', '1', None)
    """

    def text(value: Any) -> str | None:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
            return names[value]
        return value_text(value)

    return text


def with_one_order(
    tables: Sequence[pa.Table], places: Sequence[str]
) -> tuple[list[pa.Table], Features | None]:
    """The tables with the classes of each column numbered alike, and the features they have then.

    The order is that of the first table; names that only later ones have follow. The features are
    None where no table names classes, or all name the same.

    places: what an error calls each table. Raises UserError where a column has names in one table
    and numbers without names in another.
    """
    features = [Features.from_arrow_schema(table.schema) for table in tables]
    mixed = [
        name
        for name in dict.fromkeys(name for each in features for name in each)
        if len({tuple(names_of(each[name])) for each in features if name in each}) > 1
    ]
    if not mixed:
        return list(tables), None
    merged = {name: feature for each in reversed(features) for name, feature in each.items()}
    numbered = list(tables)
    for name in mixed:
        having = [i for i, each in enumerate(features) if name in each]
        _refuse_bare(name, [features[i][name] for i in having], [places[i] for i in having])
        names = list(dict.fromkeys(n for i in having for n in names_of(features[i][name])))
        merged[name] = _renamed(features[having[0]][name], names)
        for i in having:
            position = {old: names.index(n) for old, n in enumerate(names_of(features[i][name]))}
            numbered[i] = _numbered(numbered[i], name, position)
    return numbered, Features(merged)


def _refuse_bare(name: str, features: Sequence[Any], places: Sequence[str]) -> None:
    bare = [place for place, each in zip(places, features, strict=True) if not names_of(each)]
    if bare:
        named = next(place for place in places if place not in bare)
        raise UserError(
            f"column {name!r} has numbers with names in {named} and values without names in "
            f"{bare[0]}, so that they cannot be matched; save both with the same ClassLabel, or "
            "the names as text"
        )


def _renamed(feature: Any, names: list[str]) -> Any:
    """The feature of classes, or of lists of them, with other names."""
    classes = ClassLabel(names=names)
    return classes if isinstance(feature, ClassLabel) else type(feature)(classes)


def _numbered(table: pa.Table, name: str, position: dict[int, int]) -> pa.Table:
    """The table with the numbers of a column replaced; others, such as -1, stay."""

    def replaced(value: Any) -> Any:
        if isinstance(value, list):
            return [replaced(each) for each in value]
        return position.get(value, value)

    column = table.column(name)
    values = pa.array([replaced(value) for value in column.to_pylist()], column.type)
    return table.set_column(table.column_names.index(name), name, values)
