"""The check that the saved weights have the zeros that the run's recipe plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from sparsekit.errors import UserError, parse_json
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder


def check_planned_zeros(run: RunFolder, summary: Mapping[str, Any], model: PreTrainedModel) -> str:
    """Compare `model`, the run's as it was saved, with the recipe; returns what was found.

    Masks themselves are not saved: shares of zeros are compared, and patterns N:M. Raises UserError
    naming the layers that have fewer zeros.
    """
    recipe = Recipe.load(run.model_recipe)
    epoch = _last_epoch(run, summary, recipe.num_epochs)
    plans = recipe.planned_zeros(model, epoch, _pruned_at_load(run))
    weights = dict(model.named_parameters())
    missing = [text for plan in plans if (text := plan.missing(weights))]
    if missing:
        raise UserError(
            f"check 'masks' failed in {run.model}: {'; '.join(missing)}; the weights or the recipe "
            "were changed: train again"
        )
    found = "the saved weights have the zeros that it plans" if plans else "it plans no zeros"
    if recipe.resizes:
        found = "zeros not compared, structures were removed"
    return f"{epoch:g} epochs; {found}"


def _last_epoch(run: RunFolder, summary: Mapping[str, Any], num_epochs: float) -> float:
    """The epoch at which training ended, which a callback may have stopped earlier."""
    try:
        steps = summary["train"]["steps"]
        total = parse_json(run.schedule.read_bytes())["total_steps"]
        return float(min(steps / total, 1) * num_epochs)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return num_epochs


def _pruned_at_load(run: RunFolder) -> float:
    """The share of zeros in each prunable layer before training, 0 if the config does not say."""
    nodes = [run.config.get(name) for name in ("student", "training")]
    student, training = (node if isinstance(node, Mapping) else {} for node in nodes)
    share = student.get("sparsity")
    if training.get("resume_despite_changes") or not isinstance(share, float):
        return 0.0
    return share
