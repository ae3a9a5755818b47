"""`sparsekit.shrink`: removes structures of a model in memory without training."""

from __future__ import annotations

from typing import Any, TypeVar

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsekit.errors import ConfigError
from sparsekit.oneshot.given import (
    check_model,
    check_settings,
    evaluating,
    given_rows,
    unmeasurable,
)
from sparsekit.shape.blocks import blocks
from sparsekit.shape.ranking import METHODS, rank
from sparsekit.shape.shrink import Shrink
from sparsekit.shape.shrink import shrink as remove_structures
from sparsekit.shape.statistics import measure
from sparsekit.tasks.base import Task
from sparsekit.tasks.text_classification import TextClassification

Model = TypeVar("Model", bound=PreTrainedModel)

# Of a command alone: a latency needs a table of this machine.
_NOT_HERE = ("target",)


def shrink(
    model: Model,
    *,
    heads: float = 0.0,
    neurons: float = 0.0,
    hidden: float = 0.0,
    layers: float = 0.0,
    method: str = "magnitude",
    train_dataset: Dataset | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    task: Task | None = None,
    **settings: Any,
) -> Model:
    """Remove heads, feed-forward neurons, hidden features and layers of a model, in place.

    Its matrices become smaller, and its config says so: see `docs/how-to/shape.md` for what loads a
    saved one. `sparsekit shrink` does the same to a checkpoint.

    Args:
        model: a BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, ELECTRA or MPNet. Methods other
            than `"magnitude"` need a model trained for its task.
        heads: the share of attention heads to remove, at least 0 and less than 1.
        neurons: the share of feed-forward neurons.
        hidden: the share of the hidden width, in all layers.
        layers: the share of whole layers.
        method: `"magnitude"`, `"first_order"` (Michel et al. 2019) or `"obs"` (ZipLM, Kurtic et al.
            2023), which also updates the weights that stay.
        train_dataset: tokenized rows with labels, on which `first_order` and `obs` measure.
        processing_class: the tokenizer of `train_dataset`, which pads batches.
        task: what the model was trained for, one of `sparsekit.tasks`; by default
            `TextClassification()`.
        settings: further fields of `sparsekit.shape.shrink.Shrink`: `global_ranking`, `rows`,
            `seed`.

    Returns:
        The model itself.

    Raises:
        UserError: a share or setting that does not fit the model.

    Example:
        ```python
        model = sparsekit.shrink(model, heads=0.5, neurons=0.75)
        ```
    """
    check_model(model, "shrink")
    check_settings(settings, Shrink.__dataclass_fields__.keys() - _NOT_HERE, "shrink")
    settings |= {"heads": heads, "neurons": neurons, "hidden": hidden, "layers": layers}
    config, task = Shrink(method=method, **settings), task or TextClassification()
    problems = config.problems("")
    if config.measures and method in METHODS:
        has_rows = train_dataset is not None and processing_class is not None
        problems += unmeasurable(method, task, has_rows, True, "magnitude")
    if problems:
        raise ConfigError(problems)
    # Raises UserError for an architecture that cannot be shrunk, before anything is measured.
    blocks(model)
    statistics = None
    with evaluating(model):
        if config.measures:
            assert train_dataset is not None and processing_class is not None
            drawn = given_rows(model, task, train_dataset, processing_class)
            statistics = measure(model, drawn(config.rows, config.seed, 1))
        rankings = rank(model, config.method, statistics)
        remove_structures(model, config, rankings, statistics)
    return model
