"""Models: loading with the head of a task, and pruning at load."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from sparsekit.cache import content_hash, way_out
from sparsekit.config.build import build
from sparsekit.errors import ConfigError, UserError, first_line
from sparsekit.models.hub import fetch, weight_files
from sparsekit.models.pruning import prune
from sparsekit.models.tokenizer import COUNTED_FROM_PADDING, load_tokenizer, pad_as_expected
from sparsekit.shape.choice import Shares
from sparsekit.shape.config import shaped
from sparsekit.shape.shrink import Shrink
from sparsekit.tasks.base import Task

log = logging.getLogger(__name__)

_CHOOSE = "choose an encoder such as a BERT, RoBERTa or DistilBERT"
# Weights that a checkpoint of any task has; a pooler and a head may be new.
_BODY = re.compile(r"\.\d+\.|embeddings\.")


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer and the hash of that tokenizer.

    missing: the names of its weights that a student's checkpoint lacks, so that they are random.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tokenizer_hash: str
    missing: Sequence[str] = ()


# What a config calls the student's checkpoint.
CHECKPOINT = "student.checkpoint"
# And what is removed of it.
SHRINK = "student.shrink"


@dataclass(kw_only=True)
class Student:
    """The model to train.

    checkpoint: a Hub id or a folder.
    sparsity: the share of each layer's weights that is pruned by magnitude as it is loaded.
    shrink: structures that are removed before that; a node whose shares are all 0 removes none.
    """

    checkpoint: str | dict[str, Any]
    sparsity: float | None = None
    revision: str | None = None
    shrink: dict[str, Any] | None = None

    @property
    def shrinking(self) -> Shrink | None:
        """What is removed of the checkpoint before it is trained; raises ConfigError."""
        if self.shrink is None:
            return None
        config: Shrink = build(self.shrink, SHRINK, Shrink)
        return config if config.shares != Shares() else None

    def problems(self) -> list[str]:
        found = []
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            found.append(f"student.sparsity {self.sparsity} lies outside of [0, 1)")
        try:
            config = self.shrinking
        except ConfigError as error:
            return found + error.problems
        return found if config is None else found + config.problems(f"{SHRINK}.")

    def config(self) -> PreTrainedConfig:
        """The checkpoint's config, with the label names that it was trained for.

        Raises UserError for an encoder-decoder, before its weights are downloaded.
        """
        folder = fetch(self.checkpoint, self.revision, weights=False, key=CHECKPOINT)
        config = read_config(folder)
        check_encoder(folder, config)
        return config

    def load(self, task: Task, label_names: Sequence[str]) -> LoadedModel:
        """The model with the task's head for `label_names`, new where the checkpoint has none."""
        folder = fetch(self.checkpoint, self.revision, key=CHECKPOINT)
        loaded, missing = load_for_task(folder, task, label_names)
        check_body(folder, missing)
        if problem := contradiction(folder, task, CHECKPOINT):
            # Training may teach it another setting.
            log.warning("%s", problem)
        if self.sparsity is not None:
            prune(loaded.model, self.sparsity)
        return replace(loaded, missing=missing)


def read_config(folder: Path) -> PreTrainedConfig:
    """The config of the checkpoint in `folder`."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, StrictDataclassError) as error:
        # A value of another type is explained in several lines.
        text = " ".join(str(error).split())
        raise UserError(f"cannot read {folder / 'config.json'}: {text}") from error
    return config


def contradiction(folder: Path, task: Task, name: str) -> str | None:
    """How the files of the checkpoint called `name` contradict the task's settings, if they do."""
    try:
        settings = task.settings_of(folder)
    except UserError as error:
        return f"{name}: {error}"
    wrong = {key: value for key, value in settings.items() if getattr(task, key) != value}
    found = [
        f"{name} was trained with {key}={value}, and dataset.{key} is {getattr(task, key)}, so its "
        f"outputs would differ; set dataset.{key}={value}"
        for key, value in wrong.items()
    ]
    return " and ".join(found) or None


def load_for_task(
    folder: Path, task: Task, label_names: Sequence[str]
) -> tuple[LoadedModel, list[str]]:
    """The model in `folder` with the task's head, and the names of weights that the folder lacks.

    It is in float32. Raises UserError for weights that cannot be read, for a model that cannot be
    trained for the task, and for a `max_length` beyond the model's.
    """
    config = read_config(folder)
    check_encoder(folder, config)
    positions = positions_of(config)
    if positions is not None and task.max_length > positions:
        raise ConfigError(
            [
                f"dataset.max_length {task.max_length} is more than the {positions} positions of "
                f"{folder}; set dataset.max_length={positions} or less"
            ]
        )
    options = task.model_options(label_names, config)
    model, missing = load_weights(
        folder, task.head, task.name, ignore_mismatched_sizes=True, **options
    )
    task.check_model(model.config)
    tokenizer = load_tokenizer(folder, config, task.max_length, embedded_tokens(model))
    pad_as_expected(tokenizer, model)
    # Hashed before its first use, which writes truncation settings into it.
    tokenizer_hash = content_hash([tokenizer.backend_tokenizer.to_str()])
    return LoadedModel(model, tokenizer, tokenizer_hash), missing


def check_body(folder: Path, missing: Sequence[str]) -> None:
    """Raise UserError where `missing`, the weights that `folder` lacks, are not those of a head."""
    if body := [name for name in missing if _BODY.search(name)]:
        raise UserError(
            f"the checkpoint in {folder} lacks the weights {', '.join(body[:4])}, so they would be "
            "random; choose a complete checkpoint"
        )


def check_encoder(folder: Path, config: PreTrainedConfig) -> None:
    """Raise UserError for an encoder-decoder, which answers by texts."""
    if config.is_encoder_decoder:
        raise UserError(f"{folder} is an encoder-decoder, {config.model_type}; {_CHOOSE}")


def load_weights(
    folder: Path, architecture: type[Any], purpose: str, **options: Any
) -> tuple[PreTrainedModel, list[str]]:
    """The model in `folder` in float32 and the names of weights that the folder lacks.

    purpose: what the model is loaded for, in an error message.

    Raises UserError for weights that cannot be read, are quantized, or are of another architecture.
    """
    weights, config = weight_files(folder), read_config(folder)
    if quantization := getattr(config, "quantization_config", None):
        method = dict(quantization).get("quant_method", "an unknown method")
        raise UserError(
            f"the weights in {folder} are quantized by {method}, and training needs float weights: "
            "choose the checkpoint that it was made from; recipes quantize by themselves"
        )
    # A missing head is expected of a student and checked for a teacher, so the report that
    # transformers prints about it is left out.
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        # Chunks change no result, but require lengths that are multiples of theirs.
        options = {"dtype": torch.float32, "chunk_size_feed_forward": 0, **options}
        options["trust_remote_code"] = False
        model, info = shaped(architecture, config).from_pretrained(
            folder, output_loading_info=True, **options
        )
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:
        names = ", ".join(path.name for path in weights)
        raise UserError(
            f"cannot read the weights {names} in {folder}: {first_line(error)}; the file "
            f"may be cut short: {way_out(folder)}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{folder} cannot be loaded for {purpose}: {first_line(error)}; {_CHOOSE}"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    # A weight saved as a transposed view is loaded as one; kernels need contiguous rows.
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(
                f"the weight {name} in {folder} holds NaN or infinite values: training would only "
                f"spread them; {way_out(folder)}"
            )
    missing = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    return model, missing


def embedded_tokens(model: PreTrainedModel) -> int:
    """The number of tokens that the model has an embedding for."""
    return len(cast(nn.Embedding, model.get_input_embeddings()).weight)


def positions_of(config: PreTrainedConfig) -> int | None:
    """The number of positions that the model has; None if it has no limit."""
    positions: int | None = getattr(config, "max_position_embeddings", None)
    # XLNet, whose positions are relative, gives -1.
    if positions is None or positions < 1:
        return None
    if config.model_type in COUNTED_FROM_PADDING:
        return positions - int(config.pad_token_id) - 1
    return positions
