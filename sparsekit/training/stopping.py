"""A stop by a signal in training: a checkpoint is saved before the run ends."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

LOG = logging.getLogger(__name__)
# Signals that leave time to save: those of schedulers, and of a terminal that is closed.
SIGNALS = (signal.SIGTERM, signal.SIGHUP)
# Seconds within which one stop may arrive twice: a scheduler signals all processes of a job, and
# torchrun passes on what it receives.
REPEATED = 2.0


class StopAfterCheckpoint(TrainerCallback):
    """Ends training on SIGTERM and SIGHUP once the current step or evaluation has ended.

    A checkpoint is saved first, whatever `save_strategy` says, and KeyboardInterrupt with the
    signal's name is raised. A second signal raises it at once, unless it follows the first within
    REPEATED seconds. Of several processes all stop after the same step.
    """

    def __init__(self) -> None:
        self._received = 0
        self._since = 0.0
        self._saving = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals while the block trains; a signal that is ignored stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Only the main thread receives signals.
            return
        handled = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._receive) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._received:
            # It came after the last step.
            raise self._stop()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._received:
            self._received, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > REPEATED:
            raise self._stop()

    def _stop(self) -> KeyboardInterrupt:
        return KeyboardInterrupt(signal.Signals(self._received).name)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask for a checkpoint if a signal came."""
        if args.world_size > 1:
            shared = torch.tensor(self._received, device=args.device)
            dist.all_reduce(shared, dist.ReduceOp.MAX)
            self._received = int(shared)
        self._save(state, control)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The same, for a signal that came while one process evaluated."""
        if args.world_size == 1:
            self._save(state, control)

    def _save(self, state: TrainerState, control: TrainerControl) -> None:
        if self._received and not self._saving:
            name = signal.Signals(self._received).name
            LOG.warning("%s: saving a checkpoint after step %d", name, state.global_step)
            control.should_save = self._saving = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """End training once the checkpoint is whole."""
        if self._saving:
            raise self._stop()
