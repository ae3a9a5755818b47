"""From texts to token ids, with the tokenizer and label names of a deployment folder."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from sparsekit.errors import UserError, first_line, parse_json
from sparsekit.runtime.base import Inputs

# The inputs of a tokenizer whose settings name none.
_TYPED = ("token_type_ids",)
# The labels of a config without names of them.
UNNAMED = {"0": "LABEL_0", "1": "LABEL_1"}


class WrongText(UserError):
    """What is wrong with one of several texts, `row` (from 0)."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def most_question_tokens(room: int, stride: int) -> int:
    """The tokens that a question may have, so that its context can be read in windows.

    Each window has to read at least a sixteenth of its room anew: a model would read a context in
    as many windows as it has tokens.

    room: the tokens of a window without special ones; stride: those that two windows share.

    >>> most_question_tokens(381, 128)
    230
    """
    return room - stride - max(1, room // 16)


class TextEncoder:
    """The tokenizer in `folder` (`tokenizer.json`, `tokenizer_config.json`, `config.json`).

    Texts longer than `model_max_length` are truncated; batches are padded to their longest text, on
    the side that `padding_side` names. Any number of threads may encode.
    """

    def __init__(self, folder: Path) -> None:
        config = read_json(folder / "config.json")
        settings = read_json(folder / "tokenizer_config.json")
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UserError(f"there is no {file}; export the run again: sparsekit export RUN")
        try:
            self.labels = label_names(config)
            self.max_length = int(min(settings["model_max_length"], _positions(config)))
            self._padding = int(config.get("pad_token_id") or 0)
            self.typed = "token_type_ids" in settings.get("model_input_names", _TYPED)
            self._padding_type = int(settings.get("pad_token_type_id") or 0) * self.typed
            self._left = settings.get("padding_side") == "left"
            self._tokenizer = Tokenizer.from_file(str(file))
            # A tokenizer that cuts contexts into windows, by the tokens that two of them share.
            self._windowing: dict[int, Tokenizer] = {}
            self._tokenizer.enable_truncation(
                self.max_length, direction=settings.get("truncation_side", "right")
            )
        except Exception as error:  # tokenizers has no exception class of its own
            raise UserError(
                f"cannot read the tokenizer and the labels in {folder}: {type(error).__name__}: "
                f"{first_line(error)}; the files were changed or truncated: export the run again"
            ) from error
        self._tokenizer.no_padding()

    def encode(
        self, texts: Sequence[str], pairs: Sequence[str | None] | None = None
    ) -> list[Encoding]:
        """The tokens of each text, or of each text and its pair.

        A second text may be empty, as in a message with a subject and no body. Raises UserError for
        an empty list, and for text that is empty or not UTF-8.
        """
        _check_texts(texts, pairs)
        rows = [
            text if pair is None else (text, pair)
            for text, pair in zip(texts, pairs or [None] * len(texts), strict=True)
        ]
        encodings: list[Encoding] = self._tokenizer.encode_batch(rows)
        return encodings

    def encode_words(self, rows: Sequence[Sequence[str]]) -> list[Encoding]:
        """The tokens of texts that are split into words already, and joined here by blanks.

        Raises UserError for an empty list, a row without words, and a word that is not UTF-8.
        """
        if not rows:
            raise UserError("there are no texts: pass at least one")
        for row, words in enumerate(rows):
            if not words:
                raise UserError(f"text {row + 1} of {len(rows)} has no words; write a text")
            for word in words:
                _check_encoding(word, f"a word of text {row + 1} of {len(rows)}")
        texts = [" ".join(words) for words in rows]
        encodings: list[Encoding] = self._tokenizer.encode_batch(texts)
        return encodings

    def encode_windows(
        self, questions: Sequence[str], contexts: Sequence[str], stride: int
    ) -> list[list[Encoding]]:
        """The windows of each question and its context; two successive ones share `stride` tokens.

        Raises WrongText for a question that leaves no room for a context that has to be cut.
        """
        _check_texts(questions, contexts)
        self._check_room(questions, contexts, stride)
        tokenizer = self._windowing.get(stride)
        if tokenizer is None:
            # Of its own, since a setting that is changed would be changed for every thread.
            tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
            tokenizer.enable_truncation(self.max_length, stride=stride, strategy="only_second")
            self._windowing[stride] = tokenizer
        found = tokenizer.encode_batch(list(zip(questions, contexts, strict=True)))
        return [[encoding, *encoding.overflowing] for encoding in found]

    def _check_room(self, questions: Sequence[str], contexts: Sequence[str], stride: int) -> None:
        alone = self._tokenizer.encode_batch(list(questions), add_special_tokens=False)
        room = self.max_length - self._tokenizer.num_special_tokens_to_add(True)
        most = most_question_tokens(room, stride)
        for row, question in enumerate(alone):
            if len(question) <= most:
                continue
            context = self._tokenizer.encode(contexts[row], add_special_tokens=False)
            if len(question) + len(context) > room:
                raise WrongText(
                    row,
                    f"question {row + 1} of {len(alone)} has {len(question)} tokens or more; where "
                    f"windows of {self.max_length} tokens share {stride}, there is room for {most} "
                    "beside a long context: shorten the question or the context",
                )

    def batch(self, encodings: Sequence[Encoding]) -> Inputs:
        """The three inputs of BERT-like models, int64 [batch, longest].

        Every token has type 0 where the tokenizer's settings leave token types out of
        `model_input_names`.
        """
        shape = (len(encodings), max(len(encoding) for encoding in encodings))
        ids = np.full(shape, self._padding, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        types = np.full(shape, self._padding_type, dtype=np.int64)
        for row, encoding in enumerate(encodings):
            tokens = self.tokens(len(encoding), shape[1])
            ids[row, tokens] = encoding.ids
            mask[row, tokens] = encoding.attention_mask
            if self.typed:
                types[row, tokens] = encoding.type_ids
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}

    def tokens(self, length: int, width: int) -> slice:
        """Where the `length` tokens of a row lie among the `width` of its batch."""
        return slice(width - length, width) if self._left else slice(length)


def _positions(config: Mapping[str, Any]) -> float:
    """The number of positions that the model has; infinite where it has no limit, or gives -1."""
    positions: float = config.get("max_position_embeddings") or np.inf
    return positions if positions > 0 else np.inf


def _check_texts(texts: Sequence[str], pairs: Sequence[str | None] | None) -> None:
    """Raise UserError for an empty list, and for text that is empty or not UTF-8."""
    if not texts:
        raise UserError("there are no texts: pass at least one")
    for row, text in enumerate(texts):
        where = f"text {row + 1} of {len(texts)}"
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where} is empty: {reprlib.repr(text)}; write a text")
        _check_encoding(text, where)
        if pairs is not None and (pair := pairs[row]) is not None:
            if not isinstance(pair, str):
                raise UserError(
                    f"the pair of {where} is not text: {reprlib.repr(pair)}; write a text"
                )
            _check_encoding(pair, f"the pair of {where}")


def _check_encoding(text: str, where: str) -> None:
    if not is_utf8(text):
        raise UserError(f"{where} is not UTF-8: {text[:60]!r}; convert it")


def is_utf8(text: str) -> bool:
    r"""Whether UTF-8 has every character of `text`; it has no halves of surrogate pairs.

    >>> is_utf8("\U0001f3ac"), is_utf8("\ud83c")
    (True, False)
    """
    try:
        text.encode()  # hundreds of times as fast as a look at each character
    except UnicodeEncodeError:
        return False
    return True


def label_names(config: Mapping[str, Any]) -> list[str]:
    """The labels in the order of the logits, from the content of `config.json`.

    transformers does not write the names of two unnamed labels.

    >>> label_names({"id2label": {"0": "no", "1": "yes"}}), label_names({})
    (['no', 'yes'], ['LABEL_0', 'LABEL_1'])
    """
    names = config.get("id2label", UNNAMED)
    return [names[str(index)] for index in range(len(names))]


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file; raises UserError where there is none."""
    try:
        values = parse_json(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is not a mapping")
    except (FileNotFoundError, NotADirectoryError) as error:
        folder = file.parent
        if not folder.exists():
            raise UserError(f"there is no folder {folder}") from error
        below = [*folder.glob("*/deployment"), *folder.glob("*/*/deployment")]
        fix = "export the run first: sparsekit export RUN"
        if below:
            fix = f"give the folder of a run, such as {below[0].parent}"
        raise UserError(f"there is no {file}: not a deployment folder; {fix}") from error
    except (ValueError, IsADirectoryError) as error:
        raise UserError(f"{file} is not JSON ({error}); export the run again") from error
    return values
