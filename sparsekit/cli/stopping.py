"""Signals that end a command: each becomes a KeyboardInterrupt with the signal's name."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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


@contextmanager
def deferred() -> Iterator[None]:
    """Hold a first signal back until the block ends; a second one ends it at once.

    For imports: some libraries swallow an exception that interrupts theirs.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if received:
            stop(number, frame)
        received.append(number)

    numbers = [signal.SIGINT, *SIGNALS]
    handled = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, remember) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        stop(received[0], None)
