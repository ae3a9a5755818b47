"""Quantization-aware training: the last epochs run with the rounding of int8 deployment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn
from transformers import PreTrainedModel

from sparsekit.errors import ConfigError
from sparsekit.modifiers.base import Modifier, overlap
from sparsekit.modifiers.quantization.attention import attentions, quantize_attention
from sparsekit.modifiers.quantization.fake_quantize import (
    FakeQuantizer,
    QuantEmbedding,
    QuantLinear,
)
from sparsekit.modifiers.quantization.observation import unobserved
from sparsekit.modifiers.quantization.observers import Observer, observer_problems
from sparsekit.modifiers.quantization.overrides import Overrides
from sparsekit.modifiers.quantization.scheme import Activations, Scheme, Weights, parse_scheme
from sparsekit.sparsity.used import used_layers


@dataclass(kw_only=True)
class Quantization(Modifier):
    """Int8 weights and uint8 activations for Linear and Embedding layers, from `start` on.

    It has no end, because a model that is exported in int8 must be evaluated in int8: `end` is null
    or the end of training. Ranges are moving averages, frozen at `disable_observer_epoch` (null:
    never). Logs `quantizers_on` and `observers_on`, 0 or 1.

    weight_observer, activation_observer: what is averaged of each step: minmax, the smallest and
        the largest value; mse, the part of that range whose rounding has the least squared error;
        percentile (activations only), without the outermost values.
    observer_percentile: of percentile, the share of values within the range on each side, in
        percent.

    Layers that the model's outputs do not depend on are left out, and so are subclasses of Linear
    and Embedding, such as Gemma's scaled embedding: they do more than a matmul or a lookup.

    What is quantized is given in one of two dialects, both SparseML's. The first:

    submodules: only these modules with everything below them; empty: every Linear and Embedding
        layer of the model, whatever its architecture.
    exclude_module_types: class names of modules that are left out.
    quantize_embeddings: Embedding layers too, their weights and outputs.
    quantize_embedding_activations: quantize the output of each Embedding.
    quantize_linear_activations: quantize the output of each Linear.
    per_channel_weights: a scale for each output channel.
    quantize_attention: the two matmuls of attention too; their observer is minmax.

    As in SparseML, the ranges of a layer that `submodules` names itself, such as `classifier`, are
    never frozen.

    The second:

    scheme: default, deepsparse, tensorrt, or a map (see `parse_scheme`), for the whole model.
    scheme_overrides: schemes by the name of a module, which includes everything below it, or of a
        class. The longest name wins, a class comes last; `default` and null are `scheme`.
    ignore: names of classes or modules that are left out.
    strict: a name of these two that the model does not have is an error.
    """

    kind: ClassVar[str] = "quantization"
    # It replaces modules in which other modifiers keep buffers and hooks; and what they measure,
    # such as the Fisher information, they measure through its rounding.
    order: ClassVar[int] = -1
    counted_back_by: ClassVar[str | None] = "recipe.qat_epochs"

    disable_observer_epoch: float | None = None
    weight_observer: str = "minmax"
    activation_observer: str = "minmax"
    observer_percentile: float = 99.999
    submodules: list[str] = field(default_factory=list)
    exclude_module_types: list[str] = field(default_factory=list)
    quantize_embeddings: bool = True
    quantize_embedding_activations: bool = True
    quantize_linear_activations: bool = False
    per_channel_weights: bool = False
    quantize_attention: bool = False
    scheme: str | dict[str, Any] | None = None
    scheme_overrides: dict[str, Any] = field(default_factory=dict)
    ignore: list[str] = field(default_factory=list)
    strict: bool = True

    def __post_init__(self) -> None:
        self._note = ""

    @property
    def by_scheme(self) -> bool:
        """Whether the second dialect is used."""
        return self.scheme is not None or bool(self.scheme_overrides or self.ignore)

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if self.end is not None and self.start < self.end < num_epochs:
            found.append(
                f"ends at epoch {self.end:g}, before training does at {num_epochs:g}: the model "
                "would be evaluated in float32, and exported in int8 with the ranges of before; "
                "set end: null"
            )
        if self.disable_observer_epoch is not None and self.disable_observer_epoch <= self.start:
            found.append(
                f"disable_observer_epoch {self.disable_observer_epoch:g} is not after start "
                f"{self.start:g}, so no range would ever be observed; set it (in our recipes "
                f"recipe.observer_epoch) > {self.start:g}"
            )
        found += observer_problems(
            self.weight_observer, self.activation_observer, self.observer_percentile
        )
        legacy = ("submodules", "exclude_module_types", "quantize_linear_activations")
        mixed = [name for name in (*legacy, "per_channel_weights") if getattr(self, name)]
        if not self.quantize_embedding_activations:
            mixed.append("quantize_embedding_activations")
        if self.by_scheme and mixed:
            found.append(
                f"{', '.join(mixed)} and scheme, scheme_overrides or ignore are two ways to say "
                "what is quantized; use one"
            )
        for name, scheme in {"scheme": self.scheme, **self.scheme_overrides}.items():
            try:
                parse_scheme(scheme)
            except ValueError as error:
                found.append(f"{name}: {error}")
        return found

    def conflict(self, other: Modifier) -> str | None:
        if not isinstance(other, Quantization) or not overlap(self, other):
            return None
        # Windows that do not overlap are no way out: quantization does not end.
        return (
            f"are both Quantization at epoch {max(self.start, other.start):g}; make one of them, "
            "with submodules or scheme_overrides for what differs"
        )

    def final_from(self, num_epochs: float) -> float:
        return self.start

    def step_problems(self, num_epochs: float, total_steps: int) -> list[str]:
        if self.problems(num_epochs):
            return []
        ends = (self.disable_observer_epoch, self.end, num_epochs)
        stop = min(end for end in ends if end is not None)
        problem = unobserved(self.start, stop, num_epochs, total_steps)
        return [] if problem is None else [problem]

    def attach(self, model: nn.Module) -> None:
        self._frozen: list[FakeQuantizer] = []
        self._never_frozen: list[FakeQuantizer] = []
        self.modules: list[str] = []
        self._used = used_layers(model)
        problems = self._unknown_names(model)
        problems += Overrides(self.scheme, self.scheme_overrides).useless(model)
        modules = dict(model.named_modules())
        for name in self.submodules:
            if name not in modules:
                children = ", ".join(child for child, _ in model.named_children())
                problems.append(
                    f"submodules: the model has no {name!r}; name some of {children}, or set [] "
                    "for the whole model"
                )
        if problems:
            raise ConfigError(problems)
        for name in self.submodules or [""]:
            self._convert(model, name, modules[name])
        if not self.modules and any(isinstance(m, FakeQuantizer) for m in model.modules()):
            problems.append(
                "the model has the quantizers of an earlier training, which ended or was stopped; "
                "load the model anew, and resume from a checkpoint to go on with that training"
            )
        elif self.quantize_attention:
            problems += self._convert_attention(model)
        linears = [
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name in self._used
        ]
        quantized = sum(isinstance(module, QuantLinear) for module in linears)
        self._note = f"{quantized} of {len(linears)} Linear layers"
        if not problems and not self.modules:
            problems.append(f"submodules {self.submodules}: no Linear or Embedding to quantize")
        if problems:
            raise ConfigError(problems)

    def _convert_attention(self, model: nn.Module) -> list[str]:
        found = {
            name: module
            for name, module in attentions(model).items()
            if self._contains(name) and not {name, type(module).__name__} & {*self._skipped}
        }
        if not isinstance(model, PreTrainedModel) or not found:
            return [
                "quantize_attention: there is no attention here that transformers calls by name, "
                "as BERT, RoBERTa, DistilBERT and ELECTRA have it; set quantize_attention=false"
            ]
        self._frozen += quantize_attention(model, found)
        self.modules += found
        return []

    def _contains(self, name: str) -> bool:
        # Whether a module is one of `submodules` or below one.
        return not self.submodules or any(
            f"{name}.".startswith(f"{root}.") for root in self.submodules
        )

    @property
    def _skipped(self) -> list[str]:
        return [*self.exclude_module_types, *self.ignore]

    def _unknown_names(self, model: nn.Module) -> list[str]:
        known = {name for name, _ in model.named_modules()}
        known |= {type(module).__name__ for module in model.modules()}
        found = [
            f"exclude_module_types: {name!r} is neither a class of the model's modules nor one of "
            "torch.nn; correct it, or remove it"
            for name in self.exclude_module_types
            # One recipe serves models with a LayerNorm and models without.
            if name not in known and not hasattr(nn, name)
        ]
        if not (self.by_scheme and self.strict):
            return found
        return found + [
            f"{name!r} is neither a module nor a class of the model; correct it in ignore or "
            "scheme_overrides, or set strict=false"
            for name in (*self.ignore, *self.scheme_overrides)
            if name not in known
        ]

    def _scheme_of(self, name: str, module: nn.Module) -> Scheme | None:
        # The scheme of a layer; None leaves it in float32.
        if not isinstance(module, nn.Linear | nn.Embedding):
            return None
        if self.by_scheme:
            return Overrides(self.scheme, self.scheme_overrides).scheme_of(name, module)
        outputs = Activations() if self.quantize_linear_activations else None
        if isinstance(module, nn.Embedding):
            outputs = Activations() if self.quantize_embedding_activations else None
        return Scheme(Activations(), Weights(self.per_channel_weights), outputs)

    def _convert(self, model: nn.Module, name: str, module: nn.Module) -> None:
        if name in self.ignore or type(module).__name__ in self._skipped:
            return
        scheme = self._scheme_of(name, module) if name in self._used else None
        quantized: nn.Module
        if type(module) is nn.Linear and scheme is not None:
            quantized = QuantLinear(module, scheme)
        elif type(module) is nn.Embedding and scheme is not None:
            if not self.quantize_embeddings:
                return
            quantized = QuantEmbedding(module, scheme)
        else:
            for child, below in list(module.named_children()):
                self._convert(model, f"{name}.{child}" if name else child, below)
            return
        parent, _, attribute = name.rpartition(".")
        quantized.train(module.training)
        quantized.to(module.weight.device)
        setattr(model.get_submodule(parent), attribute, quantized)
        quantizers = self._never_frozen if name in self.submodules else self._frozen
        for child, each in quantized.named_children():
            if isinstance(each, FakeQuantizer):
                each.observer = self._observer(child)
                quantizers.append(each)
        self.modules.append(name)

    def _observer(self, quantizer: str) -> Observer:
        of_weights = quantizer == "weight_quantizer"
        name = self.weight_observer if of_weights else self.activation_observer
        return Observer(name, self.observer_percentile)

    def active(self, epoch: float) -> bool:
        # At the end of training too, where the model is evaluated.
        return epoch >= self.start

    def update(self, epoch: float) -> None:
        self.on = self.active(epoch)
        self.observing = self.on and (
            self.disable_observer_epoch is None or epoch < self.disable_observer_epoch
        )
        for quantizer in self._frozen:
            quantizer.enabled, quantizer.observing = self.on, self.observing
        for quantizer in self._never_frozen:
            quantizer.enabled, quantizer.observing = self.on, self.on

    @property
    def reads_all_tokens(self) -> bool:
        # The deployed model computes every token, so ranges are observed over all of them.
        return self.on

    @property
    def quantized_modules(self) -> Sequence[str]:
        return self.modules

    @property
    def note(self) -> str:
        return self._note

    def logs(self) -> Mapping[str, float]:
        return {"quantizers_on": float(self.on), "observers_on": float(self.observing)}
