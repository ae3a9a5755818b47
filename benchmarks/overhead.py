"""What sparsity, distillation and QAT add to a step of the plain Hugging Face Trainer.

    python benchmarks/overhead.py                       # MiniLM on 2 cores: about 2 minutes
    python benchmarks/overhead.py --compile             # also with torch.compile: 4 minutes
    python benchmarks/overhead.py --steps 4 --batch-size 2   # the smallest run: seconds
    python benchmarks/overhead.py --shape bert-base --batch-size 256 --length 128 --steps 40 \\
        --block 5               # on a GPU

Three trainers alternate every few steps on the same batches, all of one length without padding,
with the same precision, optimizer and dropout: transformers' Trainer with the dense model;
sparsekit with masks and cached teacher logits; sparsekit with quantizers too. Weights are random,
which does not affect speed. Uses the GPU if there is one.

Not measured: reading and tokenizing text, the teacher's forward pass, evaluation, saving, and the
gain from grouping by length.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    default_data_collator,
)
from transformers.trainer_callback import PrinterCallback

from sparsekit.models.pruning import prune
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.progress import quiet_libraries
from sparsekit.system import cores, cpu_name
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.cpu.precision import matmul_precision
from sparsekit.training.recipe_trainer import RecipeTrainer

SHAPES = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072},
}
MODIFIERS: dict[str, dict[str, Any]] = {
    "pruning": {"_target_": "sparsekit.modifiers.pruning.constant.ConstantPruning"},
    "distillation": {
        "_target_": "sparsekit.modifiers.distillation.logits.Distillation",
        "hardness": 0.9,
    },
}
QAT = {"quantization": {"_target_": "sparsekit.modifiers.quantization.qat.Quantization"}}
WARMUP = 2


class Turns(TrainerCallback):
    """Lets the next trainer run after each block of steps; times all steps after the warm-up."""

    def __init__(self, block: int, wait: Callable[[], None], hand_on: Callable[[], None]) -> None:
        self.block, self.wait, self.hand_on = block, wait, hand_on
        self.wall: list[float] = []
        self.processor: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.block == 0:
            self._stop(state.global_step)
            self.hand_on()
            if state.global_step < state.max_steps:
                self._start()

    def _start(self) -> None:
        self.wait()
        synchronize()
        self._begin = time.perf_counter(), time.process_time()

    def _stop(self, step: int) -> None:
        synchronize()
        if step - self.block >= WARMUP:
            self.wall.append((time.perf_counter() - self._begin[0]) / self.block)
            self.processor.append((time.process_time() - self._begin[1]) / self.block)


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_trainer(
    kind: str, options: argparse.Namespace, turns: TrainerCallback, folder: str
) -> Trainer:
    """A trainer of kind dense, sparse_kd or qat; the suffix `_compiled` adds torch.compile."""
    kind, compiled = kind.removesuffix("_compiled"), kind.endswith("_compiled")
    torch.manual_seed(0)
    heads = SHAPES[options.shape]["hidden_size"] // (32 if options.shape == "minilm" else 64)
    config = BertConfig(**SHAPES[options.shape], num_attention_heads=heads)
    model = BertForSequenceClassification(config)
    columns: dict[str, Any] = {
        "input_ids": torch.randint(0, config.vocab_size, (options.batch_size * 8, options.length)),
        "attention_mask": torch.ones(options.batch_size * 8, options.length, dtype=torch.int64),
        "labels": torch.randint(0, 2, (options.batch_size * 8,)),
    }
    if kind != "dense":
        columns["teacher_logits"] = torch.randn(options.batch_size * 8, 2)
    rows = Dataset.from_dict(columns).with_format("torch")
    args = SparseTrainingArguments(
        output_dir=folder,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        precision=options.precision,
        optim="adamw_torch_fused",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        torch_compile=compiled,
    )
    common = {"train_dataset": rows, "data_collator": default_data_collator, "callbacks": [turns]}
    if kind == "dense":
        return Trainer(model=model, args=args, **common)
    prune(model, 0.8)
    modifiers = MODIFIERS | (QAT if kind == "qat" else {})
    recipe = Recipe.build({"num_epochs": 1, "modifiers": modifiers})
    run, task = RunFolder(Path(folder)), TextClassification()
    return RecipeTrainer(model, recipe, run, task, args=args, processing_class=None, **common)


def race(kinds: list[str], options: argparse.Namespace) -> dict[str, Turns]:
    """Train all kinds alternately, each in a thread of which only one runs at a time."""
    events = [threading.Event() for _ in kinds]
    turns: dict[str, Turns] = {}
    threads = []
    with tempfile.TemporaryDirectory() as folder:
        for i, kind in enumerate(kinds):

            def wait(mine: threading.Event = events[i]) -> None:
                mine.wait()
                mine.clear()

            turns[kind] = Turns(options.block, wait, events[(i + 1) % len(kinds)].set)
            trainer = make_trainer(kind, options, turns[kind], folder)
            trainer.remove_callback(PrinterCallback)
            threads.append(threading.Thread(target=trainer.train))
        with matmul_precision(trainer.args.matmul_precision):
            for thread in threads:
                thread.start()
            events[0].set()
            for thread in threads:
                thread.join()
    return turns


def main() -> None:
    """Train all kinds, and print times and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="minilm")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--block", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.block < 1:
        parser.error(f"--block {options.block}: set 1 or more")
    if options.steps % options.block:
        parser.error(f"--steps {options.steps} is not a multiple of --block {options.block}")
    # The first block that begins after the warm-up, and all before it.
    needed = options.block * (-(-WARMUP // options.block) + 1)
    if options.steps < needed:
        parser.error(
            f"--steps {options.steps} leaves no block after the {WARMUP} steps of the warm-up; set "
            f"{needed} or more"
        )
    quiet_libraries()
    kinds = ["dense", "sparse_kd", "qat"]
    if options.compile:
        kinds += [f"{kind}_compiled" for kind in kinds]
    turns = race(kinds, options)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    print(f"{name}, {cores()} cores, {torch.get_num_threads()} threads; {options.shape}, ", end="")
    print(f"{options.batch_size} x {options.length} tokens")
    result: dict[str, dict[str, float]] = {}
    for kind in kinds:
        row = {}
        for clock in ("wall", "processor"):
            times = sorted(getattr(turns[kind], clock))
            base = sorted(getattr(turns["dense"], clock))
            row[f"{clock}_ms"] = times[len(times) // 2] * 1e3
            row[f"{clock}_ratio"] = times[len(times) // 2] / base[len(base) // 2]
        row["samples_per_second"] = options.batch_size / row["wall_ms"] * 1e3
        result[kind] = row
        print(f"{kind:18}" + "".join(f"  {key} {value:.3f}" for key, value in row.items()))
    if options.json:
        print(json.dumps({"ratio": {k: r["wall_ratio"] for k, r in result.items()}, **result}))


if __name__ == "__main__":
    main()
