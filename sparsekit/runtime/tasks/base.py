"""The contract of a task's torch-free half."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from sparsekit.errors import UserError
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.tasks.card import CardParts

Array = npt.NDArray[np.float32]
# Of each row: [rows, ...], or one array [tokens, ...] a row where the task has outputs per token.
Output = Array | list[Array]
Outputs = Mapping[str, Output]
Answer = dict[str, Any]
# A text and its pair, if it has one.
Row = tuple[str, str | None]


def flat(output: Output) -> Array:
    """The outputs of all rows, or of all tokens of all rows, in one array."""
    return np.concatenate(output) if isinstance(output, list) else output


@dataclass(kw_only=True)
class Answers(ABC):
    """How the outputs of an exported model become answers.

    Its fields are written to the deployment's `task.json`, so they must be plain values.

    outputs: the names of the graph's outputs, which are those of the model in transformers.
    per_token: whether outputs have one entry for each token, [batch, tokens, ...]; otherwise they
        have one for each row, [batch, ...].
    columns: the columns of `evaluation/*.parquet` that `encode_table` reads.
    raw_scores: whether the `score` of an answer is the model's own number, not a probability.
    pairs: whether a row is a pair of texts; None: unknown, so that both are answered.
    second_may_be_empty: whether the second text of a pair may be empty.
    """

    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    per_token: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    second_may_be_empty: ClassVar[bool] = True
    raw_scores: ClassVar[bool] = False

    pairs: bool | None = None

    def encode(
        self, encoder: TextEncoder, texts: Sequence[str], pairs: Sequence[str | None] | None
    ) -> list[Encoding]:
        """The tokens of each text, or of each text and its pair, as a user gives them."""
        for row, pair in enumerate(pairs or [None] * len(texts)):
            if self.pairs is not None and (pair is not None) != self.pairs:
                where = f"text {row + 1} of {len(texts)}"
                if self.pairs:
                    raise UserError(
                        f"{where} has no second text, and the model was trained on pairs; give "
                        "pairs, whose second text may be empty"
                    )
                raise UserError(
                    f"{where} has a second text, and the model was trained on single texts; give "
                    "single texts"
                )
        return encoder.encode(texts, pairs)

    def encode_table(
        self, encoder: TextEncoder, columns: Mapping[str, Sequence[Any]]
    ) -> list[Encoding]:
        """The tokens of each row of an evaluation table, as the model read them in training."""
        return encoder.encode(columns["text"], columns["text_pair"])

    def width(self, encoder: TextEncoder) -> int | None:
        """The size of the outputs' last axis; None where any size is right."""
        return len(encoder.labels)

    @abstractmethod
    def answers(
        self,
        encoder: TextEncoder,
        rows: Sequence[Row],
        encodings: Sequence[Encoding],
        outputs: Outputs,
    ) -> list[Answer]:
        """The answer to each of `rows`, a text and its pair, as a JSON object."""

    def ranked(self, answer: Answer, top_k: int | None) -> Any:
        """What `sparsekit.Pipeline` returns of an answer: the best `top_k` where it has several."""
        if top_k != 1:
            raise UserError(f"top_k is {top_k}; this model gives one answer: leave top_k out")
        return self.single(answer)

    def single(self, answer: Answer) -> Any:
        """What `sparsekit.Pipeline` returns of an answer of a task that gives one alone."""
        return answer

    def labels(self, encoder: TextEncoder) -> list[str]:
        """The names of the labels that answers may have; empty where they have none."""
        return list(encoder.labels)

    def predictions(self, answer: Answer) -> list[Any]:
        """What `/predict` of `sparsekit serve` answers: labels with their `score`, or others."""
        return [answer]

    def collected(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """What `sparsekit serve` answers as DeepSparse Server does: lists with an entry a text."""
        return {"predictions": list(answers)}

    def similarities(self, query: Answer, others: Sequence[Answer]) -> list[float]:
        """How similar the text of each answer is to that of `query`, larger for more similar."""
        raise UserError(
            "the model was not trained for embeddings, so that it cannot compare texts: leave out "
            "--similar"
        )

    def relevance(self, answer: Answer) -> float:
        """By what `sparsekit predict --rank` orders the answers to pairs, the largest first."""
        raise UserError("the model gives pairs of texts no number to order them by: drop --rank")

    @abstractmethod
    def columns_of(self, answer: Answer) -> list[str]:
        """What `sparsekit predict` prints of an answer before its text, a column each."""

    @abstractmethod
    def card(self, labels: Sequence[str], pairs: bool) -> CardParts:
        """What the model card says of a model with these labels that reads single texts or pairs.

        Its examples are no texts of the data, which may be private.
        """

    @abstractmethod
    def agreement(self, outputs: Outputs, recorded: Outputs) -> str:
        """How many answers two sets of outputs share, in words."""
