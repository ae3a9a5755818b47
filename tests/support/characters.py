"""Writes sparsekit/web/page/characters.js from what the tokenizers package does to each character.

PYTHONPATH=. .venv/bin/python tests/support/characters.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

import sparsekit.web

FILE = Path(sparsekit.web.__file__).parent / "page" / "characters.js"
CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
TEXT = """// Classes of characters as the tokenizers package has them, in any browser.
// tests/support/characters.py writes this file.

/** Removed from a text. */
export const CONTROL = /[{control}]/gu;
/** Between words. */
export const WHITESPACE = /[{whitespace}]/u;
/** A word each. */
export const PUNCTUATION = /[{punctuation}]/u;
/** Chinese characters, which become a word each. */
export const CHINESE = /[{chinese}]/gu;
/** Accents, which are removed from letters. */
export const MARK = /[{mark}]/gu;
/** What is taken apart into a letter and accents, or into the letters of a syllable. */
export const COMPOSED = /[{composed}]/gu;
"""


def normalizer(**on: bool) -> Callable[[str], str]:
    off = dict.fromkeys(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False)
    found: Callable[[str], str] = BertNormalizer(**off | on).normalize_str
    return found


def character_class(characters: Iterable[str]) -> str:
    """The inside of a class of a regular expression."""
    ranges: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(
        f"\\u{{{first:x}}}" + ("" if first == last else f"-\\u{{{last:x}}}")
        for first, last in ranges
    )


def text() -> str:
    clean, chinese = normalizer(clean_text=True), normalizer(handle_chinese_chars=True)
    strip = normalizer(strip_accents=True)
    split = BertPreTokenizer().pre_tokenize_str

    def words(character: str) -> list[str]:
        return [word for word, _ in split(f"a{character}b")]

    marks = {c for c in CHARACTERS if strip(f"a{c}b") == "ab"}
    classes = {
        "control": [c for c in CHARACTERS if clean(f"a{c}b") == "ab"],
        "whitespace": [c for c in CHARACTERS if words(c) == ["a", "b"]],
        "punctuation": [c for c in CHARACTERS if words(c) == ["a", c, "b"]],
        "chinese": [c for c in CHARACTERS if chinese(c) == f" {c} "],
        "mark": marks,
        "composed": [c for c in CHARACTERS if strip(c) != c and c not in marks],
    }
    found = TEXT
    for name, characters in classes.items():
        found = found.replace(f"{{{name}}}", character_class(characters))
    return found


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
