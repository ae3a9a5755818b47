"""Runs SparseML's Trainer in a process of the peer environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sparsekit.errors import UserError
from sparsekit.sparseml.peer import MAKE, WORKERS, peer_python

WORKER = WORKERS / "sparseml_engine.py"
# Arguments of sparsekit's own Trainer; all others exist in old and new transformers.
_OURS = {
    "_target_",
    "output_dir",
    "precision",
    "sparse_products",
    "save_strategy",
    "save_total_limit",
    "resume_from_checkpoint",
    "resume_despite_changes",
    "max_steps",
    "tokens_per_batch",
    "class_weights",
    "early_stopping_patience",
    "early_stopping_threshold",
    "train_sampling_strategy",
    "restore_callback_states_from_checkpoint",
}
_RENAMED = {"eval_strategy": "evaluation_strategy"}
Report = dict[str, Any]


def trainer_arguments(training: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved `training` node with the names of SparseML's version of transformers.

    Rows are not grouped by length, since that version would sort them within each group.
    """
    passed = {_RENAMED.get(k, k): value for k, value in training.items() if k not in _OURS}
    fixed = {"save_strategy": "no", "report_to": [], "disable_tqdm": True}
    return {**passed, **fixed}


def run_worker(job: Path, log: Path, on_report: Callable[[Report], None]) -> None:
    """Run a job; calls `on_report` with each report as it arrives, and writes stderr to `log`.

    Raises UserError with the last error in `log` where the process fails.
    """
    python = peer_python()
    if python is None:
        raise UserError(f"engine=sparseml is not installed: {MAKE}")
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            # -E: PYTHONPATH may name packages of this environment.
            [python, "-E", WORKER, job],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"NM_DISABLE_ANALYTICS": "True", "HF_HUB_OFFLINE": "1"},
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                # SparseML's libraries print to stdout too.
                if line.startswith('{"'):
                    on_report(json.loads(line))
        except BaseException:  # the process must not outlive the run
            process.kill()
            raise
        finally:
            process.stdout.close()
            code = process.wait()
    if code != 0:
        raise UserError(
            f"SparseML ended with code {code}: {_last_error(log.read_text(encoding='utf-8'))}; see "
            f"{log} for its whole output"
        )


def _last_error(output: str) -> str:
    """The last exception in a log, or its last line."""
    lines = output.strip().splitlines() or ["nothing"]
    return next(
        (line for line in lines[::-1] if re.match(r"[\w.]*(Error|Exception)\b", line)), lines[-1]
    )
