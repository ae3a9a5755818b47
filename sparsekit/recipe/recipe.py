"""A recipe: the modifiers of a run, checked, applied at each step, and saved beside the weights."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from sparsekit.config.build import build
from sparsekit.config.plain import plain
from sparsekit.errors import ConfigError, UserError
from sparsekit.modifiers.base import Modifier
from sparsekit.modifiers.distillation.layers import PerLayerDistillation
from sparsekit.modifiers.distillation.logits import Distillation
from sparsekit.modifiers.optimizer import LearningRateSchedule, SetLearningRate, SetWeightDecay
from sparsekit.modifiers.pruning.acdc import ACDCPruning
from sparsekit.modifiers.pruning.gradual import GradualPruning
from sparsekit.modifiers.pruning.masked import Pruning
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.modifiers.trainable import TrainableParams
from sparsekit.recipe.source import values_of_file, values_of_mapping, values_of_text
from sparsekit.sparseml.recipes.load import register_resolvers

M = TypeVar("M", bound=Modifier)
# A slip of the keyboard beyond it: what is done at each epoch could not even be listed.
MOST_EPOCHS = 10_000


@dataclass
class Recipe:
    """The enabled modifiers by name; `values` is the resolved config that they were built from."""

    num_epochs: float
    modifiers: dict[str, Modifier]
    values: dict[str, Any]

    @classmethod
    def build(cls, values: dict[str, Any]) -> Recipe:
        """A recipe from resolved plain values; raises ConfigError with every problem of a field."""
        modifiers, problems = {}, []
        nodes = values.get("modifiers") or {}
        if not isinstance(nodes, Mapping):
            raise ConfigError([f"recipe.modifiers is {reprlib.repr(nodes)}; write NAME: MODIFIER"])
        for name, node in nodes.items():
            if node is None:
                continue
            if not isinstance(node, Mapping) or "_target_" not in node:
                problems.append(f"recipe.modifiers.{name} has no _target_ that names a modifier")
                continue
            try:
                modifier: Modifier = build(dict(node), f"recipe.modifiers.{name}", Modifier)
            except ConfigError as error:
                problems += error.problems
                continue
            if modifier.enabled:
                modifiers[name] = modifier
        num_epochs = values.get("num_epochs")
        if not isinstance(num_epochs, int | float) or not 0 < num_epochs <= MOST_EPOCHS:
            problems.append(
                f"recipe.num_epochs is {reprlib.repr(num_epochs)}; set a number above 0, "
                f"{MOST_EPOCHS} at most"
            )
        if problems:
            raise ConfigError(problems)
        assert isinstance(num_epochs, int | float)
        return cls(num_epochs, modifiers, values)

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """A recipe from a yaml file, native (with interpolations) or as `save` wrote it."""
        register_resolvers()
        try:
            node = OmegaConf.load(path)
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"cannot read the recipe {path}: {error}") from error
        if not isinstance(node, DictConfig) or "num_epochs" not in node:
            raise UserError(f"{path} is no sparsekit recipe: it has no num_epochs at its top level")
        node.pop("metadata", None)
        return cls.build(plain(OmegaConf.create({"recipe": node}))["recipe"])

    @classmethod
    def from_file(cls, path: str | Path, **variables: Any) -> Recipe:
        """A recipe from a file, native or SparseML's, checked.

        Args:
            path: a YAML file, a SparseML recipe (`.yaml` or Markdown), or the name of one of our
                own recipes, as in `Recipe.from_file("pruned90_quant")`.
            variables: values for variables of the recipe, as in `num_epochs=3`. Windows that are
                expressions of a variable move with it.

        Raises:
            UserError: a file that cannot be read or is not a recipe, and a variable that the recipe
                does not have.
            ConfigError: everything that is wrong with the recipe, such as a window that begins
                after `num_epochs`.
        """
        return cls._checked(values_of_file(path, variables))

    @classmethod
    def from_text(cls, text: str, **variables: Any) -> Recipe:
        """A recipe from YAML text, native or SparseML's; otherwise as `from_file`."""
        return cls._checked(values_of_text(text, variables))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **variables: Any) -> Recipe:
        """A native recipe from a mapping of its keys; otherwise as `from_file`.

        >>> recipe = Recipe.from_dict({"num_epochs": 3, "modifiers": {}}, num_epochs=2)
        >>> recipe.num_epochs
        2
        """
        return cls._checked(values_of_mapping(values, variables))

    @classmethod
    def _checked(cls, values: dict[str, Any]) -> Recipe:
        recipe = cls.build(values)
        if problems := recipe.problems(has_teacher=True):
            raise ConfigError(problems)
        return recipe

    def problems(self, has_teacher: bool) -> list[str]:
        """Everything that can be known to be wrong before any download or model load."""
        found = [
            f"recipe.modifiers.{name} {problem}"
            for name, modifier in self.modifiers.items()
            for problem in modifier.problems(self.num_epochs)
        ]
        for kind in (LearningRateSchedule, SetWeightDecay, Quantization):
            found += self._overlaps(kind)
        return found if has_teacher else found + self._missing_teacher()

    def _missing_teacher(self) -> list[str]:
        found = [
            f"recipe.modifiers.{name} distils with hardness {modifier.hardness:g} but "
            "teacher=none; choose a teacher (teacher=self, teacher=finetuned, teacher=checkpoint) "
            "or set its hardness to 0 (in our recipes recipe.distill_hardness=0)"
            for name, modifier in self.modifiers.items()
            if isinstance(modifier, Distillation) and modifier.needs_teacher
        ]
        return found + [
            f"recipe.modifiers.{name} imitates a teacher's layers but teacher=none; choose a "
            "teacher, or remove the modifier"
            for name, modifier in self.modifiers.items()
            if isinstance(modifier, PerLayerDistillation) and modifier.needs_teacher
        ]

    def _overlaps(self, kind: type[Modifier]) -> list[str]:
        named = [(name, m) for name, m in self.modifiers.items() if isinstance(m, kind)]
        fix = "give them windows that do not overlap"
        if kind is Quantization:  # which has no end
            fix = "make one of them, with submodules or scheme_overrides for what differs"
        return [
            f"recipe.modifiers.{a} and recipe.modifiers.{b} are both {kind.__name__} at epoch "
            f"{max(first.start, second.start):g}; {fix}"
            for i, (a, first) in enumerate(named)
            for b, second in named[i + 1 :]
            if _overlap(*sorted((first, second), key=lambda modifier: modifier.start))
        ]

    def attach(self, model: nn.Module) -> None:
        """Prepare the model, once, before the optimizer; raises ConfigError with all problems."""
        problems = []
        # Quantization replaces modules, so it goes first: others keep buffers and hooks in them.
        for name, modifier in sorted(
            self.modifiers.items(), key=lambda item: not isinstance(item[1], Quantization)
        ):
            try:
                modifier.attach(model)
            except ConfigError as error:
                problems += [f"recipe.modifiers.{name}: {text}" for text in error.problems]
        problems = problems or self._pruned_twice() + self._all_frozen(model)
        if problems:
            raise ConfigError(problems)
        self.update(0.0)

    def _pruned_twice(self) -> list[str]:
        pruning = [
            (name, modifier)
            for name, modifier in self.modifiers.items()
            if isinstance(modifier, GradualPruning | ACDCPruning)
        ]
        return [
            f"recipe.modifiers.{a} and recipe.modifiers.{b} prune "
            f"{min(first.names & second.names)} at epoch {max(first.start, second.start):g}; give "
            "them other params or windows that do not overlap"
            for i, (a, first) in enumerate(pruning)
            for b, second in pruning[i + 1 :]
            if first.names & second.names
            and (first.active(second.start) or second.active(first.start))
        ]

    def _all_frozen(self, model: nn.Module) -> list[str]:
        found = []
        for name, modifier in self.modifiers.items():
            if isinstance(modifier, TrainableParams):
                _update(self.of(TrainableParams), modifier.start)
                if not any(parameter.requires_grad for parameter in model.parameters()):
                    when = f"at epoch {modifier.start:g}: every parameter is frozen"
                    found.append(f"recipe.modifiers.{name} leaves nothing to train {when}")
        return found

    def update(self, epoch: float) -> None:
        """Set every modifier to `epoch`; calling it with any epoch in any order is safe."""
        _update(list(self.modifiers.values()), epoch)

    def loss(self, loss: Tensor, inputs: Mapping[str, Tensor], outputs: Any) -> Tensor:
        """The training loss: the task's, changed by each modifier in turn."""
        for modifier in self.modifiers.values():
            loss = modifier.loss(loss, inputs, outputs)
        return loss

    def before_step(self) -> None:
        """Let every modifier see the gradients that the optimizer is about to use."""
        for modifier in self.modifiers.values():
            modifier.before_step()

    def constrain(self) -> None:
        """Restore the masks after an optimizer step."""
        for modifier in self.modifiers.values():
            modifier.constrain()

    def detach(self, model: nn.Module) -> None:
        """Take from the model what was there for training only; the recipe is over."""
        for modifier in self.modifiers.values():
            modifier.detach(model)

    def lr(self, epoch: float, steps_per_epoch: float) -> float | None:
        """The learning rate that the recipe sets at `epoch`; None where it has set none yet.

        After a window it stays where that window left it.
        """
        begun = [m for m in self.of(LearningRateSchedule) if m.start <= epoch]
        if not begun:
            return None
        latest = max(begun, key=lambda modifier: modifier.start)
        if not latest.active(epoch):
            return latest.lr_after(self.num_epochs, steps_per_epoch)
        return latest.lr(epoch, self.num_epochs, steps_per_epoch)

    @property
    def sets_lr(self) -> bool:
        """Whether any modifier sets the learning rate, at any epoch."""
        return bool(self.of(LearningRateSchedule))

    def weight_decay(self, epoch: float) -> float | None:
        """The weight decay that the recipe sets at `epoch`; None where it sets none."""
        active = [m for m in self.of(SetWeightDecay) if m.active(epoch)]
        return max(active, key=lambda modifier: modifier.start).weight_decay if active else None

    def of(self, kind: type[M]) -> list[M]:
        """The modifiers of one kind, in the recipe's order."""
        return [m for m in self.modifiers.values() if isinstance(m, kind)]

    def violations(self, weights: Mapping[str, Tensor]) -> list[str]:
        """What in `weights`, by parameter name, breaks a mask of this run."""
        return [text for m in self.of(Pruning) for text in m.violations(weights)]

    def sparsity(self, epoch: float) -> dict[str, float | None]:
        """The planned sparsity of each group of weights at `epoch`; None: as the weights are.

        A group is a pruning modifier's name, with the pattern of its params where it has several.
        """
        found = {}
        for name, modifier in self.modifiers.items():
            if isinstance(modifier, Pruning):
                planned = modifier.sparsity(epoch)
                for pattern, share in planned.items():
                    found[name if len(planned) == 1 else f"{name}: {pattern}"] = share
        return found

    def save(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the resolved recipe, with what it was run with, as a recipe that `load` reads."""
        text = yaml.safe_dump({**self.values, "metadata": dict(metadata)}, sort_keys=False)
        path.write_text("# The resolved recipe of this run, written by sparsekit.\n" + text)


def _update(modifiers: Sequence[Modifier], epoch: float) -> None:
    # Rounding first: the Fisher is measured through it, by a resumed process too. Those that are on
    # come last: what one puts back at its end another may have changed.
    for m in sorted(modifiers, key=lambda m: (not isinstance(m, Quantization), m.active(epoch))):
        m.update(epoch)


def _overlap(earlier: Modifier, later: Modifier) -> bool:
    # What is set stays only until something else is.
    if isinstance(earlier, SetLearningRate | SetWeightDecay) and earlier.start < later.start:
        return False
    return earlier.active(later.start)
