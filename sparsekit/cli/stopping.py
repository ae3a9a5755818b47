"""Signals that end a command: each becomes a KeyboardInterrupt with the signal's name."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Besides SIGINT, for which Python does the same: what schedulers send, and a closed terminal.
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def stop(number: int, frame: FrameType | None) -> None:
    """End a run on SIGTERM as on Ctrl-C: its summary is written, W&B closed."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def handle_signals() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does, unless they are ignored (nohup)."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


class Deferral:
    """Holds a first signal back until `end`; a second one ends the command at once."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """Hold signals back from now on, but those that are ignored."""
        numbers = [signal.SIGINT, *SIGNALS]
        handled = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._remember) for number in handled}

    def end(self) -> None:
        """Restore the handlers, and raise KeyboardInterrupt for a signal that was held back.

        Does nothing where no signals are held back.
        """
        self.restore()
        if self._received:
            stop(self._received.pop(), None)

    def restore(self) -> None:
        """Restore the handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            stop(number, frame)
        self._received.append(number)


# From the start of a command until its job or sweep begins: Hydra makes the run folder before.
COMPOSING = Deferral()


@contextmanager
def deferred() -> Iterator[None]:
    """Hold a first signal back until the block ends; a second one ends it at once.

    For imports: some libraries swallow an exception that interrupts theirs.
    """
    deferral = Deferral()
    deferral.begin()
    try:
        yield
    except BaseException:
        deferral.restore()
        raise
    deferral.end()
