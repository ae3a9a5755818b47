"""The Trainer's events, forwarded to a Tracker; apart from `tracking` because it imports torch."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sparsekit.runs.tracking import Tracker


class TrackerCallback(TrainerCallback):
    """Logs what the Trainer logs; an evaluation is logged by the Trainer before `on_evaluate`."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Forward one event with its optimizer step."""
        if logs and state.is_world_process_zero:
            self._tracker.log(logs, step=state.global_step)
