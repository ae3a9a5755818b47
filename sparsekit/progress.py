"""What a training run shows in the terminal: one bar, and one line for each thing it logs."""

from __future__ import annotations

import logging

import datasets
from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments
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


class EpochLines(ProgressCallback):
    """The Trainer's progress bar, with a short line where it would print a dictionary."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Write the values that a reader follows; the run folder has all of them."""
        if not logs or not state.is_world_process_zero or "train_runtime" in logs:
            return
        shown = {label: logs[name] for name, label in _SHOWN.items() if name in logs}
        shown |= {
            name.replace("eval_", "validation "): value
            for name, value in logs.items()
            if name.startswith("eval_")
            and name not in _SHOWN
            and not name.endswith(("runtime", "per_second"))
        }
        values = "  ".join(f"{label} {value:.4g}" for label, value in shown.items())
        tqdm.write(f"epoch {logs.get('epoch', state.epoch or 0):5.2f}  {values}", nolock=True)


def quiet_libraries() -> None:
    """Turn off the bars and notes of loading, saving and exporting, which hide what matters."""
    for name in ("onnxscript", "onnx_ir", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
