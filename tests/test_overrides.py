"""A misspelt variable of a recipe does not pass in silence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from sparsekit.overrides import unread_variables

CONF = Path(__file__).resolve().parents[1] / "conf"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("recipe.distill_hardness=0.5", None),
        ("recipe.num_epochs=3", None),
        ("recipe.quantize_embeddings=false", None),
        ("+recipe.modifiers.pruning.end=3", None),
        ("teacher.recipe.init_lr=0.1", None),
        ("seed=3", None),
        ("+recipe.hardness=0.5", "reads hardness.*that are read: .*distill_hardness"),
        ("++recipe.qat_epoch=3", "reads qat_epoch,"),
        ("+teacher.recipe.qat_epochs=2", "reads qat_epochs.*: final_lr, init_lr, weight_decay$"),
    ],
)
def test_variables_that_nothing_reads(override: str, problem: str | None) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["dataset=quickstart", "teacher=finetuned", override])
    found = unread_variables(cfg, [override])
    if problem is None:
        assert found == []
    else:
        (text,) = found
        assert re.search(problem, text)
        assert text.startswith(override)
