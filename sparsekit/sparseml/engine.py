"""SparseML's Trainer in a process of the peer environment: its arguments, and its reports."""

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
# Arguments that say where or how we train; every other is transformers', old or new.
_OURS = {
    "_target_",
    "output_dir",
    "precision",
    "sparse_products",
    "save_strategy",
    "save_total_limit",
    "resume_from_checkpoint",
    "max_steps",
    "tokens_per_batch",
    "train_sampling_strategy",
    "restore_callback_states_from_checkpoint",
}
_RENAMED = {"eval_strategy": "evaluation_strategy"}
Report = dict[str, Any]


def trainer_arguments(training: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved `training` node in the names of the transformers that SparseML has.

    Rows are not grouped by length there: it would sort them, longest first, within each group.
    """
    passed = {_RENAMED.get(k, k): value for k, value in training.items() if k not in _OURS}
    fixed = {"save_strategy": "no", "report_to": [], "disable_tqdm": True}
    return {**passed, **fixed}


def run_worker(job: Path, log: Path, on_report: Callable[[Report], None]) -> None:
    """Run the job; each report reaches `on_report` as it is made, stderr goes to `log`.

    Raises UserError with the last line of stderr when the process fails.
    """
    python = peer_python()
    if python is None:
        raise UserError(f"engine=sparseml is not installed: {MAKE}")
    with log.open("w") as errors:
        process = subprocess.Popen(
            # -E: what PYTHONPATH holds is ours, not the peer's.
            [python, "-E", WORKER, job],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"NM_DISABLE_ANALYTICS": "True", "HF_HUB_OFFLINE": "1"},
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                # Its libraries print there too.
                if line.startswith('{"'):
                    on_report(json.loads(line))
        except BaseException:  # a stopped run leaves no process behind
            process.kill()
            raise
        finally:
            process.stdout.close()
            code = process.wait()
    if code != 0:
        raise UserError(
            f"SparseML ended with code {code}: {_last_words(log.read_text())}; all that it said is "
            f"in {log}"
        )


def _last_words(said: str) -> str:
    """The exception in a log, or its last line."""
    lines = said.strip().splitlines() or ["nothing"]
    return next(
        (line for line in lines[::-1] if re.match(r"[\w.]*(Error|Exception)\b", line)), lines[-1]
    )
