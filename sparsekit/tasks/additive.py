"""The base class of tasks whose metrics are computed from sums over their units."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sparsekit.runtime.tasks.base import Outputs
from sparsekit.tasks.base import Labels, Scores, Task


class AdditiveTask(Task):
    """A task that says what each unit (a row, or a question's windows) adds to its metrics.

    A bootstrap draws these numbers. It would otherwise decode the outputs for each of its samples.
    """

    @abstractmethod
    def unit_sums(
        self, outputs: Outputs, labels: Labels, label_names: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """What each unit adds to the sums that the metrics are computed from, [units, sums].

        Units are in the order of their first rows, see `Task.unit`.
        """

    @abstractmethod
    def scores_of(self, sums: npt.NDArray[np.float64]) -> Scores:
        """The metrics of some units, from the sum of their `unit_sums`, [sums]."""

    def score(self, outputs: Outputs, labels: Labels, label_names: Sequence[str]) -> Scores:
        return self.scores_of(self.unit_sums(outputs, labels, label_names).sum(axis=0))
