"""The zeros that a recipe plans, looked for in the weights that training left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sparsekit.sparsity.masks import Blocks, NOfM, Pattern


@dataclass(frozen=True, kw_only=True)
class PlannedZeros:
    """At least this share of zeros in the weights of `names` together, or a pattern N:M in each.

    names: of the parameters; pattern: whose blocks the share is rounded to, in each weight.
    """

    names: Sequence[str]
    share: float
    pattern: Pattern = field(default_factory=Blocks)

    def missing(self, weights: Mapping[str, Tensor]) -> str | None:
        """How `weights`, by parameter name, fall short of the plan; None where they do not."""
        if isinstance(self.pattern, NOfM):
            return self._outside(weights, self.pattern)
        total = sum(weights[name].numel() for name in self.names)
        zeros = sum(int((weights[name] == 0).sum()) for name in self.names)
        # Training rounds to whole blocks, in each weight or in all of them together.
        rounding = self.pattern.rows * self.pattern.columns * len(self.names)
        if zeros > self.share * total - rounding:
            return None
        others = f" and {len(self.names) - 1} others" if len(self.names) > 1 else ""
        return (
            f"{zeros / total:.2%} of {self.names[0]}{others} are zero, the recipe plans "
            f"{self.share:.2%}"
        )

    def _outside(self, weights: Mapping[str, Tensor], pattern: NOfM) -> str | None:
        for name in self.names:
            nonzero = (weights[name] != 0).reshape(-1, pattern.group).sum(dim=1)
            if outside := int((nonzero > pattern.kept).sum()):
                return (
                    f"{outside} of {nonzero.numel()} groups of {pattern.group} weights of {name} "
                    f"have more nonzero ones than the {pattern.kept} that the recipe plans"
                )
        return None
