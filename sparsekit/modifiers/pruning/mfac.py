"""M-FAC: Optimal Brain Surgeon with large Fisher blocks, stored as gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparsekit.modifiers.pruning.obs import SurgeonPruning
from sparsekit.sparsity.fisher import Fisher, GradientFisher


@dataclass(kw_only=True)
class MFACPruning(SurgeonPruning):
    """Matrix-free approximate curvature (Frantar et al., 2021), with SparseML's fields.

    num_grads: the number of gradients, each of one training row; or a map from sparsities to the
        number used from that sparsity on, such as {0.0: 64, 0.5: 128}.

    Takes memory for num_grads values per weight, whatever `fisher_block_size` is.
    """

    damp: float = 1e-5
    fisher_block_size: int = 2000
    global_sparsity: bool = False
    num_grads: int | dict[float, int] = 64

    def problems(self, num_epochs: float) -> list[str]:
        found = super().problems(num_epochs)
        try:
            steps = self._steps()
        except (TypeError, ValueError):
            return [*found, f"num_grads {self.num_grads!r} must be a number, or a map to numbers"]
        if min(steps, default=1.0) > 0:
            found.append(
                f"num_grads {self.num_grads!r} must have the key 0.0, where pruning starts"
            )
        if any(count < 1 for count in steps.values()):
            found.append(f"num_grads {self.num_grads!r} must be 1 or more")
        return found

    def _steps(self) -> dict[float, int]:
        # Keys of a config may be strings.
        if isinstance(self.num_grads, Mapping):
            return {float(share): int(count) for share, count in self.num_grads.items()}
        return {0.0: int(self.num_grads)}

    def gradients(self, sparsity: float) -> int:
        steps = self._steps()
        return steps[max(share for share in steps if share <= sparsity)]

    def empty(self, weights: int) -> Fisher:
        return GradientFisher(self.fisher_block_size)

    def memory(self, weights: int) -> int:
        return 4 * weights * max(self._steps().values())

    @property
    def smaller(self) -> str:
        return f"set fewer num_grads than {max(self._steps().values())}, or prune by OBSPruning"
