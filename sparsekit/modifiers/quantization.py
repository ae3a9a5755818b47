"""Quantization-aware training: the last epochs see the rounding that int8 deployment brings."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from sparsekit.config import ConfigError
from sparsekit.modifiers.base import Modifier
from sparsekit.modifiers.fake_quantize import FakeQuantizer, QuantEmbedding, QuantLinear


@dataclass(kw_only=True)
class Quantization(Modifier):
    """Int8 weights and uint8 activations for Linear and Embedding layers, from `start` on.

    Ranges are moving averages, frozen at `disable_observer_epoch` (null: never). As in SparseML
    that freezes what the `submodules` hold; a layer that `submodules` names itself, such as
    `classifier`, goes on observing, since SparseML swaps it for a wrapper that it does not freeze.
    `submodules` limits it to those modules and what they hold (empty: the whole model),
    `exclude_module_types` skips classes by name, `quantize_linear_activations` adds a quantizer
    to each Linear's output, `per_channel_weights` gives each output channel a scale of its own.
    """

    disable_observer_epoch: float | None = None
    submodules: list[str] = field(default_factory=list)
    exclude_module_types: list[str] = field(default_factory=list)
    quantize_embeddings: bool = True
    quantize_linear_activations: bool = False
    per_channel_weights: bool = False

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        if self.disable_observer_epoch is not None and self.disable_observer_epoch <= self.start:
            found.append(
                f"disable_observer_epoch {self.disable_observer_epoch:g} is not after start "
                f"{self.start:g}, so no range would ever be observed; set recipe.observer_epoch "
                f"> {self.start:g}"
            )
        return found

    def attach(self, model: nn.Module) -> None:
        self._frozen: list[FakeQuantizer] = []
        self._never_frozen: list[FakeQuantizer] = []
        self.modules: list[str] = []
        problems = []
        for name in self.submodules or [""]:
            try:
                root = model.get_submodule(name)
            except AttributeError:
                children = ", ".join(child for child, _ in model.named_children())
                problems.append(f"submodules: the model has no {name!r}; it has {children}")
                continue
            self._convert(model, name, root)
        if not problems and not self.modules:
            problems.append(f"submodules {self.submodules}: no Linear or Embedding to quantize")
        if problems:
            raise ConfigError(problems)

    def _convert(self, model: nn.Module, name: str, module: nn.Module) -> None:
        if type(module).__name__ in self.exclude_module_types:
            return
        quantized: nn.Module
        if isinstance(module, nn.Linear):
            quantized = QuantLinear(
                module, self.per_channel_weights, bool(self.quantize_linear_activations)
            )
        elif isinstance(module, nn.Embedding) and self.quantize_embeddings:
            quantized = QuantEmbedding(module)
        else:
            for child, below in list(module.named_children()):
                self._convert(model, f"{name}.{child}" if name else child, below)
            return
        parent, _, attribute = name.rpartition(".")
        quantized.train(module.training)
        quantized.to(module.weight.device)
        setattr(model.get_submodule(parent), attribute, quantized)
        quantizers = self._never_frozen if name in self.submodules else self._frozen
        quantizers += [m for m in quantized.modules() if isinstance(m, FakeQuantizer)]
        self.modules.append(name)

    def update(self, epoch: float) -> None:
        self.on = self.active(epoch)
        self.observing = self.on and (
            self.disable_observer_epoch is None or epoch < self.disable_observer_epoch
        )
        for quantizer in self._frozen:
            quantizer.enabled, quantizer.observing = self.on, self.observing
        for quantizer in self._never_frozen:
            quantizer.enabled, quantizer.observing = self.on, self.on
