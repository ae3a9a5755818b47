"""A misspelt variable of a recipe does not pass in silence."""

from __future__ import annotations

import re

import pytest
from launching import composed

from sparsekit.config.unread import (
    KEYS,
    PLAIN_GROUPS,
    idle_variables,
    unread_keys,
    unread_variables,
)


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
    cfg = composed("dataset=quickstart", "teacher=finetuned", override)
    found = unread_variables(cfg, [override])
    if problem is None:
        assert found == []
    else:
        (text,) = found
        assert re.search(problem, text)
        assert text.startswith(override)


@pytest.mark.parametrize(
    ("overrides", "idle"),
    [
        (["recipe.obs_frequency=1.0"], []),
        (["recipe.obs_frequency=1.0", "recipe.obs_gradients=0"], ["recipe.obs_frequency=1.0"]),
        (["recipe.pruning_frequency=1"], ["recipe.pruning_frequency=1"]),
        (
            ["recipe.qat_epochs=0", "recipe.observer_epoch=1", "recipe.qat_epochs=0"],
            ["recipe.observer_epoch=1"],
        ),
        (["recipe.hidden_gain=0", "recipe.final_sparsity=0", "recipe.num_epochs=3"], []),
        (["recipe.modifiers.obs.update_frequency=2", "seed=3"], []),
    ],
)
def test_variables_that_only_disabled_modifiers_read(overrides: list[str], idle: list[str]) -> None:
    cfg = composed("dataset=quickstart", "recipe=from_dense", *overrides)
    found = idle_variables(cfg, overrides)
    assert [text.partition(" ")[0] for text in found] == idle
    assert all(re.search(r"only \w+ of recipe\.modifiers reads it", text) for text in found)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ([], None),
        (["teacher=finetuned", "export=none", "runtime=none", "engine=sparseml"], None),
        (["+peak=0.1", "recipe.init_lr=${peak}"], None),
        (["+num_epochs=3"], r"^num_epochs: nothing reads it.*choose from task, dataset"),
        (["+sweep.rerunn=all"], r"^sweep\.rerunn: .*did you mean rerun\?"),
        (["export=none", "+export.form=qdq"], r"^export\.form: .*with this choice of export$"),
    ],
)
def test_keys_that_nothing_reads(overrides: list[str], problem: str | None) -> None:
    cfg = composed("dataset=quickstart", *overrides)
    assert set(KEYS) | {"peak", "num_epochs"} >= set(cfg) >= set(KEYS)
    assert tuple(cfg.sweep)[:4] == PLAIN_GROUPS["sweep"]
    found = unread_keys(cfg)
    assert len(found) == (problem is not None)
    if problem is not None:
        assert re.search(problem, found[0])
