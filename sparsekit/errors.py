"""Errors that the user can fix: raised anywhere, shown as one message."""

from __future__ import annotations

import re
from collections.abc import Sequence


class UserError(Exception):
    """A mistake that the user can fix: the message names the value, the limit and the fix."""


class ConfigError(UserError):
    """All problems of a config, collected so that one run reports every one."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        listed = "".join(f"\n- {problem}" for problem in self.problems)
        super().__init__(
            self.problems[0]
            if len(self.problems) == 1
            else f"{len(self.problems)} problems{listed}"
        )


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
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
