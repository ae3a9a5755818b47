"""Trains with SparseML's Trainer in the peer environment and prints the result as a JSON line.

    make peer-env
    .venv-peer/bin/python sparsekit/sparseml/workers/sparseml_train.py --student DIR --teacher DIR \
        --train train.csv --validation validation.csv --recipe recipe.yaml --output out

STUDENT and TEACHER are folders with `config.json`, a tokenizer and `pytorch_model.bin`: this
Trainer does not reload safetensors. The data files are csv with the columns text and label.
With --block N it pauses after every N steps, prints their durations, and waits for a line on stdin,
so that it can take turns with another system.
"""

import argparse
import json
import os
import re
import resource
import sys
import time

os.environ.update(NM_DISABLE_ANALYTICS="True", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
from datasets import load_dataset
from sparseml.transformers.sparsification import Trainer, TrainingArguments
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
    default_data_collator,
)


class Turns(TrainerCallback):
    """Measures each step including its batch; reports and waits after each block."""

    def __init__(self, block):
        self.block, self.steps = block, []

    def on_step_begin(self, args, state, control, **_):
        if self.block and state.global_step % self.block == 0:
            report({"turn": state.global_step})
            sys.stdin.readline()
            self._mark = now()

    def on_train_begin(self, args, state, control, **_):
        self._mark = now()

    def on_step_end(self, args, state, control, **_):
        mark = now()
        self.steps.append([state.epoch, *(b - a for a, b in zip(self._mark, mark, strict=True))])
        self._mark = mark


def now():
    """Wall-clock time and this process's CPU time, in seconds; load of others changes the first."""
    return time.perf_counter(), time.process_time()


def report(values):
    """Print one JSON line, which begins with a brace unlike the output of libraries."""
    print(json.dumps(values), flush=True)


def tokenized(options, tokenizer):
    files = {"train": options.train, "validation": options.validation}
    data = load_dataset("csv", data_files=files, cache_dir=os.path.join(options.output, "data"))

    def encode(rows):
        return tokenizer(
            rows["text"], padding="max_length", max_length=options.max_length, truncation=True
        )

    return data.map(encode, batched=True)


def make_trainer(options, student, teacher, data, tokenizer):
    return Trainer(
        model=student,
        model_state_path=options.student,
        recipe=options.recipe,
        recipe_args=json.loads(options.recipe_args),
        teacher=teacher,
        args=TrainingArguments(
            output_dir=options.output,
            evaluation_strategy="no",
            save_strategy="no",
            logging_strategy="epoch",
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=options.batch_size,
            disable_tqdm=True,
            report_to=[],
            seed=options.seed,
        ),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        tokenizer=tokenizer,
        data_collator=default_data_collator,
        compute_metrics=lambda p: {
            "accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())
        },
    )


def encoder_sparsity(model):
    linear = [
        m.weight
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and re.search(r"\.\d+\.", n)
    ]
    return sum(int((w == 0).sum()) for w in linear) / sum(w.numel() for w in linear)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("student", "teacher", "train", "validation", "recipe", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--recipe-args", default="{}")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--block", type=int, default=0)
    parser.add_argument("--evaluate", action="store_true")
    options = parser.parse_args()
    for name in ("student", "teacher", "train", "validation", "recipe", "output"):
        setattr(options, name, os.path.abspath(getattr(options, name)))
    os.makedirs(options.output, exist_ok=True)
    os.chdir(options.output)  # SparseML writes its logs into the working directory
    begin = now()
    tokenizer = AutoTokenizer.from_pretrained(options.student)
    data = tokenized(options, tokenizer)
    prepared = [b - a for a, b in zip(begin, now(), strict=True)]
    student = AutoModelForSequenceClassification.from_pretrained(options.student)
    teacher = AutoModelForSequenceClassification.from_pretrained(options.teacher)
    trainer = make_trainer(options, student, teacher, data, tokenizer)
    turns = Turns(options.block)
    trainer.add_callback(turns)
    trainer.train()
    result = {
        "prepare": prepared,
        "steps": turns.steps,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "sparsity": encoder_sparsity(student),
    }
    if options.evaluate:
        result["accuracy"] = trainer.evaluate()["eval_accuracy"]
    report({"result": result})


if __name__ == "__main__":
    main()
