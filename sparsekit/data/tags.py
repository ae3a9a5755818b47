"""Rows of words and tags: checked, and the tags numbered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Value

from sparsekit.data.class_labels import names_of
from sparsekit.data.columns import item_feature, value_text, values
from sparsekit.data.filters import is_blank
from sparsekit.data.origin import SHOWN, column_names, where, with_origin
from sparsekit.errors import ConfigError
from sparsekit.metrics.entities import OUTSIDE, has_scheme, split_tag

# Characters of a word. Tokenizers know longer ones as unknown, or cut them into hundreds of pieces.
LONGEST_WORD = 256

Tags = list[list[int]]


def number_tags(
    raw: Mapping[str, Dataset], tokens: str, tags: str, names: Sequence[str] | None = None
) -> tuple[list[str], dict[str, Tags]]:
    """The names of the tags in order, and each split's tags as indices into them.

    Tags that are a ClassLabel have names and an order of their own; that of train counts, and the
    other splits are read by their names. Others are compared as text; O comes first, the rest is
    sorted by type. Raises ConfigError that names the rows and the fix.

    Args:
        raw: the splits.
        tokens: the column of lists of words.
        tags: the column of lists of tags.
        names: what the tags 0, 1, ... mean, if the column does not say it.
    """
    placed = {split: with_origin(rows, split) for split, rows in raw.items()}
    problems = [p for split, rows in placed.items() for p in _columns(split, rows, tokens, tags)]
    if problems:
        raise ConfigError(problems)
    problems = [p for rows in placed.values() for p in _row_problems(rows, tokens, tags)]
    if problems:
        raise ConfigError(problems)
    stored = names_of(raw["train"].features[tags])
    # Another split may be numbers without names, which the given names are for.
    named = all(names_of(rows.features[tags]) for rows in raw.values())
    if names and named and list(names) != stored:
        raise ConfigError(
            [
                f"task.tag_names is {', '.join(names)}, but column {tags!r} of split 'train' "
                f"names its tags {', '.join(stored)}; leave task.tag_names out, or rename the "
                "tags in the data"
            ]
        )
    texts = {split: _texts(rows, tags, names or ()) for split, rows in placed.items()}
    names = stored or names
    if names is None:
        found = {tag for row in texts["train"] for tag in row}
        names = sorted(found, key=lambda tag: (tag != OUTSIDE, split_tag(tag)[1], tag))
    index = {name: i for i, name in enumerate(names)}
    problems = _tag_problems(placed, tags, texts, index)
    if problems:
        raise ConfigError(problems)
    return list(names), {s: [[index[tag] for tag in row] for row in t] for s, t in texts.items()}


def _columns(split: str, rows: Dataset, tokens: str, tags: str) -> Iterator[str]:
    """Columns that are not there or do not hold lists."""
    keys = {tokens: "dataset.token_column", tags: "dataset.tag_column"}
    if missing := [name for name in keys if name not in rows.column_names]:
        yield (
            f"split {split!r} has no column {', '.join(missing)}; it has "
            f"{', '.join(column_names(rows))}; set {' and '.join(keys[name] for name in missing)}"
        )
        return
    for name, key in keys.items():
        if not isinstance(item_feature(rows.features[name]), Value | ClassLabel):
            yield (
                f"split {split!r}, column {name!r} holds no list in each row; set {key} to a "
                'column of lists, such as ["He", "left"]'
            )


def _row_problems(rows: Dataset, tokens: str, tags: str) -> Iterator[str]:
    """Rows without words, with another number of tags, and words that are none."""
    lacking, unequal, blank, untagged, long = [], [], [], [], []
    for row, (words, labels) in enumerate(
        zip(values(rows, tokens), values(rows, tags), strict=True)
    ):
        if not words:
            lacking.append(row)
        elif labels is None or len(words) != len(labels):
            unequal.append((row, f"{len(words)} tokens and {len(labels or [])} tags"))
        elif any(not isinstance(word, str) or not word.strip() for word in words):
            blank.append(row)
        elif any(map(is_blank, labels)):
            untagged.append(row)
        elif any(len(word) > LONGEST_WORD for word in words):
            long.append((row, max(len(word) for word in words)))
    if lacking:
        yield f"{where(rows, lacking)}: column {tokens!r} is empty; remove the row"
    if unequal:
        counted = "; ".join(text for _, text in unequal[:SHOWN])
        yield (
            f"{where(rows, [row for row, _ in unequal])}: {counted}; give each token of "
            f"{tokens!r} its tag in {tags!r}"
        )
    if blank:
        yield (
            f"{where(rows, blank)}: column {tokens!r} holds a token without text; remove the token "
            "and its tag"
        )
    if untagged:
        yield (
            f"{where(rows, untagged)}: column {tags!r} holds an empty tag; give each token one, "
            f"such as {OUTSIDE} for no entity"
        )
    if long:
        yield (
            f"{where(rows, [row for row, _ in long])}: column {tokens!r} holds a token of "
            f"{max(size for _, size in long)} characters, more than {LONGEST_WORD}: split it into "
            "words, or remove the row"
        )


def _texts(rows: Dataset, tags: str, names: Sequence[str]) -> list[list[str]]:
    """The tags of each row as text; numbers as the column names them, or else as `names` does."""
    known = names_of(rows.features[tags]) or names

    def text(value: Any) -> str:
        plain = (value_text(value) or "").strip()
        return known[int(plain)] if plain.isdecimal() and int(plain) < len(known) else plain

    return [[text(value) for value in row] for row in values(rows, tags)]


def _tag_problems(
    placed: Mapping[str, Dataset],
    column: str,
    texts: Mapping[str, list[list[str]]],
    index: Mapping[str, int],
) -> list[str]:
    """Tags that are not known, and tags outside of the scheme of the others."""
    problems = []
    if len(index) < 2:
        problems.append(f"column {column!r} has {len(index)} tag in train; at least 2 are needed")
    marked = any(has_scheme([tag]) for tag in index)
    outside = [tag for tag in index if marked and tag != OUTSIDE and not has_scheme([tag])]
    for rows, each in ((placed[split], texts[split]) for split in texts):
        for wrong, reason in (
            (
                set(outside),
                "has no B- or I- before its type, as the other tags have; write "
                f"B-{(outside or ['TYPE'])[0]}",
            ),
            (
                None,
                f"is never seen in train, which has {', '.join(list(index)[:10])}; leave these "
                "rows out, or name all tags: 'task.tag_names=[O,B-PER,I-PER]'",
            ),
        ):
            found = [
                (row, tag)
                for row, tags in enumerate(each)
                for tag in tags
                if (tag in wrong if wrong is not None else tag not in index)
            ]
            if found:
                places = where(rows, list(dict.fromkeys(row for row, _ in found)))
                problems.append(f"{places}, column {column!r}: tag {found[0][1]!r} {reason}")
    return problems
