"""The model card: what the deployed model is, its measurements, and how to run it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import yaml

from sparsekit.config.yaml_limits import check_yaml
from sparsekit.data.profile_table import markdown
from sparsekit.errors import UserError, first_line
from sparsekit.onnx.card_metadata import dataset_name, metadata
from sparsekit.onnx.check import read_graph
from sparsekit.onnx.class_tables import cell, class_section
from sparsekit.onnx.layers import Layers
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.launch_record import launched_from
from sparsekit.runtime.encoder import TextEncoder, label_names
from sparsekit.runtime.tasks.base import Answers
from sparsekit.sparsity.pruned import is_pruned

CARD = """\
---
{metadata}
---

# {title}

{architecture}, {description}, made by sparsekit from
`{student}`, trained for {training}.

| | |
|---|---|
{table}

{checks}

{shape}{data}{classes}## Run it

```sh
sparsekit predict {run} {example}
```

or with onnxruntime alone (`pip install onnxruntime tokenizers`), in this folder:

```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation({max_length}{truncation})
tokenizer.enable_padding({padding})
session = onnxruntime.InferenceSession("model.onnx")
rows = tokenizer.encode_batch({rows})
inputs = {{"input_ids": [row.ids for row in rows],
          "attention_mask": [row.attention_mask for row in rows],
          "token_type_ids": [{types} for row in rows]}}
names = [value.name for value in session.get_inputs()]
outputs = session.run(None, {{name: np.array(inputs[name]) for name in names}})
{code}
```

## Limits

- Texts are truncated after {max_length} tokens. The model is meant for the language and the kind of
  text that it was trained on, and may have learned biases of that data.
{limits}- ONNX opset {opset}; inputs int64 `[batch, sequence]`, output float32 {outputs}.
"""

ZEROS = """\
- Zeros alone do not make onnxruntime faster. They make the compressed file smaller, and inference
  faster on runtimes with sparse kernels.
"""
INT8 = """\
- Int8 is fast on CPUs with VNNI or AMX; without them onnxruntime gains little.
"""


def model_card(
    folder: Path,
    source: RunFolder,
    answers: Answers,
    layers: Layers,
    result: dict[str, Any],
    license_name: str | None = None,
) -> str:
    """The card of the deployment in `folder`, made from the run `source`.

    answers: of the model's task; result: the `summary.export` dict. Sections
    whose file the run folder lacks, as those of earlier versions do, are left out: figures of the
    data, scores by class, steps.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings = source.config
    pairs = len(settings.get("dataset", {}).get("text_columns", [])) == 2
    parts = answers.card(label_names(config), pairs)
    sparse, int8 = is_pruned(result["zero_fraction"]), result["int8_matmuls"] > 0
    kinds = ["sparse"] * sparse + ["int8"] * int8
    title = ", ".join([config["architectures"][0], *kinds])
    tags = ["sparsekit", "onnx", "onnxruntime", *kinds]
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    encoder = TextEncoder(folder)
    [opset] = read_graph(folder / "model.onnx").opset_import
    return CARD.format(
        metadata=metadata(
            settings,
            parts.pipeline_tag,
            result["metrics"] or {},
            title,
            tags,
            license_name,
            _directory(source),
        ),
        title=title,
        limits=ZEROS * sparse + INT8 * int8,
        architecture=config["architectures"][0],
        description=parts.description,
        student=_checkpoint(settings),
        training=_training(source),
        table="\n".join(f"| {name} | {value} |" for name, value in _facts(layers, result).items()),
        checks=_checks(result),
        shape=_shape(folder, source),
        data=_data(source),
        classes=class_section(source),
        run="RUN",
        example=parts.example,
        rows=parts.inputs,
        code=parts.code,
        outputs=parts.outputs,
        max_length=encoder.max_length,
        types="row.type_ids" if encoder.typed else "[0] * len(row.ids)",
        truncation=_on_the_left(tokenizer.get("truncation_side")),
        padding=_padding(config, tokenizer),
        opset=opset.version,
    )


def _padding(config: dict[str, Any], tokenizer: dict[str, Any]) -> str:
    """The arguments of `enable_padding` by which batches are padded as at training."""
    kind = tokenizer.get("pad_token_type_id") or 0
    types = f", pad_type_id={kind}" if kind else ""
    padding = f"pad_id={config.get('pad_token_id') or 0}{types}"
    return padding + _on_the_left(tokenizer.get("padding_side"))


def _on_the_left(side: str | None) -> str:
    """The argument for a side that is not the default, the right."""
    return ', direction="left"' if side == "left" else ""


def _facts(layers: Layers, result: dict[str, Any]) -> dict[str, str]:
    facts = {
        f"{name} (validation, onnxruntime)": f"{value:.4f}"
        for name, value in (result["metrics"] or {}).items()
    }
    tables = [layer for layer in layers.values() if layer.embedding]
    int8 = result["int8_matmuls"]
    int8_tables = sum(layer.weights is not None for layer in tables)
    return {
        **facts,
        "zeros in the encoder's weights": f"{result['zero_fraction']:.2%}",
        "int8 matmuls": f"{int8} of {int8 + result['fp32_matmuls']}",
        "int8 embedding tables": f"{int8_tables} of {len(tables)}",
        "size": f"{result['bytes'] / 1e6:.1f} MB, {result['bytes_compressed'] / 1e6:.1f} MB "
        "compressed with zstd",
    }


def _checks(result: dict[str, Any]) -> str:
    if not result["verified"]:
        return "The outputs of this file were **not** compared with those of the trained model."
    return (
        "Verified at export: logits against those of torch on real rows, one by one and in padded "
        f"batches (largest difference {result['max_abs_diff']:.2g}), metrics on the validation "
        "split, every weight against the trained weight, quantized matmuls on int8 kernels."
    )


def _checkpoint(settings: dict[str, Any]) -> str:
    checkpoint = settings.get("student", {}).get("checkpoint", "a checkpoint")
    if isinstance(checkpoint, dict):
        return str(checkpoint["_target_"])
    # A path on the machine that trained is of no use to a reader.
    return Path(checkpoint).name if Path(checkpoint).is_absolute() else str(checkpoint)


def _directory(source: RunFolder) -> Path:
    """The folder in which the run was started, to which the paths of its config are relative."""
    try:
        return launched_from(source).directory
    except UserError:  # A SparseTrainer trained it: its paths are not in the config.
        return Path()


def _training(source: RunFolder) -> str:
    """How long it was trained, and by which modifiers."""
    recipe = source.config.get("recipe", {})
    nodes = recipe.get("modifiers") or {}
    off = {row["name"] for row in _read(source.schedule).get("modifiers", []) if row.get("off")}
    used = [
        name
        for name, node in nodes.items()
        if node and node.get("enabled", True) and name not in off
    ]
    done = _steps(source)
    if done is None:
        epochs = recipe.get("num_epochs", "?")
        done = f"{epochs} epoch{'s' * (epochs != 1)}"
    return f"{done} with {', '.join(used)}" if used else done


def _steps(source: RunFolder) -> str | None:
    """The number of optimizer steps, and the share of the data that they cover."""
    saved = _read(source.model_recipe).get("metadata") or {}
    steps = saved.get("steps")
    if not isinstance(steps, int):
        return None
    text = f"{steps:,} step{'s' * (steps != 1)}"
    train = (_figures(source).get("splits") or {}).get("train") or {}
    # Runs of earlier versions name no rows but those of the data set, whose number a stream never
    # counts.
    rows = saved.get("rows") or (None if train.get("streamed") else train.get("rows"))
    settings = source.config.get("training") or {}
    if not rows or settings.get("tokens_per_batch"):
        return text
    # Recipes of version 0.1 name no processes: it trained in one.
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")
    batch = math.prod(saved.get(name, 1) for name in names)
    # The last batch of an epoch may be smaller.
    epochs = steps / -(-rows // batch)
    return f"{text} of {batch} rows ({epochs:.3g} epochs)"


def _data(source: RunFolder) -> str:
    """The section on the data: its source, and the rows and classes of each split."""
    figures = _figures(source)
    if not figures:
        return ""
    name = cell(dataset_name(source.config))
    return "\n\n".join([f"## Data\n\nTrained on {name}:", "\n".join(markdown(figures)), ""])


def _shape(folder: Path, source: RunFolder) -> str:
    """The section on what is left of the layers of a shaped model; copies its picture to `folder`.

    The summary of a run that is exported for the first time is that of its training.
    """
    shape = source.summary.get("shape") if source.summary_file.is_file() else None
    if not shape:
        return ""
    picture = ""
    if source.shape_picture.is_file():
        shutil.copyfile(source.shape_picture, folder / source.shape_picture.name)
        picture = f"\n\n![What is left of each layer]({source.shape_picture.name})"
    columns = [range(1, len(shape["heads"]) + 1), shape["heads"], shape["neurons"]]
    zeros = [f"{share:.1%}" for share in shape["zeros"]]
    rows = "\n".join(
        f"| {' | '.join(map(str, row))} |" for row in zip(*columns, zeros, strict=True)
    )
    before = shape["before"]
    return (
        f"## Shape\n\nOf {max(before['heads'])} heads and {max(before['neurons'])} neurons in each "
        f"layer are left:\n\n| layer | heads | neurons | zeros |\n|---|---|---|---|\n{rows}"
        f"{picture}\n\n"
    )


def _figures(source: RunFolder) -> dict[str, Any]:
    """`data.json`, empty where there is none."""
    if not source.data.is_file():
        return {}
    figures: dict[str, Any] = json.loads(source.data.read_text(encoding="utf-8"))
    return figures


def _read(file: Path) -> dict[str, Any]:
    """A saved recipe or schedule, empty where there is none. Raises UserError for a damaged one."""
    if not file.is_file():
        return {}
    try:
        text = file.read_bytes()
        check_yaml(text, str(file))
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {file}: {first_line(error)}; train again") from error
    return content if isinstance(content, dict) else {}
