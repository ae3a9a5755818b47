"""The process of W&B that sends what runs log; programs share it with those that they start."""

from __future__ import annotations

import os
import re
import socket

# Where W&B's clients find it: a version, the number of the process that began it, and an address.
VARIABLE = "WANDB_SERVICE"


def forget_ended_service() -> None:
    """Let W&B begin a service of its own where that of the program around this one has ended.

    W&B itself ends with an error there: a program that has used W&B, such as a notebook or a test,
    leaves the address to all that it starts later.
    """
    if (address := _address(os.environ.get(VARIABLE, ""))) is None:
        return
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as connection:
        try:
            connection.connect(address)
        except OSError:
            del os.environ[VARIABLE]


def _address(service: str) -> str | tuple[str, int] | None:
    """The socket of a service; None where there is none, or it is written in another way.

    >>> _address("3-17-unix-/tmp/wandb-1/socket"), _address("3-17-tcp-localhost-4711"), _address("")
    ('/tmp/wandb-1/socket', ('localhost', 4711), None)
    """
    if (found := re.fullmatch(r"\d+-\d+-unix-(.+)", service)) and hasattr(socket, "AF_UNIX"):
        return found[1]
    if found := re.fullmatch(r"\d+-\d+-tcp-localhost-(\d+)", service):
        return "localhost", int(found[1])
    return None
