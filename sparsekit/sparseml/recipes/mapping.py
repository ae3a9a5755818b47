"""The table of SparseML's modifiers and fields and ours, used in both directions.

Field names and defaults are those of SparseML 1.8's pytorch modifiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EPOCH_RANGE = "EpochRangeModifier"
WINDOW = {"start_epoch": "start", "end_epoch": "end"}
# Our names for sets of parameters, and equivalent patterns for SparseML: weights in a numbered
# stack of layers that do not belong to a norm are those of its Linear layers.
PATTERNS = {"__ENCODER__": r"re:(?!.*[Nn]orm).*\.\d+\..*\.weight"}
# They affect logging only.
LOGGING = ("log_types", "constant_logging", "log_frequency")


@dataclass(frozen=True)
class Mapped:
    """How a SparseML modifier corresponds to a native one.

    fields: our names of its fields.
    defaults: its defaults, with our names, where they differ from ours.
    fixed: fields without a counterpart: the values that are accepted, and the fix for others.
    ignored: fields that have no effect on the training of a transformer.
    aliases: older names of a field's values.
    endless: the modifier acts from its start to the end of training, whatever its end_epoch.
    not_null: fields that must not be null, with the fix.
    """

    target: str
    name: str
    group: str
    fields: dict[str, str]
    defaults: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, tuple[tuple[Any, ...], str]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    endless: bool = False
    not_null: dict[str, str] = field(default_factory=dict)

    @property
    def known(self) -> list[str]:
        """Every field of the modifier in SparseML."""
        return sorted({*WINDOW, *self.fields, *self.fixed, *self.ignored, *LOGGING})


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_ALL_GROUPS: dict[str, tuple[tuple[Any, ...], str]] = {
    "param_groups": ((None, []), "remove it: every parameter group gets the value"),
}
_GRADUAL = _same(
    "init_sparsity",
    "final_sparsity",
    "update_frequency",
    "params",
    "leave_enabled",
    "inter_func",
    "mask_type",
)
_FISHER = {**_GRADUAL, **_same("num_grads", "damp", "fisher_block_size", "global_sparsity")}
# Fields of the legacy form of quantization for convolutions and other backends.
_NOT_FOR_TRANSFORMERS = (
    "model_fuse_fn_name",
    "model_fuse_fn_kwargs",
    "freeze_bn_stats_epoch",
    "exclude_batchnorm",
    "quantize_conv_activations",
    "num_calibration_steps",
)
_EIGHT_BITS = "remove it: the exported model has 8 bits"
_OPTIMIZER = "sparsekit.modifiers.optimizer."
_PRUNING = "sparsekit.modifiers.pruning.constant."
_MAGNITUDE = "sparsekit.modifiers.pruning.magnitude."
_TRAINING = "training_modifiers"


def _gradual(target: str, name: str, fields: Mapping[str, str] = _GRADUAL, **more: Any) -> Mapped:
    masks = {"mask_type": {"block": "block4"}}
    return Mapped(target, name, "pruning_modifiers", dict(fields), aliases=masks, **more)


MODIFIERS: dict[str, Mapped] = {
    "LearningRateFunctionModifier": Mapped(
        _OPTIMIZER + "LearningRateFunction",
        "learning_rate",
        _TRAINING,
        _same("lr_func", "init_lr", "final_lr", "cycle_epochs"),
        fixed=_ALL_GROUPS,
        ignored=("update_frequency",),
    ),
    "SetLearningRateModifier": Mapped(
        _OPTIMIZER + "SetLearningRate",
        "set_learning_rate",
        _TRAINING,
        _same("learning_rate"),
        fixed=_ALL_GROUPS,
        endless=True,
    ),
    "LearningRateModifier": Mapped(
        _OPTIMIZER + "LearningRate",
        "learning_rate_steps",
        _TRAINING,
        _same("lr_class", "lr_kwargs", "init_lr"),
        ignored=("update_frequency",),
    ),
    "SetWeightDecayModifier": Mapped(
        _OPTIMIZER + "SetWeightDecay",
        "weight_decay",
        "regularization_modifiers",
        _same("weight_decay"),
        fixed=_ALL_GROUPS,
        endless=True,
    ),
    "TrainableParamsModifier": Mapped(
        "sparsekit.modifiers.trainable.TrainableParams",
        "trainable_params",
        _TRAINING,
        _same("params", "trainable"),
        fixed={"params_strict": ((True, 1), "remove it: a pattern must match a parameter")},
    ),
    "ConstantPruningModifier": Mapped(
        _PRUNING + "ConstantPruning",
        "constant_pruning",
        "constant_modifiers",
        _same("params"),
        ignored=("update_frequency",),
    ),
    "MagnitudePruningModifier": _gradual(_MAGNITUDE + "MagnitudePruning", "pruning"),
    "GMPruningModifier": _gradual(
        _MAGNITUDE + "MagnitudePruning",
        "pruning",
        fixed={
            "global_sparsity": ((False, 0), "write GlobalMagnitudePruningModifier for it"),
            "score_type": (("magnitude",), "write MovementPruningModifier or another for it"),
        },
    ),
    "GlobalMagnitudePruningModifier": _gradual(
        _MAGNITUDE + "GlobalMagnitudePruning",
        "pruning",
        fixed={"global_sparsity": ((True, 1), "write MagnitudePruningModifier for it")},
    ),
    "MovementPruningModifier": _gradual(
        "sparsekit.modifiers.pruning.movement.MovementPruning", "pruning"
    ),
    "OBSPruningModifier": _gradual(
        "sparsekit.modifiers.pruning.obs.OBSPruning",
        "pruning",
        {**_FISHER, **_same("num_recomputations", "grad_sampler_kwargs")},
        # 50 in its docstring, 1 in its constructor.
        defaults={"fisher_block_size": 1},
    ),
    "MFACPruningModifier": _gradual(
        "sparsekit.modifiers.pruning.mfac.MFACPruning",
        "pruning",
        _FISHER,
        ignored=("use_gradient_buffering", "grads_device", "num_pages", "available_devices"),
        not_null={
            "fisher_block_size": "a Fisher without blocks is too large; set it to 2000 for example"
        },
    ),
    "ACDCPruningModifier": _gradual(
        "sparsekit.modifiers.pruning.acdc.ACDCPruning",
        "pruning",
        _same(
            "compression_sparsity",
            "update_frequency",
            "params",
            "global_sparsity",
            "leave_enabled",
            "mask_type",
        ),
        # AdamW has no buffer of that name.
        ignored=("momentum_buffer_reset",),
    ),
    "DistillationModifier": Mapped(
        "sparsekit.modifiers.distillation.logits.Distillation",
        "distillation",
        "distillation_modifiers",
        _same("hardness", "temperature", "distill_output_keys"),
        defaults={"hardness": 0.5},
        fixed={"teacher_input_keys": ((None, []), "remove it: the teacher sees every input")},
        ignored=("update_frequency",),
    ),
    "PerLayerDistillationModifier": Mapped(
        "sparsekit.modifiers.distillation.layers.PerLayerDistillation",
        "layer_distillation",
        "distillation_modifiers",
        _same(
            "gain",
            "teacher_layer_names",
            "student_layer_names",
            "project_features",
            "normalize",
            "epsilon",
        ),
        ignored=("update_frequency",),
    ),
    "QuantizationModifier": Mapped(
        "sparsekit.modifiers.quantization.qat.Quantization",
        "quantization",
        "quantization_modifiers",
        {
            "disable_quantization_observer_epoch": "disable_observer_epoch",
            **_same("submodules", "exclude_module_types", "quantize_embeddings"),
            **_same("quantize_linear_activations", "quantize_embedding_activations"),
            **_same("scheme", "scheme_overrides", "ignore", "strict"),
        },
        endless=True,
        fixed={
            "end_epoch": ((-1,), "remove it: quantization lasts to the end"),
            "reduce_range": ((False, 0), "remove it: integers of 8 bits use their whole range"),
            "activation_bits": ((8,), _EIGHT_BITS),
            "weight_bits": ((8,), _EIGHT_BITS),
            "tensorrt": ((False, 0), "remove it: this is TensorRT's form of a graph"),
            "custom_quantizable_module_types": ((None, []), "remove it"),
            "activation_qconfig_kwargs": ((None, {}), "remove it"),
            "weight_qconfig_kwargs": ((None, {}), "remove it"),
        },
        ignored=_NOT_FOR_TRANSFORMERS,
    ),
}
# SparseML quantizes the outputs of Linear layers unless a legacy recipe says otherwise.
LEGACY = frozenset(
    {
        "submodules",
        "quantize_embeddings",
        "quantize_embedding_activations",
        "quantize_linear_activations",
        "exclude_module_types",
    }
)
NEWER = frozenset({"scheme", "scheme_overrides", "ignore", "strict"})
LEGACY_DEFAULTS = {"quantize_linear_activations": True}
NEWER_DEFAULTS = {"scheme": "default"}


def translated(value: Any, names: Mapping[str, str]) -> Any:
    """The value with each of `names` replaced, also within lists and mappings."""
    if isinstance(value, list):
        return [translated(each, names) for each in value]
    if isinstance(value, Mapping):
        return {key: translated(each, names) for key, each in value.items()}
    return names.get(value, value) if isinstance(value, str) else value
