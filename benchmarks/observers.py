"""The error of int8 rounding by observer, without any training.

    python benchmarks/observers.py --model CHECKPOINT --data train.csv --validation validation.csv

The encoder of the checkpoint observes its ranges on the first texts of one file, and its mean of
the last hidden states is compared with that in float32 on texts of the other. The figure is the
squared error divided by the squared values. Smallest run: --rows 32 --compared 16
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from sparsekit.modifiers.quantization.qat import Quantization
from sparsekit.runs.progress import quiet_libraries

BATCH, MAX_LENGTH = 32, 128
# The observer of weights, that of activations, and the percentile.
OBSERVERS = (
    ("minmax", "minmax", 100.0),
    ("mse", "minmax", 100.0),
    ("minmax", "percentile", 99.999),
    ("minmax", "percentile", 99.99),
    ("minmax", "percentile", 99.9),
    ("minmax", "mse", 100.0),
    ("mse", "mse", 100.0),
)


def texts(file: Path, rows: int) -> list[str]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [row["text"] for row in itertools.islice(csv.DictReader(lines), rows)]


def batches(tokenizer: Any, rows: list[str]) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        options = {"padding": True, "truncation": True, "max_length": MAX_LENGTH}
        yield tokenizer(part, return_tensors="pt", **options)


def means(model: nn.Module, tokenizer: Any, rows: list[str]) -> Tensor:
    """The mean of the last hidden states over the tokens of each text [rows, width]."""
    found = []
    for batch in batches(tokenizer, rows):
        states = model(**batch).last_hidden_state
        kept = batch["attention_mask"][..., None]
        found.append((states * kept).sum(dim=1) / kept.sum(dim=1))
    return torch.cat(found)


def quantized(checkpoint: str, tokenizer: Any, rows: list[str], **fields: Any) -> nn.Module:
    """The encoder in int8, its ranges observed on `rows` without dropout."""
    model = AutoModel.from_pretrained(
        checkpoint, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    quantization = Quantization(**fields)
    quantization.attach(model)
    quantization.update(0.0)
    means(model.train(), tokenizer, rows)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--compared", type=int, default=64)
    arguments = parser.parse_args()
    quiet_libraries()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    observed = texts(arguments.data, arguments.rows)
    compared = texts(arguments.validation, arguments.compared)
    with torch.no_grad():
        exact = means(AutoModel.from_pretrained(arguments.model).eval(), tokenizer, compared)
        for weights, activations, percentile in OBSERVERS:
            errors = []
            for per_channel in (False, True):
                model = quantized(
                    arguments.model,
                    tokenizer,
                    observed,
                    per_channel_weights=per_channel,
                    weight_observer=weights,
                    activation_observer=activations,
                    observer_percentile=percentile,
                )
                difference = means(model, tokenizer, compared) - exact
                errors.append(float(difference.square().mean() / exact.square().mean()))
            name = activations + f" {percentile:g}" * (activations == "percentile")
            sys.stdout.write(f"| {weights} | {name} | {errors[0]:.4f} | {errors[1]:.4f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
