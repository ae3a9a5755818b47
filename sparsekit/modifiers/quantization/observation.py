"""Whether any optimizer step falls into the window in which quantizers observe their ranges."""

from __future__ import annotations

import math


def unobserved(start: float, stop: float, num_epochs: float, total_steps: int) -> str | None:
    """A description of the problem if no step lies in the epochs `start <= epoch < stop`.

    Quantizers that observed nothing would be exported with the scale 1 that they begin with, which
    makes most weights zero.
    """
    epochs_per_step = num_epochs / total_steps
    first = int(start / epochs_per_step)
    candidates = range(max(0, first - 1), min(total_steps, first + 3))
    # A step's epoch is computed as in training, so that both agree to the last bit.
    if any(start <= step / total_steps * num_epochs < stop for step in candidates):
        return None
    # A window as long as the distance of two steps holds one. The shipped recipes observe ranges
    # for half of qat_epochs or longer.
    enough = math.ceil(num_epochs / (stop - start))
    longer = min(num_epochs, math.ceil(2 * epochs_per_step * 100) / 100)
    return (
        f"observes its ranges from epoch {start:g} to {stop:g}, but none of the {total_steps} "
        f"optimizer steps, {epochs_per_step:g} epochs apart, lies there, so nothing would be "
        f"quantized: train {enough} steps or more (training.max_steps, or smaller batches), begin "
        f"earlier (in our recipes recipe.qat_epochs={longer:g}), or leave quantization out "
        "(recipe.qat_epochs=0)"
    )
