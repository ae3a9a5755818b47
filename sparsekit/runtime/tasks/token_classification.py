"""Token classification: a label for each word, and from these entities with offsets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tokenizers import Encoding

from sparsekit.errors import UserError
from sparsekit.metrics.entities import OUTSIDE, split_tag
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.tasks.base import Answer, Answers, Array, Output, Outputs, Row, flat
from sparsekit.runtime.tasks.card import CardParts
from sparsekit.runtime.tasks.text_classification import softmax

EXAMPLE = '"Write a text of your own here."'
INPUTS = '["Write a text of your own here.", "And a second one here."]'
CODE = """\
labels = {labels}
for row, best in zip(rows, outputs[0].argmax(axis=-1)):
    print([(token, labels[index]) for token, index in zip(row.tokens, best)])\
"""


@dataclass(kw_only=True)
class TokenClassificationAnswers(Answers):
    """`entities`: of each its `entity` (type), `score`, `start`, `end` (characters) and `text`.

    The first token of a word labels the word, as in training. Neighbouring words of one type are
    one entity, unless the later one begins another (B-); its score is the mean of its words'
    probabilities. So transformers' pipeline aggregates with `aggregation_strategy="first"`.
    """

    per_token: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = ("tokens",)

    pairs: bool | None = False

    def encode(
        self, encoder: TextEncoder, texts: Sequence[str], pairs: Sequence[str | None] | None
    ) -> list[Encoding]:
        if any(pair is not None for pair in pairs or ()):
            raise UserError("this model labels the words of single texts: give no pairs")
        return encoder.encode(texts)

    def encode_table(
        self, encoder: TextEncoder, columns: Mapping[str, Sequence[Any]]
    ) -> list[Encoding]:
        return encoder.encode_words(columns["tokens"])

    def answers(
        self,
        encoder: TextEncoder,
        rows: Sequence[Row],
        encodings: Sequence[Encoding],
        outputs: Outputs,
    ) -> list[Answer]:
        return [
            {"entities": entities(text, encoding, softmax(logits), encoder.labels)}
            for (text, _), encoding, logits in zip(rows, encodings, outputs["logits"], strict=True)
        ]

    def single(self, answer: Answer) -> Any:
        return answer["entities"]

    def predictions(self, answer: Answer) -> list[Any]:
        found: list[Any] = answer["entities"]
        return found

    def collected(self, answers: Sequence[Answer]) -> dict[str, Any]:
        return {"predictions": [answer["entities"] for answer in answers]}

    def columns_of(self, answer: Answer) -> list[str]:
        found = [
            f"{e['entity']} {e['start']}:{e['end']} {e['score']:.3f} {e['text']}"
            for e in answer["entities"]
        ]
        return ["; ".join(found) or "-"]

    def card(self, labels: Sequence[str], pairs: bool) -> CardParts:
        return CardParts(
            pipeline_tag="token-classification",
            description=f"which labels the words of a text with {', '.join(labels)}",
            example=EXAMPLE,
            inputs=INPUTS,
            code=CODE.format(labels=json.dumps(list(labels))),
            outputs="logits\n  `[batch, sequence, labels]`",
        )

    def agreement(self, outputs: Outputs, recorded: Outputs) -> str:
        ours, theirs = (_labels(each["logits"]) for each in (outputs, recorded))
        return f"{int((ours == theirs).sum())} of {len(ours)} token labels equal"


def entities(
    text: str, encoding: Encoding, probabilities: Array, labels: Sequence[str]
) -> list[Answer]:
    """The entities of a text, in order.

    probabilities: [tokens, labels] of the tokens of `encoding`.
    """
    groups: list[tuple[str, list[tuple[int, int, float]]]] = []
    last = ""
    for start, end, label, score in _words(encoding, probabilities, labels):
        prefix, kind = split_tag(label)
        if label == OUTSIDE:
            last = ""
        elif kind == last and prefix != "B":
            groups[-1][1].append((start, end, score))
        else:
            groups.append((kind, [(start, end, score)]))
            last = kind
    return [
        {
            "entity": kind,
            "score": float(np.mean([score for *_, score in words])),
            "start": words[0][0],
            "end": words[-1][1],
            "text": text[words[0][0] : words[-1][1]],
        }
        for kind, words in groups
    ]


def _words(
    encoding: Encoding, probabilities: Array, labels: Sequence[str]
) -> list[tuple[int, int, str, float]]:
    """Start, end, label and probability of each word; its first token decides."""
    words: list[tuple[int, int, str, float]] = []
    last = None
    for token, word in enumerate(encoding.word_ids):
        start, end = encoding.offsets[token]
        if word is None:
            continue
        if word == last:
            first = words[-1]
            words[-1] = (first[0], end, *first[2:])
        else:
            best = int(probabilities[token].argmax())
            words.append((start, end, labels[best], float(probabilities[token][best])))
        last = word
    return words


def _labels(output: Output) -> Any:
    return flat(output).argmax(axis=-1)
