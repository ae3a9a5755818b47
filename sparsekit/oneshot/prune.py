"""Writes a pruned copy of a checkpoint, completely or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import transformers
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from sparsekit.data.labels import id2label, is_generic, matching_order
from sparsekit.errors import ConfigError, UserError
from sparsekit.models.hub import fetch
from sparsekit.models.inspection import inspect
from sparsekit.models.loading import (
    check_encoder,
    embedded_tokens,
    load_weights,
    positions_of,
    read_config,
)
from sparsekit.models.saving import own_names
from sparsekit.models.tokenizer import load_tokenizer
from sparsekit.oneshot import methods
from sparsekit.oneshot.calibration import TextCollator, draw, read
from sparsekit.oneshot.methods import OneShot
from sparsekit.sparsity.prunable import nothing_prunable, prunable
from sparsekit.sparsity.surgeon import Draw, Layers

# The files of a checkpoint besides its weights: tokenizer, settings of generation and pooling.
_BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model")


@dataclass(frozen=True, kw_only=True)
class Data:
    """A csv or json file for calibration.

    max_length: null truncates texts to 128 tokens, or to the model's positions if it has fewer.
    """

    file: Path
    text_columns: list[str]
    label_column: str = "label"
    max_length: int | None = None


def prune_checkpoint(source: str, output: Path, config: OneShot, data: Data | None) -> None:
    """Write a pruned copy of `source` (run folder, model folder, Hub id) to the folder `output`.

    Raises UserError, for wrong settings before anything is read; `output` then does not exist.
    """
    problems = config.problems()
    if config.method != "magnitude" and data is None:
        problems.append(f"--method {config.method} measures on texts: add --data FILE.csv")
    if output.exists():
        problems.append(f"--output {output} exists already; remove it or choose another folder")
    if problems:
        raise ConfigError(problems)
    folder = _dense_folder(source, config)
    architecture = read_config(folder)
    if config.method != "magnitude":
        # Its decoder would need texts too.
        check_encoder(folder, architecture)
    model, missing = load_weights(folder, _architecture(architecture), "pruning")
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    layers = prunable(model)
    check_layers(model, layers, config)
    batches = None
    if config.method != "magnitude":
        assert data is not None
        batches = _calibration(folder, model, missing, config, data)
    methods.prune(model, layers, batches, config)
    check_zeros(layers, config)
    with _whole(output) as target:
        for pattern in _BESIDE_WEIGHTS:
            for path in folder.glob(pattern):
                if not path.name.endswith(".index.json"):
                    shutil.copyfile(path, target / path.name)
        with own_names(model):
            model.cpu().save_pretrained(target)
        record = {"source": source, **asdict(config), "data": str(data.file) if data else None}
        (target / "pruning.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _dense_folder(source: str, config: OneShot) -> Path:
    """The checkpoint's folder; raises UserError where it is quantized or too sparse already."""
    inner = Path(source).expanduser() / "model"
    folder = fetch(str(inner) if inner.is_dir() else source)
    inspected = inspect(str(folder))
    if any(layer.weights.startswith("int8") for layer in inspected.layers):
        raise UserError(f"{source} is quantized already; prune the model before it is quantized")
    if inspected.sparsity > config.target:
        raise UserError(
            f"{source} has {inspected.sparsity:.1%} zeros already, more than --sparsity "
            f"{config.target:g}; existing zeros stay, so set a higher sparsity"
        )
    return folder


def _architecture(config: PreTrainedConfig) -> type[PreTrainedModel] | type[AutoModel]:
    """The class of the checkpoint's model, so that its copy keeps every head."""
    for name in config.architectures or []:
        kind = getattr(transformers, name, None)
        if isinstance(kind, type) and issubclass(kind, PreTrainedModel):
            return kind
    return AutoModel


def check_layers(model: PreTrainedModel, layers: Layers, config: OneShot) -> None:
    """Raise UserError where no layer can be pruned, or the pattern does not divide one."""
    if problem := nothing_prunable(model):
        raise UserError(problem)
    problems = [
        f"--pattern {config.pattern} does not divide {name} of shape {tuple(layer.weight.shape)}; "
        "use --pattern unstructured"
        for name, layer in layers.items()
        if not config.mask_pattern.divides(layer.weight.shape)
    ]
    if problems:
        raise ConfigError(problems)


def _calibration(
    folder: Path, model: PreTrainedModel, missing: list[str], config: OneShot, data: Data
) -> Draw:
    """A function that draws batches from the file's rows, with labels in the model's order."""
    limit = positions_of(model.config)
    max_length = min(128, limit or 128) if data.max_length is None else data.max_length
    if limit is not None and max_length > limit:
        raise UserError(
            f"--max-length {max_length} is more than the {limit} positions of {folder}; set "
            f"{limit} or less"
        )
    labelled = config.method == "obs"
    rows = read(data.file, data.text_columns, data.label_column, max_length, labelled)
    if config.method == "obs":
        kind = type(model).__name__
        if missing or not rows.task.is_head(kind):
            raise UserError(
                f"--method obs needs the loss of a trained classifier, and {folder} is "
                f"{'one without ' + ', '.join(missing[:3]) if missing else 'a ' + kind}; "
                "fine-tune it first, or use --method wanda"
            )
        theirs = id2label(model.config)
        order = matching_order(rows.label_names, theirs)
        if order is not None:
            rows = rows.task.with_model_labels(rows, theirs)
        elif len(theirs) != len(rows.label_names) or not is_generic(theirs):
            raise UserError(
                f"--data {data.file} has the labels {', '.join(rows.label_names)}, but "
                f"{folder} has {', '.join(theirs.values())}; use the data of its task"
            )
    tokenizer = load_tokenizer(folder, max_length, embedded_tokens(model))
    collate = TextCollator(rows.task, tokenizer, model.device)
    return partial(draw, rows.splits["train"], collate)


def check_zeros(layers: Layers, config: OneShot) -> None:
    """Raise RuntimeError, a bug in sparsekit, where fewer weights are zero than requested."""
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers.values())
    size = sum(layer.weight.numel() for layer in layers.values())
    # Each layer is exact to half a block of weights.
    if zeros < config.target * size - 4 * len(layers):
        raise RuntimeError(f"{zeros} of {size} weights are zero, not {config.target:.1%}")


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """A folder to write to, which is renamed to `output` when the block ends without error."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.rename(output)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
