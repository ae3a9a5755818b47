"""Training rows read while training needs them: `dataset.streaming`, `shuffle_buffer`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class Streaming:
    """Whether the training rows are read as a stream, and how they are shuffled.

    Args:
        streaming: read the training rows block by block, as often as `training.max_steps` needs
            them; memory and disk hold one block. The other splits stay tables.
        shuffle_buffer: rows in a block, which are trained on in random order; 0 keeps the order of
            the data set.
    """

    streaming: bool = False
    shuffle_buffer: int = 10_000

    def problems(self) -> list[str]:
        """What is wrong with the values, each with its fix."""
        if self.shuffle_buffer >= 0:
            return []
        return [
            f"dataset.shuffle_buffer is {self.shuffle_buffer}; set a number of rows, or 0 for the "
            "order of the data set"
        ]
