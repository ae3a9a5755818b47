"""Regression: a number for each text, or for each pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from tokenizers import Encoding

from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.tasks.base import Answer, Answers, Outputs, Row
from sparsekit.runtime.tasks.card import CardParts
from sparsekit.runtime.tasks.text_classification import (
    EXAMPLE,
    INPUTS,
    PAIR_EXAMPLE,
    PAIR_INPUTS,
)


class RegressionAnswers(Answers):
    """`score`, the number."""

    raw_scores: ClassVar[bool] = True

    def answers(
        self,
        encoder: TextEncoder,
        rows: Sequence[Row],
        encodings: Sequence[Encoding],
        outputs: Outputs,
    ) -> list[Answer]:
        return [{"score": float(value)} for value in np.asarray(outputs["logits"])[:, 0]]

    def labels(self, encoder: TextEncoder) -> list[str]:
        return []

    def relevance(self, answer: Answer) -> float:
        return float(answer["score"])

    def columns_of(self, answer: Answer) -> list[str]:
        return [f"{answer['score']:.4f}"]

    def card(self, labels: Sequence[str], pairs: bool) -> CardParts:
        return CardParts(
            pipeline_tag="text-ranking" if pairs else "text-classification",
            description=f"which gives {'two texts' if pairs else 'a text'} a number",
            example=PAIR_EXAMPLE if pairs else EXAMPLE,
            inputs=PAIR_INPUTS if pairs else INPUTS,
            code="print(outputs[0][:, 0])",
            outputs="logits\n  `[batch, 1]`",
        )

    def agreement(self, outputs: Outputs, recorded: Outputs) -> str:
        ours, theirs = (np.asarray(each["logits"])[:, 0] for each in (outputs, recorded))
        return f"largest difference {float(np.abs(ours - theirs).max()):.2g}"
