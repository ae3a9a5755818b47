"""Whether a teacher numbers its classes in another order than the data does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# An accuracy this many standard deviations below chance cannot be an accident.
SURE = 4.0


def below_chance(accuracy: float, rows: int, classes: int) -> bool:
    """Whether guessing would be better: by so much that `rows` rows leave no doubt.

    >>> below_chance(0.02, 100, 2), below_chance(0.45, 100, 2)
    (True, False)
    """
    chance = 1 / classes
    return accuracy < chance - SURE * math.sqrt(chance * (1 - chance) / rows)


def fitting_order(
    logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> tuple[list[int], float]:
    """The order of the classes with the highest accuracy, and that accuracy.

    logits: [rows, classes], labels: [rows]. Class i of the data is `order[i]` of the logits: the
    assignment of classes to logits that maximizes the number of correct rows.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, logits.argmax(axis=1), labels=np.arange(logits.shape[1]))
    true, predicted = linear_sum_assignment(counts, maximize=True)
    return predicted.tolist(), float(counts[true, predicted].sum() / len(labels))


def order_problem(
    name: str,
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    class_names: Sequence[str],
) -> str | None:
    """Why the teacher `name` cannot teach, if its accuracy lies far below chance.

    logits: its outputs [rows, classes] on the validation split, in the order of `class_names`.
    """
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    if not below_chance(accuracy, len(labels), len(class_names)):
        return None
    order, best = fitting_order(logits, labels)
    # What each of its outputs means, in the order of the outputs.
    meant = [class_names[order.index(index)] for index in range(len(order))]
    return (
        f"the teacher {name!r} has an accuracy of {accuracy:.1%} on the validation split, far "
        f"below the {1 / len(class_names):.1%} of guessing: its labels are not the data's in this "
        f"order. It would have {best:.1%} if what is taken for {', '.join(class_names)} were "
        f"{', '.join(meant)}; correct id2label in its config.json so, or choose another teacher"
    )
