"""`engine=sparseml`: what SparseML's Trainer cannot do, and the process that it runs in."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsekit.distributed import PROCESSES
from sparsekit.errors import ConfigError, UserError
from sparsekit.recipe.recipe import Recipe
from sparsekit.sparseml.peer import MAKE, WORKERS, peer_problem, peer_python
from sparsekit.sparseml.recipes.mapping import NEWER
from sparsekit.sparseml.recipes.write import to_sparseml

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


@dataclass(kw_only=True)
class SparseML:
    """SparseML 1.8's Trainer, in a process of the peer environment, in float32."""

    def problems(self, recipe: Recipe, values: Mapping[str, Any]) -> list[str]:
        """What it cannot do of the resolved config `values`."""
        install = peer_problem("sparseml")
        found = [f"engine=sparseml is not installed: {install}"] if install else []
        try:
            recipe_text(recipe)
        except ConfigError as error:
            found += [f"engine=sparseml: {problem}" for problem in error.problems]
        found += [
            f"engine=sparseml: recipe.modifiers.{name} imitates layers, which starts from other "
            "projections there; remove it"
            for name, modifier in recipe.modifiers.items()
            if modifier.takes_teacher == "model"
        ]
        found += [
            f"engine=sparseml: recipe.modifiers.{name} quantizes by scheme, which SparseML cannot "
            "do on the torch of its environment; name submodules instead"
            for name in recipe.modifiers
            if any((recipe.values["modifiers"][name] or {}).get(key) for key in NEWER - {"strict"})
        ]
        found += _training_problems(values["training"])
        if isinstance(values["teacher"].get("checkpoint"), list):
            found.append("engine=sparseml takes one teacher; name one in teacher.checkpoint")
        if (values.get("sweep") or {}).get("trial"):
            found.append("engine=sparseml reports to no search; leave hydra/sweeper=search out")
        if PROCESSES > 1:
            found.append("engine=sparseml trains in one process; run it without torchrun")
        return found


def _training_problems(training: Mapping[str, Any]) -> list[str]:
    """Which of our arguments SparseML's Trainer has no counterpart of."""
    found = []
    if training.get("max_steps", -1) > 0:
        found.append(
            f"engine=sparseml counts epochs only, but training.max_steps is "
            f"{training['max_steps']}; set training.max_steps=-1 and recipe.num_epochs"
        )
    if training.get("resume_from_checkpoint"):
        found.append(
            "engine=sparseml writes no checkpoints; set training.resume_from_checkpoint=null"
        )
    if training.get("precision", "auto") not in ("auto", "fp32"):
        found.append(
            f"engine=sparseml trains in fp32, but training.precision is "
            f"{training['precision']}; set training.precision=fp32"
        )
    if training.get("sparse_products", "auto") == "on":
        found.append(
            "engine=sparseml multiplies zeros too, but training.sparse_products is on; set "
            "training.sparse_products=auto"
        )
    if training.get("tokens_per_batch") is not None:
        found.append(
            "engine=sparseml takes batches of rows, but training.tokens_per_batch is "
            f"{training['tokens_per_batch']}; set it to null"
        )
    return found


def recipe_text(recipe: Recipe) -> str:
    """The resolved recipe in SparseML's language; raises ConfigError for what it has no word for.

    A distillation without weight is left out, since SparseML would ask for its teacher.
    """
    modifiers = {
        name: modifier
        for name, modifier in recipe.modifiers.items()
        if modifier.takes_teacher is None or modifier.needs_teacher
    }
    return to_sparseml(recipe.values, recipe.values, modifiers)


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
