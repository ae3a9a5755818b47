"""YAML of a few hundred bytes that would expand without end is refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsekit.config.yaml_limits import MOST_LEVELS, check_yaml
from sparsekit.errors import UserError
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder

BOMB = "num_epochs: 1\na0: &a0 [x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)
DEEP = "num_epochs: " + "[" * 200_000
CASES = [(BOMB, "holds more than"), (DEEP, "nests more than"), ("num_epochs: &a [*a]", "more than")]


@pytest.mark.parametrize(("text", "message"), CASES, ids=["aliases", "levels", "itself"])
def test_every_reader_of_yaml_has_the_limits(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        Recipe.from_file(file)
    with pytest.raises(UserError, match=message):
        Recipe.from_text(text)
    with pytest.raises(UserError, match=message):
        Recipe.load(file)
    with pytest.raises(UserError, match=message):
        _ = RunFolder(tmp_path).config


def test_ordinary_aliases_and_levels_pass() -> None:
    check_yaml("a: &a [1, 2]\nb: [*a, *a]\n", "it")
    check_yaml("[" * MOST_LEVELS + "]" * MOST_LEVELS, "it")
    with pytest.raises(UserError, match="it nests more than"):
        check_yaml("[" * (MOST_LEVELS + 1) + "]" * (MOST_LEVELS + 1), "it")
