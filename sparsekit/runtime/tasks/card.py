"""What a model card says of a task."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CardParts:
    """The parts of a model card that depend on the task.

    pipeline_tag: the Hub's name of the task.
    description: continues a sentence that begins with the architecture: "BertModel, ...".
    example: arguments of `sparsekit predict RUN`.
    inputs: what the example in Python passes to `tokenizer.encode_batch`.
    code: the lines of that example after `outputs`, the list of the graph's outputs.
    outputs: names and shapes, after "output float32".
    """

    pipeline_tag: str
    description: str
    example: str
    inputs: str
    code: str
    outputs: str
