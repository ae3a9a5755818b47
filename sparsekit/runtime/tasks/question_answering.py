"""Question answering: the span of a context that answers a question, found in windows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from tokenizers import Encoding

from sparsekit.errors import UserError
from sparsekit.runtime.encoder import TextEncoder
from sparsekit.runtime.tasks.base import Answer, Answers, Array, Outputs, Row
from sparsekit.runtime.tasks.card import CardParts
from sparsekit.runtime.tasks.visible import visible

Spans = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]

# Spans of one window that are compared with those of the others.
CANDIDATES = 12
EXAMPLE = '--pairs "Write a question here?" "And here a text that answers it."'
INPUTS = '[("Write a question here?", "And here a text that answers it.")]'
CODE = """\
start, end = outputs[0][0].argmax(), outputs[1][0].argmax()
print(tokenizer.decode(rows[0].ids[start : end + 1]))  # of texts that fit into one window"""


@dataclass(kw_only=True)
class QuestionAnsweringAnswers(Answers):
    """`answer`, its `score`, and `start` and `end`, its characters in the context.

    They are what the question-answering pipeline of transformers 4 returns: starts and ends are
    normalized by softmax over the context's tokens of each window and its first token, which stands
    for no answer; spans begin and end with words, and the scores of spans of equal text add up.
    The pipeline's answer begins with the blank that some tokenizers count to a word; here no
    answer begins or ends with a blank.

    doc_stride: the tokens that two successive windows share.
    max_answer_tokens: the tokens of the longest answer.
    unanswerable: whether the answer may be "", with the probability that all windows agree on.
    """

    outputs: ClassVar[tuple[str, ...]] = ("start_logits", "end_logits")
    per_token: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = ("text", "text_pair", "window")
    second_may_be_empty: ClassVar[bool] = False

    pairs: bool | None = True
    doc_stride: int = 128
    max_answer_tokens: int = 15
    unanswerable: bool = False

    def encode(
        self, encoder: TextEncoder, texts: Sequence[str], pairs: Sequence[str | None] | None
    ) -> list[Encoding]:
        contexts = [pair or "" for pair in pairs or [None] * len(texts)]
        for row, context in enumerate(contexts):
            if not context.strip():
                raise UserError(
                    f"question {row + 1} of {len(texts)} has no context: give pairs of a question "
                    "and a text that answers it"
                )
        windows = encoder.encode_windows(texts, contexts, self.doc_stride)
        return [window for each in windows for window in each]

    def encode_table(
        self, encoder: TextEncoder, columns: Mapping[str, Sequence[Any]]
    ) -> list[Encoding]:
        # The first window of a question alone has the context; older tables have it in each row.
        held = [context is not None for context in columns["text_pair"]]
        texts, contexts = (list(compress(columns[name], held)) for name in self.columns[:2])
        windows = encoder.encode_windows(texts, contexts, self.doc_stride)
        found = list(zip(np.cumsum(held) - 1, columns["window"], strict=True))
        for question, window in found:
            if window >= len(windows[question]):
                raise UserError(
                    f"question {question + 1} of the table has {window + 1} windows or more, and "
                    f"{len(windows[question])} here, of {encoder.max_length} tokens: the model "
                    "splits the texts into other tokens than the one that the table is of; choose "
                    "one with the same tokenizer and dataset.max_length"
                )
        return [windows[question][window] for question, window in found]

    def labels(self, encoder: TextEncoder) -> list[str]:
        return []

    def width(self, encoder: TextEncoder) -> int | None:
        return None

    def answers(
        self,
        encoder: TextEncoder,
        rows: Sequence[Row],
        encodings: Sequence[Encoding],
        outputs: Outputs,
    ) -> list[Answer]:
        found, first = [], 0
        for _, context in rows:
            assert context is not None
            # An encoding knows the windows after it.
            last = first + 1 + len(encodings[first].overflowing)
            windows = [
                (starts, ends, word_spans(encoding))
                for starts, ends, encoding in zip(
                    outputs["start_logits"][first:last],
                    outputs["end_logits"][first:last],
                    encodings[first:last],
                    strict=True,
                )
            ]
            found.append(self.best(context, windows)[0])
            first = last
        return found

    def best(self, context: str, windows: Sequence[tuple[Array, Array, Spans]]) -> list[Answer]:
        """The answers in the windows of one context, best first.

        windows: of each the logits of starts and of ends [tokens], and `word_spans` [tokens, 2].
        """
        found: dict[str, Answer] = {}
        nothing = 1.0
        for start_logits, end_logits, spans in windows:
            outside = spans[:, 0] < 0
            counted = ~outside
            counted[0] = True
            starts, ends = _softmax(start_logits, counted), _softmax(end_logits, counted)
            nothing = min(nothing, float(starts[0] * ends[0]))
            starts[outside] = ends[outside] = 0.0
            for first, last, score in best_spans(starts, ends, self.max_answer_tokens):
                if outside[first] or outside[last]:
                    continue
                begin, end = visible(context, int(spans[first, 0]), int(spans[last, 1]))
                if begin == end:
                    continue
                answer = {"answer": context[begin:end], "score": score, "start": begin, "end": end}
                known = found.setdefault(context[begin:end].lower(), answer)
                if known is not answer:
                    known["score"] += score
        answers = list(found.values())
        if self.unanswerable or not answers:
            answers.append({"answer": "", "score": nothing, "start": 0, "end": 0})
        return sorted(answers, key=lambda answer: -answer["score"])

    def columns_of(self, answer: Answer) -> list[str]:
        return [answer["answer"], f"{answer['score']:.3f}", f"{answer['start']}:{answer['end']}"]

    def card(self, labels: Sequence[str], pairs: bool) -> CardParts:
        return CardParts(
            pipeline_tag="question-answering",
            description="a model that finds the answer to a question in a text",
            example=EXAMPLE,
            inputs=INPUTS,
            code=CODE,
            outputs="start_logits and\n  end_logits `[batch, sequence]`",
        )

    def agreement(self, outputs: Outputs, recorded: Outputs) -> str:
        equal = [
            int(np.argmax(ours)) == int(np.argmax(theirs))
            for name in self.outputs
            for ours, theirs in zip(outputs[name], recorded[name], strict=True)
        ]
        return f"{sum(equal)} of {len(equal)} starts and ends equal"


def word_spans(encoding: Encoding) -> Spans:
    """Of each token of the context the characters of its word, [tokens, 2]; -1 of other tokens."""
    spans = np.full((len(encoding), 2), -1, dtype=np.int64)
    words = encoding.word_ids
    context = [sequence == 1 for sequence in encoding.sequence_ids]
    first = 0
    for token in range(len(encoding)):
        new = token == 0 or words[token] != words[token - 1] or not context[token - 1]
        first = token if new else first
        if context[token]:
            # The word as far as the window has it.
            spans[first : token + 1] = encoding.offsets[first][0], encoding.offsets[token][1]
    return spans


def best_spans(
    starts: Probabilities, ends: Probabilities, longest: int
) -> list[tuple[int, int, float]]:
    """The most probable spans of up to `longest` tokens: first token, last token, probability.

    Spans of probability 0 are left out.

    starts, ends: probabilities [tokens].

    >>> best_spans(np.array([0.9, 0.1]), np.array([0.2, 0.8]), 2)[0][:2]
    (0, 1)
    """
    following = sliding_window_view(np.pad(ends, (0, longest - 1)), longest)
    scores = (starts[:, None] * following).ravel()
    count = min(CANDIDATES, len(scores))
    chosen = np.argpartition(-scores, count - 1)[:count]
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    found = []
    # Spans of probability 0 may end beyond the last token.
    for index in chosen[scores[chosen] > 0]:
        first, more = divmod(int(index), longest)
        found.append((first, first + more, float(scores[index])))
    return found


def _softmax(logits: Array, counted: npt.NDArray[np.bool_]) -> Probabilities:
    """Probabilities over the tokens that are counted, 0 of all others."""
    known = np.where(counted, logits.astype(np.float64), -np.inf)
    powers = np.exp(known - known.max())
    probabilities: Probabilities = powers / powers.sum()
    return probabilities
