"""The accuracy of Optimal Brain Surgeon against magnitude pruning, one-shot and gradual.

python benchmarks/obs_accuracy.py oneshot --output oneshot.jsonl
    the quickstart's model, fine-tuned for each seed (15 minutes on one core)
python benchmarks/obs_accuracy.py oneshot --model RUN/model --train train.csv \\
    --validation validation.csv --output minilm.jsonl
    your own classifier; seeds choose the calibration rows
python benchmarks/obs_accuracy.py gradual --output gradual.jsonl
    the quickstart's model, fine-tuned, then pruned in further training; magnitude pruning trains
    longer, by the rows that the Fisher matrix is estimated from
python benchmarks/obs_accuracy.py table oneshot.jsonl
    means over the seeds as a Markdown table

Smallest run: oneshot --sparsities 0.8 --seeds 0 --recomputations 1 --num-grads 64 --output x.jsonl
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed

from sparsekit.data.datasets import BuiltDataset
from sparsekit.metrics import compute
from sparsekit.models.loading import LoadedModel, Student
from sparsekit.models.predict import predict_outputs
from sparsekit.models.pruning import sparsity
from sparsekit.oneshot.calibration import TextCollator, draw
from sparsekit.oneshot.calibration import read as read_file
from sparsekit.oneshot.methods import OneShot, prune
from sparsekit.recipe.recipe import Recipe
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.progress import quiet_libraries
from sparsekit.sparsity.prunable import prunable
from sparsekit.tasks.base import Data
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.tokens import tokenize
from sparsekit.training.arguments import SparseTrainingArguments
from sparsekit.training.recipe_trainer import RecipeTrainer

REVIEWS = "sparsekit.data.synthetic.reviews"
# As in docs/performance/one-shot-pruning.md; the quickstart's own learning rate is half of it.
CHECKPOINT = {"_target_": "sparsekit.models.tiny.checkpoint", "learning_rate": 1e-3}
# Gradual pruning of a fine-tuned model: epochs and mask updates.
EPOCHS, UPDATES = 2.0, 6
State = dict[str, torch.Tensor]


def quickstart() -> Data:
    return TextClassification(max_length=64).load(BuiltDataset(source={"_target_": REVIEWS}))


def files(train: Path, validation: Path, max_length: int = 128) -> Data:
    task = TextClassification(max_length=max_length)
    parts = [read_file(path, task) for path in (train, validation)]
    assert parts[0].label_names == parts[1].label_names
    splits = {"train": parts[0].splits["train"], "validation": parts[1].splits["train"]}
    return Data(task, splits, parts[0].label_names)


def learning_rate(init: float) -> dict[str, Any]:
    target = "sparsekit.modifiers.optimizer.LearningRateFunction"
    return {"_target_": target, "lr_func": "linear", "init_lr": init, "final_lr": 0.0}


def dense(data: Data, seed: int) -> LoadedModel:
    """The quickstart's model, fine-tuned."""
    modifiers = {"lr": learning_rate(1e-3)}
    return trained(data, seed, Recipe.build({"num_epochs": 5, "modifiers": modifiers}))


def trained(data: Data, seed: int, recipe: Recipe, start: State | None = None) -> LoadedModel:
    """The quickstart's model, from the weights `start` if given, trained with a recipe."""
    set_seed(seed)
    student = Student(checkpoint=CHECKPOINT).load(data.task, data.label_names)
    if start is not None:
        student.model.load_state_dict(start)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SparseTrainingArguments(
            output_dir=folder,
            num_train_epochs=recipe.num_epochs,
            per_device_train_batch_size=64,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            train_sampling_strategy="group_by_length",
            seed=seed,
        )
        trainer = RecipeTrainer(
            student.model,
            recipe,
            RunFolder(Path(folder)),
            data.task,
            args=arguments,
            train_dataset=tokenize(data, student.tokenizer, student.tokenizer_hash)["train"],
            processing_class=student.tokenizer,
        )
        trainer.train()
    return student


def accuracy(student: LoadedModel, rows: Dataset) -> float:
    logits = predict_outputs(student.model, TextClassification(), rows, student.tokenizer)["logits"]
    return compute(["accuracy"], logits, torch.tensor(rows["labels"]).numpy())["accuracy"]


def run_oneshot(args: argparse.Namespace) -> None:
    own = args.model is not None
    data = files(args.train, args.validation) if own else quickstart()
    for seed in args.seeds:
        if own:
            student = Student(checkpoint=str(args.model)).load(data.task, data.label_names)
        else:
            student = dense(data, seed)
        rows = tokenize(data, student.tokenizer, student.tokenizer_hash)["validation"]
        collate = TextCollator(data.task, student.tokenizer, student.model.device)
        batches = partial(draw, data.splits["train"], collate)
        weights = copy.deepcopy(student.model.state_dict())
        write(args.output, {"method": "dense", "sparsity": 0.0}, seed, accuracy(student, rows))
        for share in args.sparsities:
            for settings in methods(args):
                student.model.load_state_dict(weights)
                config = OneShot(sparsity=share, seed=seed, **settings)
                began, cpu = time.perf_counter(), time.process_time()
                prune(student.model, prunable(student.model), batches, config)
                seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
                assert abs(sparsity(student.model)["overall"] - share) < 1e-3
                score = accuracy(student, rows)
                what = {**settings, "sparsity": share, "seconds": seconds, "cpu_seconds": cpu}
                write(args.output, what, seed, score)


def methods(args: argparse.Namespace) -> list[dict[str, Any]]:
    magnitude = [{"method": "magnitude", "global_sparsity": g} for g in (False, True)]
    surgeon = [
        {"method": "obs", "num_recomputations": times, "num_grads": args.num_grads}
        for times in args.recomputations
    ]
    return [*magnitude, {"method": "wanda"}, *surgeon]


def run_gradual(args: argparse.Namespace) -> None:
    data = quickstart()
    # The rows that the Fisher matrix is estimated from, in epochs.
    extra = UPDATES * args.num_grads / len(data.splits["train"])
    for seed in args.seeds:
        start = copy.deepcopy(dense(data, seed).model.state_dict())
        for share in args.sparsities:
            for method, epochs in (
                ("pruning.magnitude.MagnitudePruning", EPOCHS + extra),
                ("pruning.magnitude.GlobalMagnitudePruning", EPOCHS + extra),
                ("pruning.obs.OBSPruning", EPOCHS),
            ):
                began = time.process_time()
                student = trained(data, seed, gradual(method, epochs, share, args), start)
                seconds = time.process_time() - began
                rows = tokenize(data, student.tokenizer, student.tokenizer_hash)["validation"]
                assert abs(sparsity(student.model)["overall"] - share) < 1e-3
                what = {"method": method, "sparsity": share, "epochs": epochs}
                write(args.output, {**what, "cpu_seconds": seconds}, seed, accuracy(student, rows))


def gradual(method: str, epochs: float, share: float, args: argparse.Namespace) -> Recipe:
    """Pruning until two thirds of the training; after that the mask is constant."""
    start, end = 0.0, epochs * 2 / 3
    pruning = {
        "_target_": f"sparsekit.modifiers.{method}",
        "params": [r"re:.*\.layer\.\d+\..*(query|key|value|dense)\.weight"],
        "start": start,
        "end": end,
        "init_sparsity": 0.3,
        "final_sparsity": share,
        "update_frequency": (end - start) / (UPDATES - 1),
    }
    if method == "pruning.obs.OBSPruning":
        pruning["num_grads"] = args.num_grads
    modifiers = {"lr": learning_rate(3e-4), "pruning": pruning}
    recipe = Recipe.build({"num_epochs": epochs, "modifiers": modifiers})
    assert not recipe.problems()
    return recipe


def write(output: Path, what: dict[str, Any], seed: int, score: float) -> None:
    row = {**what, "seed": seed, "accuracy": score}
    with output.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def table(args: argparse.Namespace) -> None:
    results: dict[str, dict[float, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in args.file.read_text().splitlines():
        row = json.loads(line)
        name = row["method"].rpartition(".")[2]
        name += {True: ", global", False: ", per layer"}.get(row.get("global_sparsity"), "")
        if "num_recomputations" in row:
            name += f", {row['num_recomputations']} x {row['num_grads']} gradients"
        results[name][row["sparsity"]].append(row)
    shares = sorted({share for rows in results.values() for share in rows})
    print("| method | " + " | ".join(f"{share:.0%}" for share in shares) + " | CPU seconds |")
    print("|---|" + "---|" * (len(shares) + 1))
    for name, by_share in results.items():
        cells = [score_cell(by_share[share]) for share in shares]
        seconds = [row.get("cpu_seconds", 0.0) for rows in by_share.values() for row in rows]
        print(f"| {name} | " + " | ".join([*cells, f"{mean(seconds):.1f}"]) + " |")


def score_cell(rows: list[dict[str, Any]]) -> str:
    scores = [100 * row["accuracy"] for row in rows]
    if not scores:
        return "-"
    spread = f" ({min(scores):.1f} - {max(scores):.1f})" if len(scores) > 1 else ""
    return f"{mean(scores):.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, run in (("oneshot", run_oneshot), ("gradual", run_gradual)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--sparsities", type=float, nargs="+", default=[0.7, 0.8, 0.9])
        command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        command.add_argument("--num-grads", type=int, default=256)
        command.add_argument("--output", type=Path, required=True)
        if name == "oneshot":
            command.add_argument("--recomputations", type=int, nargs="+", default=[1, 8])
            command.add_argument("--model", type=Path)
            command.add_argument("--train", type=Path)
            command.add_argument("--validation", type=Path)
    command = commands.add_parser("table")
    command.set_defaults(run=table)
    command.add_argument("file", type=Path)
    args = parser.parse_args()
    quiet_libraries()
    args.run(args)


if __name__ == "__main__":
    main()
