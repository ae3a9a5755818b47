"""What is wrong in a SparseML recipe is named, with its place and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest
from sparseml_text import loaded, of_text

from sparsekit.errors import ConfigError, UserError
from sparsekit.sparseml.recipes.document import read
from sparsekit.sparseml.recipes.load import load

# Nine lists, each of nine aliases of the one before: a few bytes that stand for 9**9 values.
LAUGHS = "a0: &a0 [1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("!QuantizatonModifier {start_epoch: 1}", "did you mean QuantizationModifier.*known: ACDC"),
        ("!DistillationModifier {hardnes: 1}", "hardnes: not a field of Dist.*it has .*hardness"),
        ("!EpochRangeModifier {epochs: 1}", "epochs: not a field of EpochRange"),
        ("!QuantizationModifier {submodules: [x], weight_bits: 4}", "weight_bits: 4 .* 8 bits"),
        ("!DistillationModifier {hardness: eval(h)}", "no variable 'h'; there are epochs"),
        ("!DistillationModifier {hardness: eval(print(1))}", "refused: print"),
        (
            "!QuantizationModifier {submodules: [x], end_epoch: 2}",
            "end_epoch: 2 is not supported",
        ),
        (
            "!SetWeightDecayModifier {start_epoch: -2, weight_decay: 0.1}",
            "start_epoch: -2 is -2, be",
        ),
        (
            "!SetWeightDecayModifier {start_epoch: eval(1 - 2), weight_decay: 0.1}",
            "start_epoch: 1 - 2 is -1, before epoch 0; set 0 or more",
        ),
        ("!SetWeightDecayModifier {start_epoch: '1', weight_decay: 0.1}", "is '1'; write a number"),
        ("!MFACPruningModifier {fisher_block_size: null}", "is null: a Fisher without blocks"),
        ("!DistillationModifier 3", "must be followed by its fields"),
        ("3", "3 is not a modifier"),
        ("{DistillationModifier: 3}", "fields of DistillationModifier are 3"),
    ],
)
def test_a_wrong_modifier(line: str, problem: str) -> None:
    text = f"""
        epochs: 3
        modifiers:
          - !EpochRangeModifier {{start_epoch: 0, end_epoch: eval(epochs)}}
          - {line}
        """
    with pytest.raises(UserError, match=problem):
        of_text(text)


def test_every_wrong_modifier_is_named() -> None:
    text = "modifiers:\n  - !EpochRangeModifier {end_epoch: 1}\n  - !A {}\n  - !B {}\n"
    with pytest.raises(ConfigError) as caught:
        of_text(text)
    assert len(caught.value.problems) == 2
    assert "line 3" in caught.value.problems[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1\nb: 2", "line 2, column 2"),
        ("a: 1\n  b: 2", "line 2, column 4"),
        ("a: !!python/object/apply:os.system ['true']", "line 1, column 4"),
        ("---\na: 1\n---\nb: 2\n", "line 3, column 1: but found another document"),
        ("just text", "has no modifiers"),
        ("a: 2020-13-13", "month must be in 1"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: a is in line 1 already"),
        ("modifiers: [!A {x: 1, x: 1}]", "line 1, column 23: x is in line 1 already"),
        ("a: 1", "has no list of modifiers"),
        ("modifiers: &a [*a]", "an alias stands within its own anchor"),
        (LAUGHS, "more than 100000 values"),
        (
            "a: eval(b)\nmodifiers: [!A {x: eval(2 +)}]",
            r"recipe\.yaml: eval\(2 \+\) is not an expression",
        ),
        ("pruning:\n  - !GMPruningModifier {}", "name ends in modifiers.*pruning_modifiers"),
    ],
)
def test_a_file_that_is_not_a_recipe(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        loaded(text, tmp_path)
    assert "recipe.yaml" in str(caught.value) or "pruning_modifiers" in str(caught.value)


def test_line_numbers_in_markdown_are_the_files(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("\n\n---\na: [1\nb: 2\n---\n")
    with pytest.raises(UserError, match="line 5, column 2"):
        read(card)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^there is no recipe file .*none\.yaml$"):
        load(str(tmp_path / "none.yaml"), {})
    with pytest.raises(UserError, match="cannot read the recipe"):
        load(str(tmp_path), {})
    with pytest.raises(UserError, match="SparseZoo is closed"):
        load("zoo:bert-base", {})
