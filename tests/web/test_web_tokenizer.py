"""The page's tokenizer, run by Node, has the ids of the tokenizers package."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import characters
import pytest
from page_deployment import run_page, write_tokenizer
from sparse_graphs import POSITIONS
from tokenizers import Tokenizer

from sparsekit.web.packed import Tensors, compressed
from sparsekit.web.tokenizer import describe_tokenizer
from sparsekit.web.write import MODEL, PAGE

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    ".,;:!?'\"()[]{}<>@#$%^&*-_=+/\\|~`",
    "\u00e0\u00e9\u00ee\u00f5\u00fc\u00df\u00c5\u0130\u0131\u0141\u03a3\u03c3\u03c2\u01c5\ufb01",
    "\u0430\u0431\u0432\u0439\u0401\u05d0\u05b8\u0627\u064b\u0905\u093e\u0e01\u0e31\u1ea5",
    "\u4e2d\u6587\u3042\u30a2\uac00\ub098\u1100\u1161\uff21\u3000",
    "\u0301\u0308\u0327\u20d2\u0345\ufe0f\u200d",
    "\t\n\r \u00a0\u2003\u2028\u200b\ufeff\u0000\u0007\u001b\u0085\u00ad\ufffd",
    "\U0001f600\U0001f468\U0001f3fd\U0001d400\U00020000\U0002f800\ud7fb\ue000",
    "\u2014\u2018\u2019\u201c\u2026\u20ac\u2122\u00b7\u00bf\u060c\u3002\u2e2e\u2e5d",
]


def vocabulary() -> list[str]:
    """Tokens of one to four letters of every alphabet, as words and as their continuations."""
    generator = random.Random(0)
    pieces = {letter for alphabet in ALPHABETS for letter in alphabet.lower() if letter.strip()}
    for alphabet in ALPHABETS * 30:
        pieces.add("".join(generator.choices(alphabet, k=generator.randint(1, 4))).strip())
    words = sorted(piece for piece in pieces if piece and "\n" not in piece)
    return [*SPECIAL, *words, *(f"##{word}" for word in words)]


def texts(count: int) -> list[str]:
    """Texts of every alphabet, of any characters, and with the special tokens."""
    generator = random.Random(1)
    made = [
        "",
        " ",
        "[CLS] a [SEP][MASK]",
        "[mask] [UNK]x",
        "a" * 101 + " " + "b" * 100,
        "ab " * 200,
    ]
    while len(made) < count:
        words = []
        for _ in range(generator.randint(1, 20)):
            kinds = generator.choices(ALPHABETS, k=generator.randint(1, 3))
            words.append("".join(generator.choice(generator.choice(kinds)) for _ in range(5)))
        if generator.random() < 0.3:
            code = generator.choice(
                [generator.randrange(0xD800), generator.randrange(0xE000, 0x110000)]
            )
            words.append(chr(code))
        if generator.random() < 0.1:
            words.append(generator.choice(SPECIAL))
        made.append(generator.choice(["", " ", " ", "\n"]).join(words))
    return made


def page_ids(deployment: Path, folder: Path, texts: list[str]) -> list[list[int]]:
    tensors = Tensors()
    settings = describe_tokenizer(deployment, tensors)
    page = folder / "page"
    shutil.copytree(PAGE, page)
    (page / MODEL).write_bytes(
        compressed(tensors.file({"tokenizer": settings | {"max_length": POSITIONS}}))
    )
    answer = run_page(page, {"texts": texts, "tokenizer_only": True}, folder)
    assert "error" not in answer, answer
    ids: list[list[int]] = answer["ids"]
    return ids


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lowercase": False},
        {"lowercase": False, "strip_accents": True},
        {"lowercase": True, "strip_accents": False},
        {"handle_chinese_chars": False, "clean_text": False},
    ],
    ids=str,
)
def test_the_ids_of_1000_texts_are_those_of_the_tokenizers_package(
    settings: dict[str, bool], tmp_path: Path
) -> None:
    deployment = tmp_path / "deployment"
    deployment.mkdir()
    (deployment / "config.json").write_text("{}")
    write_tokenizer(deployment, vocabulary(), **settings)
    tokenizer = Tokenizer.from_file(str(deployment / "tokenizer.json"))
    tokenizer.enable_truncation(POSITIONS)
    made = texts(1000)
    expected = [tokenizer.encode(text).ids for text in made]
    found = page_ids(deployment, tmp_path, made)
    wrong = [row for row in zip(made, expected, found, strict=True) if row[1] != row[2]]
    assert not wrong, f"{len(wrong)} of {len(made)}, the first: {wrong[0]}"
    known = [id_ for ids in expected for id_ in ids if id_ != 1]
    assert len(set(known)) > 200, "most are unknown, or nothing is tested"


@pytest.mark.slow
def test_the_classes_of_characters_are_those_of_the_tokenizers_package() -> None:
    assert characters.FILE.read_text(encoding="utf-8") == characters.text()
