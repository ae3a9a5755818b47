"""The checks of a finished run that need no torch: what `sparsekit verify` does without [train]."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsekit.errors import UserError
from sparsekit.models.inspection import inspect
from sparsekit.onnx.files import DEPLOYED, source_files
from sparsekit.onnx.sums import check_listed, check_sums
from sparsekit.runs.folder import RunFolder
from sparsekit.runtime.answers import predict_outputs
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.evaluation_table import as_outputs, read_columns, read_texts
from sparsekit.runtime.onnxruntime import OnnxRuntime
from sparsekit.runtime.tasks.base import Output, flat
from sparsekit.runtime.tasks.file import read_task
from sparsekit.system import cores

# Shares are quotients of the same integers: only their rounding may differ.
TOLERANCE = 1e-9
# The logits of one graph differ between CPUs where a rounding falls the other way; those of another
# model differ by about their spread.
SPREAD = 0.1


def verify_files(run: RunFolder, summary: Mapping[str, Any]) -> dict[str, str]:
    """Check the files of `run` against their sums, and the model against what `summary` claims.

    Returns the result of each check by its name. Raises UserError naming the file or the check that
    failed.
    """
    if not isinstance(summary.get("export"), Mapping):
        raise UserError(f"{run} has no deployment to verify; export it first: sparsekit export RUN")
    found = describe_failure(run, summary) | {
        "files": f"{check_files(run)} unchanged since the export",
        "sparsity": f"{_check_sparsity(run, summary):.2%} in the weights",
        "logits": _check_logits(run),
    }
    check_summary(run)
    return found


def check_files(run: RunFolder) -> int:
    """Check that the files are those of the export, none added; returns how many there are.

    Raises UserError naming the file.
    """
    files = check_sums(run.path) + check_sums(run.deployment)
    check_listed(run.path, source_files(run))
    below = list(run.deployment.rglob("*"))
    if links := [path for path in below if path.is_symlink()]:
        raise UserError(
            f"{run.deployment} is not what was exported: {links[0].name} is a link; remove it, or "
            "export again: sparsekit export RUN"
        )
    check_listed(run.deployment, filter(Path.is_file, below))
    for name in DEPLOYED:
        original, copy = run.model / name, run.deployment / name
        if original.is_file() != copy.is_file() or (
            copy.is_file() and original.read_bytes() != copy.read_bytes()
        ):
            raise UserError(
                f"check 'copies' failed: {copy} differs from {original}; export again: "
                "sparsekit export RUN"
            )
    return files


def check_summary(run: RunFolder) -> None:
    """Raise UserError where a value of `summary.json` is not what the run wrote.

    After all other checks, which name the value: what they compute again cannot be forged, and the
    rest (seed, times, environment) is known by the sum in the file alone.
    """
    if not run.summary_intact:
        raise UserError(
            f"check 'summary' failed: a value in {run.summary_file} was changed after the run "
            "wrote it; restore the file, or train again"
        )


def describe_failure(run: RunFolder, summary: Mapping[str, Any]) -> dict[str, str]:
    """The failure of a run whose files can still be verified; empty for a completed run."""
    if summary.get("status") == "completed":
        return {}
    reason = str(summary.get("error") or "summary.json has no status completed").partition("\n")[0]
    if not mapping(summary, "metrics"):
        raise UserError(
            f"{run} failed before its model was evaluated, so model/ may be an earlier run's: "
            f"{reason}; run it again"
        )
    return {"run": f"FAILED, after its model was evaluated: {reason}"}


def mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """`values[name]`, empty where it is missing or null; raises UserError if not a mapping."""
    found = values.get(name) or {}
    if not isinstance(found, Mapping):
        raise UserError(f"summary.json was changed: {name} is {found!r}, it must be a mapping")
    return found


def _check_sparsity(run: RunFolder, summary: Mapping[str, Any]) -> float:
    """The share of zeros in the weights; raises UserError where the summary has another."""
    sparsity = inspect(str(run.path)).sparsity
    recorded = mapping(summary, "sparsity").get("overall")
    if not isinstance(recorded, int | float) or abs(sparsity - recorded) > TOLERANCE:
        raise UserError(
            f"check 'sparsity' failed: it is {sparsity}, summary.json says {recorded}; the summary "
            "or the run was changed: train or export again"
        )
    return sparsity


def _check_logits(run: RunFolder) -> str:
    """The exported model's outputs on the validation split, against those that torch gave."""
    file, answers = run.evaluation("validation"), read_task(run.deployment)
    columns = read_columns(file, answers.outputs)
    recorded = as_outputs(columns, answers.outputs, answers.per_token)
    texts = read_texts(file, answers.columns, "to verify the model on")
    encoder = TextEncoder(run.deployment)
    runtime = OnnxRuntime(run.graph, cores())
    encodings = answers.encode_table(encoder, texts)
    outputs = predict_outputs(runtime, answers, encoder, encodings)
    means = [_difference(file, name, outputs[name], recorded[name]) for name in answers.outputs]
    agreement = answers.agreement(outputs, recorded)
    return f"{max(means):.2g} from torch's on average; {agreement}"


def _difference(file: Path, name: str, output: Output, recorded: Output) -> float:
    """The mean difference of an output; raises UserError where it is that of another model."""
    ours, theirs = flat(output), flat(recorded)
    if ours.shape != theirs.shape:
        raise UserError(
            f"check '{name}' failed: {file} holds {name} of shape {theirs.shape}, the model "
            f"answers {ours.shape}: they are of two models; export again: sparsekit export RUN"
        )
    mean, limit = float(np.abs(ours - theirs).mean()), SPREAD * float(theirs.std())
    if not mean <= limit:
        raise UserError(
            f"check '{name}' failed: the exported {name} differ from torch's by {mean:.2g} on "
            f"average, the limit is {limit:.2g}: the model is not the one that was evaluated; "
            "export again: sparsekit export RUN"
        )
    return mean
