"""Errors that the user can fix: raised anywhere, shown as one message."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class UserError(Exception):
    """A mistake that the user can fix: the message names the value, the limit and the fix."""

    def reword(self, change: Callable[[str], str]) -> None:
        """Replace the message by `change(message)`."""
        self.args = (change(str(self)),)


class ConfigError(UserError):
    """All problems of a config, collected so that one run reports every one."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__(_listed(self.problems))

    def reword(self, change: Callable[[str], str]) -> None:
        """Replace each problem by `change(problem)`."""
        self.problems = [change(problem) for problem in self.problems]
        self.args = (_listed(self.problems),)


def _listed(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems" + "".join(f"\n- {problem}" for problem in problems)


@contextmanager
def reworded(change: Callable[[str], str]) -> Iterator[None]:
    """Change the message of a UserError that the block raises, for users who see other names."""
    try:
        yield
    except UserError as error:
        error.reword(change)
        raise


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest of the known ones, or all of them.

    >>> suggestion("atention", ["attention", "dropout"]), suggestion("x", ["attention", "dropout"])
    ('; did you mean attention?', '; choose from attention, dropout')
    """
    names = list(known)
    if close := difflib.get_close_matches(name, names, n=1):
        return f"; did you mean {close[0]}?"
    return f"; choose from {', '.join(names)}" if names else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its type if the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# Control characters but tab and newline, and what reverses the direction of text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""`text` with control characters escaped: a file's text must not drive the terminal.

    >>> printable("\x1b[31mred")
    '\\x1b[31mred'
    """
    # Quick for most texts: no character of _CONTROL is printable.
    if text.isprintable():
        return text
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def parse_json(text: str | bytes) -> Any:
    """`json.loads`, of which every fault of the text is a ValueError, nesting too deep included."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
