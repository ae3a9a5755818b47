"""The current names of classes that older configs name by `_target_`.

Saved recipes, config files of users and finished run folders keep working after a class moves.
"""

from __future__ import annotations

from typing import Any

# Old module -> new module and the names that moved from one to the other.
_MOVED = {
    "sparsekit.data": ("sparsekit.data.datasets", ["HubDataset", "FileDataset", "BuiltDataset"]),
    "sparsekit.export.onnx": ("sparsekit.onnx.export", ["ExportConfig"]),
    "sparsekit.models": ("sparsekit.models.loading", ["Student"]),
    "sparsekit.modifiers.acdc": ("sparsekit.modifiers.pruning.acdc", ["ACDCPruning"]),
    "sparsekit.modifiers.distillation": (
        "sparsekit.modifiers.distillation.logits",
        ["Distillation"],
    ),
    "sparsekit.modifiers.layer_distillation": (
        "sparsekit.modifiers.distillation.layers",
        ["PerLayerDistillation"],
    ),
    "sparsekit.modifiers.magnitude": (
        "sparsekit.modifiers.pruning.magnitude",
        ["MagnitudePruning", "GlobalMagnitudePruning"],
    ),
    "sparsekit.modifiers.mfac": ("sparsekit.modifiers.pruning.mfac", ["MFACPruning"]),
    "sparsekit.modifiers.movement": ("sparsekit.modifiers.pruning.movement", ["MovementPruning"]),
    "sparsekit.modifiers.obs": ("sparsekit.modifiers.pruning.obs", ["OBSPruning"]),
    "sparsekit.modifiers.pruning": ("sparsekit.modifiers.pruning.constant", ["ConstantPruning"]),
    "sparsekit.modifiers.quantization": (
        "sparsekit.modifiers.quantization.qat",
        ["Quantization"],
    ),
    "sparsekit.quickstart.checkpoint": ("sparsekit.models.tiny", ["checkpoint"]),
    "sparsekit.quickstart.reviews": ("sparsekit.data.synthetic", ["reviews"]),
    "sparsekit.runtime.benchmark": ("sparsekit.benchmark.requests", ["BenchmarkConfig"]),
    "sparsekit.sparseml_engine": ("sparsekit.pipeline.engines.sparseml", ["SparseML"]),
    "sparsekit.teacher": (
        "sparsekit.models.teacher",
        ["NoTeacher", "Checkpoint", "Finetuned", "Self"],
    ),
    "sparsekit.tracking": ("sparsekit.runs.tracking", ["TrackingConfig"]),
    "sparsekit.training.precision": ("sparsekit.training.arguments", ["SparseTrainingArguments"]),
    "sparsekit.trial_callback": ("sparsekit.sweep.trial", ["ReportTrial"]),
}
OLD_NAMES = {
    f"{old}.{name}": f"{new}.{name}" for old, (new, names) in _MOVED.items() for name in names
}


def current_name(target: Any) -> Any:
    """The current name of a target; names that never moved, and values that are not text, as is.

    >>> current_name("sparsekit.models.Student")
    'sparsekit.models.loading.Student'
    """
    return OLD_NAMES.get(target, target) if isinstance(target, str) else target
