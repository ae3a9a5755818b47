"""Progress of training: a line for each logged event, and a bar in a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

import datasets
from tqdm.auto import tqdm
from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

_SHOWN = {
    "loss": "loss",
    "task_loss": "task",
    "kd_loss": "distillation",
    "learning_rate": "lr",
    "sparsity": "sparsity",
    "quantizers_on": "quantized",
    "eval_loss": "validation loss",
}


class EpochLines(TrainerCallback):
    """One line for each event that the Trainer logs, for files and pipes."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            tqdm.write(epoch_line(logs, state.epoch or 0.0), file=sys.stderr)


class EpochBar(ProgressCallback):
    """The Trainer's progress bar, with the same line where it would print a dictionary."""

    on_log = EpochLines.on_log


def progress(bar: bool = True) -> TrainerCallback:
    """A bar in a terminal, if `bar`; elsewhere redrawing it would bury the lines."""
    return EpochBar() if bar and sys.stderr.isatty() else EpochLines()


def epoch_line(logs: Mapping[str, float], epoch: float) -> str:
    """The most telling values of an event; the run folder has all of them.

    >>> epoch_line({"loss": 0.25, "grad_norm": 3.0, "epoch": 2.0}, 0.0)
    'epoch  2.00  loss 0.25'
    """
    shown = {label: logs[name] for name, label in _SHOWN.items() if name in logs}
    shown |= {
        name.replace("eval_", "validation "): value
        for name, value in logs.items()
        if name.startswith("eval_")
        and name not in _SHOWN
        and not name.endswith(("runtime", "per_second"))
    }
    values = "  ".join(f"{label} {value:.4g}" for label, value in shown.items())
    return f"epoch {logs.get('epoch', epoch):5.2f}  {values}"


def quiet_libraries() -> None:
    """Turn off the progress bars and messages of loading, saving and exporting."""
    for name in ("onnxscript", "onnx_ir", "httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Warns how it orders checkpoints on file systems with coarse times.
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
    # Its readers log the errors that they raise.
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
