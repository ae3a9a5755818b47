"""A run folder as the training stages leave it, made of a tiny student in a second or so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import hub_seed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsekit.models.loading import load_for_task
from sparsekit.models.quantizers import separate_quantizers
from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.onnx.sums import read_sums, write_sums
from sparsekit.tasks.text_classification import TextClassification

MAX_LENGTH = 32
LABELS = ["negative", "positive"]
ALL = ["bert.embeddings", "bert.encoder", "bert.pooler", "classifier"]
EXCLUDED = ["LayerNorm", "Tanh"]
# Linear layers of the 2-layer student: six in each layer, pooler, classifier.
LINEARS = 14


def quantization(submodules: Sequence[str] = ALL, per_channel: bool = False) -> Quantization:
    """The recipe's modifier, frozen from epoch 1 on."""
    return Quantization(
        start=0.0,
        disable_observer_epoch=1.0,
        submodules=list(submodules),
        exclude_module_types=EXCLUDED,
        per_channel_weights=per_channel,
    )


def write_run(
    folder: Path,
    student: str,
    modifier: Quantization | None,
    pairs: bool = False,
    change: Callable[[PreTrainedModel], None] | None = None,
    separate: bool = True,
    labels: Sequence[str] = LABELS,
) -> Path:
    """Write `model/`, `evaluation/validation.parquet` and `config.yaml`; returns `folder`.

    `modifier` quantizes, ranges observed on the reviews; `pairs` gives each row a second text;
    `change` acts on the plain model first; `separate`: quantizers in a file of their own, which
    version 0.1 had in that of the weights.
    """
    torch.manual_seed(1)
    loaded, _ = load_for_task(Path(student), TextClassification(max_length=MAX_LENGTH), labels)
    model, tokenizer = loaded.model, loaded.tokenizer
    with torch.no_grad():
        # New weights are so small that every text would get the same logits.
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif parameter.ndim == 2:
                parameter.mul_(8)
    if change is not None:
        change(model)
    rows = hub_seed.reviews(64, seed=3)
    texts = [str(row["text"]) for row in rows]
    seconds = texts[::-1] if pairs else None
    if modifier is not None:
        modifier.attach(model)
        modifier.update(0.0)
        predict(model.train(), tokenizer, texts, seconds)
        modifier.update(2.0)
    logits = predict(model.eval(), tokenizer, texts, seconds)
    model.save_pretrained(folder / "model")
    if separate:
        separate_quantizers(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    columns = {
        "text": texts,
        "text_pair": pa.array(seconds or [None] * len(texts), pa.string()),
        # As if trained: most rows right.
        "label": [(int(row.argmax()) + (i % 8 == 0)) % len(labels) for i, row in enumerate(logits)],
        "logits": list(logits),
    }
    (folder / "evaluation").mkdir()
    pq.write_table(pa.table(columns), folder / "evaluation" / "validation.parquet")
    config = {"dataset": {"metrics": ["accuracy"], "max_length": MAX_LENGTH}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def restamp(*folders: Path) -> None:
    """Write new sums of the files that each folder lists, as whoever changes one with care does."""
    for folder in folders:
        write_sums(folder, [folder / name for name in read_sums(folder)])


@torch.no_grad()
def turn_around(model: PreTrainedModel) -> None:
    """Let the classifier answer the opposite; a `change` of `write_run`."""
    model.classifier.weight.neg_()
    model.classifier.bias.neg_()


@torch.no_grad()
def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    seconds: Sequence[str] | None,
) -> np.ndarray:
    """Logits [rows, labels] in padded batches of 16."""
    found = []
    for start in range(0, len(texts), 16):
        columns = [list(column[start : start + 16]) for column in (texts, seconds) if column]
        batch = tokenizer(*columns, truncation=True, padding=True, return_tensors="pt")
        found.append(model(**batch).logits.numpy())
    return np.concatenate(found)
