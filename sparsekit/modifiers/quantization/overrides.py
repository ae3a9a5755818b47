"""Quantization schemes for parts of a model, named by module or by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsekit.modifiers.quantization.scheme import Scheme, parse_scheme


@dataclass(frozen=True)
class Overrides:
    """One scheme for the whole model, and others by name.

    scheme: as `parse_scheme` takes it.
    by_name: schemes by the name of a module, which includes everything below it, or of a class.
        The longest name wins, a class comes last; `default` and null are `scheme`.
    """

    scheme: str | dict[str, Any] | None
    by_name: Mapping[str, Any]

    def scheme_of(self, name: str, module: nn.Module) -> Scheme:
        """The scheme of the module `name`."""
        keys = [key for key in self.by_name if _matches(key, name, module)]
        # A class name comes last, however long it is.
        key = max(keys, key=lambda key: (key != type(module).__name__, len(key)), default=None)
        return parse_scheme(self.scheme) if key is None else self._named(key)

    def _named(self, key: str) -> Scheme:
        scheme = self.by_name[key]
        return parse_scheme(self.scheme if scheme in (None, "default") else scheme)

    def useless(self, model: nn.Module) -> list[str]:
        """A problem for each name in which there is no layer to quantize.

        Names that match no module at all are another problem, which a recipe may allow.
        """
        modules = dict(model.named_modules())
        matching = [
            key for key in self.by_name if any(_matches(key, *each) for each in modules.items())
        ]
        layers = {n: m for n, m in modules.items() if isinstance(m, nn.Linear | nn.Embedding)}
        return [
            f"scheme_overrides: there is no Linear or Embedding layer in {key}, and no other is "
            "quantized; remove it, or set its input_activations and output_activations to null"
            for key in matching
            if not any(_matches(key, *layer) for layer in layers.items())
            for scheme in [self._named(key)]
            if scheme.inputs or scheme.outputs
        ]


def _matches(key: str, name: str, module: nn.Module) -> bool:
    """Whether a module has the name `key`, is below the module of that name, or of that class."""
    return f"{name}.".startswith(f"{key}.") or type(module).__name__ == key
