"""The arguments of `sparsekit train` in the form that Hydra's parser reads."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from sparsekit.errors import UserError
from sparsekit.system import expanded


def arranged(words: Sequence[str]) -> list[str]:
    """Put options first, and quote paths that Hydra cannot read without quotes.

    An option between overrides (`dataset=csv -m seed=1,2`) would end Hydra's list of overrides.
    `--help` prints a composed config, so it gets a value for the one group without a default.
    Raises UserError for an option that Hydra does not have, and for a value that it reads only in
    quotes and that is not a path.

    >>> arranged(["dataset=csv", "-m", "seed=1,2"])
    ['-m', 'dataset=csv', 'seed=1,2']
    """
    parsed, unknown = get_args_parser().parse_known_intermixed_args(list(words))
    _check_options(words, unknown)
    # What is left is an override, whatever signs the value of an option holds.
    overrides, options = list(parsed.overrides), list(words)
    for override in overrides:
        options.remove(override)
    chosen = any(word.startswith(("dataset=", "experiments=")) for word in overrides)
    if parsed.help and not chosen:
        overrides.append("dataset=rotten_tomatoes")
    parser = OverridesParser.create()
    return options + [
        _readable(word, parser) if "=" in word or word.startswith("~") else word
        for word in overrides
    ]


def assigned(key: str, value: str) -> str:
    """The override that sets `key` to a text as it stands, in quotes where Hydra needs them.

    >>> assigned("data", "a.csv"), assigned("data", "a,b.csv"), assigned("data", "7")
    ('data=a.csv', 'data="a,b.csv"', 'data="7"')
    """
    try:
        read = OverridesParser.create().parse_override(f"{key}={value}")
        # An interpolation is text to the parser.
        if "$" not in value and not read.is_sweep_override() and read.value() == value:
            return f"{key}={value}"
    except HydraException:
        pass
    return f"{key}={quoted(value)}"


def quoted(value: str) -> str:
    """A text in quotes that Hydra reads as it stands."""
    # A backslash counts only before a quote, or before an interpolation, which it escapes.
    escaped = re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + (m[2] and '\\"'), value)
    escaped = re.sub(r"(\\*)(\$\{)", lambda m: 2 * m[1] + "\\${", escaped)
    return f'"{escaped}"'


def _check_options(words: Sequence[str], unknown: Sequence[str]) -> None:
    """Raise UserError for a value of the config that is written as an option."""
    word = next((word for word in unknown if word.startswith("-")), None)
    if word is None:
        return
    key, _, value = word.lstrip("-").partition("=")
    if not value:
        following = words[words.index(word) + 1 :]
        value = following[0] if following and not following[0].startswith("-") else "VALUE"
    raise UserError(
        f"{word} is not an option; values of the config are set without dashes: write {key}={value}"
    )


def _readable(override: str, parser: OverridesParser) -> str:
    key, _, value = override.partition("=")
    if "${" in value and _names_a_path(value):
        # A folder of such a name: escaped, it is not taken for an interpolation.
        return f"{key}={quoted(value)}"
    if _reads(override, parser):
        return override
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    in_quotes = f'{key}="{escaped}"'
    if not _reads(in_quotes, parser):
        return override  # The value is not the problem; Hydra reports what is.
    if _names_a_path(value):
        return in_quotes
    inner = in_quotes.replace("'", "'\\''")
    raise UserError(
        f"{override}: Hydra cannot read this value. Text with letters beyond ASCII, brackets or "
        f"signs such as = and # needs quotes that reach it: '{inner}'"
    )


def _names_a_path(value: str) -> bool:
    """Whether the file or folder exists, or the folder in which it would be created."""
    path = expanded(value)
    return path.exists() or ("/" in value and path.parent.exists())


def _reads(override: str, parser: OverridesParser) -> bool:
    try:
        parser.parse_override(override)
    except HydraException:
        return False
    return True
