"""SparseML recipes for tests: one in text, the files of `sparseml_recipes/`, and their values."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from project import SPARSEML_RECIPES

from sparsekit.config.plain import plain
from sparsekit.sparseml.recipes.document import parse
from sparsekit.sparseml.recipes.load import load
from sparsekit.sparseml.recipes.native import native

STYLES = sorted(SPARSEML_RECIPES.glob("*.*"))

RECIPE = """
num_epochs: 6
qat_start: eval(num_epochs - 2)
lr: 1e-4
modifiers:
  - !EpochRangeModifier {start_epoch: 0, end_epoch: eval(num_epochs)}
  - !LearningRateFunctionModifier
      {start_epoch: 0, end_epoch: eval(num_epochs), lr_func: linear, init_lr: eval(lr), final_lr: 0}
  - !QuantizationModifier
      start_epoch: eval(qat_start)
      submodules: [bert.encoder]
"""


def loaded(text: str, path: Path, **variables: Any) -> dict[str, Any]:
    """What the launcher makes of a recipe of that text."""
    file = path / "recipe.yaml"
    file.write_text(textwrap.dedent(text))
    return load(str(file), variables)


def of_text(text: str) -> dict[str, Any]:
    return resolved(native(parse(textwrap.dedent(text), "recipe.yaml"), "recipe.yaml"))


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    return plain(OmegaConf.create({"recipe": node}))["recipe"]
