"""`sparsekit.prune`: prunes a model in memory without training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsekit.errors import ConfigError, UserError
from sparsekit.models.pruning import sparsity
from sparsekit.oneshot import methods
from sparsekit.oneshot.given import (
    as_arguments,
    check_model,
    check_settings,
    evaluating,
    given_rows,
    unmeasurable,
)
from sparsekit.oneshot.methods import OneShot, defaults_of
from sparsekit.oneshot.prune import check_layers, check_zeros
from sparsekit.sparsity.prunable import prunable
from sparsekit.tasks.base import Task
from sparsekit.tasks.text_classification import TextClassification

Model = TypeVar("Model", bound=PreTrainedModel)


def prune(
    model: Model,
    sparsity: float | None = None,
    *,
    method: str = "magnitude",
    pattern: str = "unstructured",
    train_dataset: Dataset | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    task: Task | None = None,
    **settings: Any,
) -> Model:
    """Set weights of the model's encoder layers to zero, in place.

    The Linear layers in the stack of transformer layers are pruned; embeddings, pooler and head are
    not. Existing zeros stay. `sparsekit prune` does the same to a checkpoint.

    Args:
        model: a transformers model. `method="obs"` needs a trained classifier.
        sparsity: the share of weights to be zero, as in 0.8; None for an N:M pattern.
        method: `"magnitude"`, `"wanda"` (Sun et al. 2023) or `"obs"` (oBERT, Kurtic et al. 2022).
        pattern: `"unstructured"`, `"block4"`, or N:M, which keeps N of M weights, as in `"2:4"`.
        train_dataset: tokenized rows with labels, on which `wanda` and `obs` measure.
        processing_class: the tokenizer of `train_dataset`, which pads batches.
        task: what the model was trained for, one of `sparsekit.tasks`; by default
            `TextClassification()`.
        settings: fields of `sparsekit.oneshot.methods.OneShot`, such as `global_sparsity`, `rows`
            and `num_grads`.

    Returns:
        The model itself.

    Raises:
        UserError: a setting that does not fit the method, the pattern or the model.

    Example:
        ```python
        model = sparsekit.prune(model, 0.8)
        ```
    """
    check_model(model, "prune")
    config = _config(sparsity, method, pattern, settings)
    task, rows = task or TextClassification(), None
    measurable = train_dataset is not None and processing_class is not None
    if problems := _problems(config, task, measurable):
        raise ConfigError(problems)
    layers = prunable(model)
    _check_model(model, config)
    check_layers(model, layers, config)
    if method != "magnitude":
        assert train_dataset is not None and processing_class is not None
        rows = given_rows(model, task, train_dataset, processing_class)
    with evaluating(model):
        methods.prune(model, layers, rows, config)
    check_zeros(layers, config)
    return model


def _problems(config: OneShot, task: Task, measurable: bool) -> list[str]:
    """What is wrong with the settings; measurable: whether there are rows to measure on."""
    problems = [as_arguments(problem) for problem in config.problems()]
    if config.method != "magnitude":
        needs_loss = config.method == "obs"
        problems += unmeasurable(config.method, task, measurable, needs_loss, "wanda")
    return problems


def _config(
    sparsity: float | None, method: str, pattern: str, settings: Mapping[str, Any]
) -> OneShot:
    """The settings with their defaults; raises UserError for an unknown one."""
    known = OneShot.__dataclass_fields__
    check_settings(settings, known, "prune")
    chosen = {**defaults_of(pattern), **settings}
    return OneShot(sparsity=sparsity, method=method, pattern=pattern, **chosen)


def _check_model(model: PreTrainedModel, config: OneShot) -> None:
    share = sparsity(model)["overall"]
    if share > config.target:
        raise UserError(
            f"the model has {share:.1%} zeros already, more than sparsity={config.target:g}; "
            "existing zeros stay, so set a higher sparsity"
        )
