"""What each ingredient of recipe=from_dense brings, over seeds: accuracy, agreement, loss, time.

python benchmarks/accuracy.py run --output FOLDER                # the quickstart's model
python benchmarks/accuracy.py run --output FOLDER --data train.csv --validation validation.csv \\
    --student CHECKPOINT --learning-rate 1e-4 --epochs 20 --seeds 0 1 2 3 4
python benchmarks/accuracy.py table FOLDER                       # means over the seeds, as Markdown

The dense model is fine-tuned once; all others start from it and are taught by it, except `plain`,
which is pruned as it is loaded and trained for 3 epochs: the yardstick of time. Each run is one
of `sparsekit train` with its folder in FOLDER; called again, completed ones are kept, and one that
was stopped goes on. Other epochs, another sparsity or other overrides need a FOLDER of their own.
`plain` has its recipe's own learning rate.

Accuracy is that of the exported int8 file where there is one. Agreement and loss (KL divergence of
the probabilities) are finer measures: those of the trained model in torch, as `evaluation/` has
them, against the dense model on the validation rows.

Smallest run: run --output x --seeds 0 --epochs 3 --variants from_dense (2 minutes on one core)
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from run_settings import check_settings

from sparsekit.runs.folder import RunFolder

DENSE, PLAIN, BASE = "dense", "plain", "from_dense"
OVERRIDES = "of sparsekit train, for all runs; those of recipe. for variants of from_dense alone"
MAGNITUDE = "recipe.obs_gradients=0"
# The overrides of each variant of from_dense.
VARIANTS: dict[str, list[str]] = {
    "magnitude, with dropout": [MAGNITUDE, "recipe.modifiers.dropout.enabled=false"],
    "magnitude": [MAGNITUDE],
    "magnitude, without int8": [MAGNITUDE, "recipe.modifiers.quantization.enabled=false"],
    "magnitude, hidden states": [MAGNITUDE, "recipe.hidden_gain=1.0"],
    "magnitude, twice the learning rate": [MAGNITUDE, "recipe.init_lr={twice}"],
    BASE: [],
    "twice the learning rate": ["recipe.init_lr={twice}"],
    "with dropout": ["recipe.modifiers.dropout.enabled=false"],
    "without int8": ["recipe.modifiers.quantization.enabled=false"],
    "ranked in each layer": ["recipe.obs_global=false"],
    "per tensor": ["recipe.modifiers.quantization.per_channel_weights=false"],
    "pruned in a quarter": ["recipe.pruning_end_epoch={quarter}"],
    "two cycles": ["recipe.lr_func=cyclic_linear", "recipe.lr_cycle_epochs={half}"],
    "averaged": ["recipe.averaged_epochs=1"],
    "mse ranges": ["recipe.weight_observer=mse", "recipe.activation_observer=mse"],
    "percentile ranges": ["recipe.activation_observer=percentile"],
    "hidden states": ["recipe.hidden_gain=1.0"],
    "attention": ["recipe.attention_gain=1.0"],
    "augmented": ["dataset.augment.copies=1"],
}


@dataclass(frozen=True)
class Setup:
    """What all runs of a folder have in common."""

    output: Path
    data: Path | None
    validation: Path | None
    student: str | None
    learning_rate: float
    sparsity: float
    epochs: float
    overrides: list[str]

    @property
    def common(self) -> list[str]:
        words = ["runtime=none", "tracking=none", "training.disable_tqdm=true"]
        words += [word for word in self.overrides if not word.startswith("recipe.")]
        if self.data is None:
            return ["dataset=quickstart", "training=quickstart", *words]
        files = {"train": self.data, "validation": self.validation}
        paths = [f"dataset.data_files.{name}={file}" for name, file in files.items() if file]
        return ["dataset=files", *paths, *words]

    @property
    def checkpoint(self) -> list[str]:
        """The pretrained student, dense."""
        named = ["student=quickstart", "student.sparsity=null"]
        return (
            named
            if self.student is None
            else ["student=minilm", f"student.checkpoint={self.student}"]
        )

    @property
    def dense(self) -> Path:
        return self.output / DENSE

    def folder(self, variant: str, seed: int) -> Path:
        """The run folder; there is one dense run, whatever the seeds."""
        return self.dense if variant == DENSE else folder_of(self.output, variant) / str(seed)

    def words(self, variant: str, seed: int) -> list[str]:
        """The overrides of a run, without its folder."""
        rate = f"recipe.init_lr={self.learning_rate:g}"
        if variant == DENSE:
            epochs = 5 if self.data is None else 3
            of_dense = ["recipe=dense", "teacher=none", f"recipe.num_epochs={epochs}", rate]
            return [*self.common, *self.checkpoint, *of_dense, "export=none"]
        if variant == PLAIN:
            pruned = [f"student.sparsity={self.sparsity:g}", "recipe.num_epochs=3"]
            taught = ["teacher=checkpoint", f"teacher.checkpoint={self.dense / 'model'}"]
            windows = ["recipe.qat_epochs=1", "recipe.observer_epoch=2.5"]
            return [*self.common, *self.checkpoint, *pruned, *taught, *windows, f"seed={seed}"]
        own = [
            word.format(
                twice=f"{2 * self.learning_rate:g}",
                half=f"{self.epochs / 2:g}",
                quarter=f"{self.epochs / 4:g}",
            )
            for word in VARIANTS[variant]
        ]
        start = [*self.checkpoint, f"student.checkpoint={self.dense / 'model'}", "teacher=self"]
        recipe = ["recipe=from_dense", f"recipe.num_epochs={self.epochs:g}", rate]
        target = [f"recipe.final_sparsity={self.sparsity:g}", f"seed={seed}"]
        given = [word for word in self.overrides if word.startswith("recipe.")]
        return [*self.common, *start, *recipe, *target, *own, *given]


def folder_of(output: Path, variant: str) -> Path:
    """The folder of a variant's runs, one for each seed."""
    return output / variant.replace(", ", "_").replace(" ", "_")


def completed(folder: Path) -> bool:
    """Whether the folder holds a run that ended well."""
    run = RunFolder(folder)
    return run.summary_file.is_file() and run.ending.status == "completed"


def run(setup: Setup, variants: list[str], seeds: list[int]) -> None:
    """Train the dense model and every variant with every seed, except what is completed."""
    for variant in [DENSE, *variants]:
        for seed in seeds[:1] if variant == DENSE else seeds:
            folder, words = setup.folder(variant, seed), setup.words(variant, seed)
            check_settings(folder, words)
            if not completed(folder):
                words.append(f"hydra.run.dir={folder}")
                words.append("training.resume_from_checkpoint=auto")
                subprocess.run([sys.executable, "-m", "sparsekit", "train", *words], check=True)


def probabilities(run: RunFolder) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The class probabilities [rows, classes] of the validation rows, and their labels."""
    rows = pq.read_table(run.evaluation("validation"), columns=["logits", "label"])
    logits = np.array(rows["logits"].to_pylist(), dtype=np.float64)
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True), rows["label"].to_numpy()


def table(output: Path) -> str:
    """A line for each variant: the mean over its seeds, and accuracy's lowest and highest."""
    dense = RunFolder(output / DENSE)
    if not completed(dense.path):
        raise SystemExit(f"{output} has no completed dense run to compare with: run first")
    taught, labels = probabilities(dense)
    accuracy = float((taught.argmax(axis=1) == labels).mean())
    titles = ("variant", "seeds", "accuracy", "range", "difference", "agreement", "loss", "time")
    lines = [
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
        f"| {DENSE} | - | {accuracy:.2%} | - | - | - | - | {_seconds(dense):.0f} s |",
    ]
    for variant in (PLAIN, *VARIANTS):
        folders = sorted(filter(completed, folder_of(output, variant).glob("*")))
        if folders:
            lines.append(_line(variant, folders, taught, accuracy))
    return "\n".join(lines)


def _line(
    variant: str, folders: list[Path], taught: npt.NDArray[np.float64], accuracy: float
) -> str:
    runs = [RunFolder(folder) for folder in folders]
    found = [run.summary["export"]["metrics"]["accuracy"] for run in runs]
    agreements, losses = [], []
    for each in runs:
        ours, _ = probabilities(each)
        agreements.append(float((ours.argmax(axis=1) == taught.argmax(axis=1)).mean()))
        losses.append(float((taught * np.log(taught / ours.clip(1e-12))).sum(axis=1).mean()))
    return (
        f"| {variant} | {', '.join(folder.name for folder in folders)} | {mean(found):.2%} | "
        f"{min(found):.2%} to {max(found):.2%} | {100 * (mean(found) - accuracy):+.2f} | "
        f"{mean(agreements):.2%} | {mean(losses):.4f} | {mean(map(_seconds, runs)):.0f} s |"
    )


def _seconds(run: RunFolder) -> float:
    seconds: float = run.summary["train"]["seconds"]
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--output", type=Path, required=True)
    runs.add_argument("--data", type=Path, help="a file of rows to train on")
    runs.add_argument("--validation", type=Path)
    runs.add_argument("--student", help="a pretrained checkpoint")
    runs.add_argument("--learning-rate", type=float, default=5e-4)
    runs.add_argument("--sparsity", type=float, default=0.8)
    runs.add_argument("--epochs", type=float, default=6, help="of each variant")
    runs.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    known = [PLAIN, *VARIANTS]
    runs.add_argument("--variants", nargs="+", choices=known, default=known)
    runs.add_argument("--overrides", nargs="*", default=[], help=OVERRIDES)
    tables = commands.add_parser("table")
    tables.add_argument("output", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "table":
        sys.stdout.write(table(arguments.output) + "\n")
        return
    if (arguments.data is None) != (arguments.student is None):
        parser.error("--data and --student belong together; without both the quickstart's are used")
    setup = Setup(
        arguments.output.absolute(),
        arguments.data and arguments.data.absolute(),
        arguments.validation and arguments.validation.absolute(),
        arguments.student,
        arguments.learning_rate,
        arguments.sparsity,
        arguments.epochs,
        arguments.overrides,
    )
    run(setup, arguments.variants, arguments.seeds)


if __name__ == "__main__":
    main()
