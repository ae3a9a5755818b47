"""Trains with SparseML's Trainer for `engine=sparseml`, from a job that sparsekit wrote.

    .venv-peer/bin/python -E sparsekit/sparseml/workers/sparseml_engine.py job.json

The job names folders (student, teacher or null, output), the recipe, the rows as Parquet files of
model inputs, and arguments of transformers' TrainingArguments. Reports are written to stdout, one
JSON line each; `state.safetensors` and `validation.npy` (logits in the order of the rows) to the
output folder.
"""

import json
import os
import sys

import numpy as np
import pyarrow.parquet as pq
import sparseml
import torch
from datasets import Dataset
from safetensors.torch import save_file
from sparseml.transformers.sparsification import Trainer, TrainingArguments
from sparseml_train import encoder_sparsity, report
from torch.ao.quantization import FakeQuantizeBase, disable_observer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForSequenceClassification, TrainerCallback

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# SparseML's suffixes of quantizers, longest first, and sparsekit's.
QUANTIZERS = {
    ".quant.activation_post_process": ".input_quantizer",
    ".activation_post_process": ".output_quantizer",
    ".weight_fake_quant": ".weight_quantizer",
}


class Reports(TrainerCallback):
    """Reports the Trainer's events to sparsekit.

    The learning rate is recorded within the step: before and after, the optimizer has the Trainer's
    own learning rate, not that of the recipe.
    """

    def __init__(self):
        self.rate = 0.0
        register_optimizer_step_pre_hook(self._before_step)

    def _before_step(self, optimizer, *_):
        self.rate = optimizer.param_groups[0]["lr"]

    def on_train_begin(self, args, state, control, **_):
        report({"steps": state.max_steps})

    def on_log(self, args, state, control, logs=None, model=None, **_):
        if "loss" in logs:
            logs = {**logs, "learning_rate": self.rate, "sparsity": encoder_sparsity(model)}
        report({"event": logs, "step": state.global_step})


class Collator:
    """Pads a batch to its longest row, like sparsekit's collator."""

    def __init__(self, padding_id):
        self.padding = {"input_ids": padding_id}

    def __call__(self, rows):
        length = max(len(row["input_ids"]) for row in rows)
        batch = {"labels": torch.tensor([row["labels"] for row in rows])}
        for name in INPUTS:
            if name in rows[0]:
                fill = [self.padding.get(name, 0)]
                padded = [row[name] + fill * (length - len(row[name])) for row in rows]
                batch[name] = torch.tensor(padded)
        return batch


def read_rows(file):
    return Dataset.from_dict(pq.read_table(file).to_pydict())


def scored(prediction):
    """Reports the logits of an evaluation, from which sparsekit computes metrics."""
    report({"logits": prediction.predictions.tolist()})
    return {}


def state_of(model):
    """The weights and quantizers with sparsekit's names."""
    quantizers = {n: m for n, m in model.named_modules() if isinstance(m, FakeQuantizeBase)}
    state = {
        name.replace(".module.", "."): tensor
        for name, tensor in model.state_dict().items()
        if not any(name.startswith(f"{quantizer}.") for quantizer in quantizers)
    }
    for name, quantizer in quantizers.items():
        theirs = next(ending for ending in QUANTIZERS if name.endswith(ending))
        ours = name.removesuffix(theirs).removesuffix(".module") + QUANTIZERS[theirs]
        per_channel = quantizer.is_per_channel
        state[f"{ours}.scale"] = quantizer.scale if per_channel else quantizer.scale.squeeze()
        zero_point = quantizer.zero_point.to(torch.int32)
        state[f"{ours}.zero_point"] = zero_point if per_channel else zero_point.squeeze()
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    os.chdir(job["output"])  # SparseML writes its logs into the working directory
    arguments = TrainingArguments(output_dir=job["output"], **job["arguments"])
    rows = {split: read_rows(file) for split, file in job["rows"].items()}
    student, teacher = (
        job[name] and AutoModelForSequenceClassification.from_pretrained(job[name])
        for name in ("student", "teacher")
    )
    trainer = Trainer(
        model=student,
        model_state_path=job["student"],
        recipe=job["recipe"],
        teacher=teacher,
        args=arguments,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=Collator(student.config.pad_token_id),
        compute_metrics=scored,
        callbacks=[Reports()],
    )
    result = trainer.train()
    # SparseML's observers would update the ranges in evaluation too.
    student.apply(disable_observer)
    trainer.compute_metrics = None
    np.save("validation.npy", trainer.predict(rows["validation"]).predictions)
    save_file(state_of(student), "state.safetensors")
    report(
        {
            "result": {
                **result.metrics,
                "steps": result.global_step,
                "sparseml": sparseml.__version__,
            }
        }
    )


if __name__ == "__main__":
    main()
