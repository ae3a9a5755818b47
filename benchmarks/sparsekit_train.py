"""Train with sparsekit, and print the result as one JSON line.

The counterpart of `sparsekit/sparseml/workers/sparseml_train.py`, with the same options and turns;
`training_vs_sparseml.py` runs both.

    python benchmarks/sparsekit_train.py --student DIR --teacher DIR --train train.csv \\
        --validation validation.csv --recipe recipe.yaml --output out

The config is that of `launch.py dataset=csv teacher=checkpoint recipe=sparseml`.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import evaluate  # noqa: F401  # imports are not timed; the teacher's score needs it
import numpy as np
from hydra import compose, initialize_config_dir
from transformers import TrainerCallback, set_seed

from sparsekit import metrics
from sparsekit.config.plain import plain
from sparsekit.kernels import adamw, dropout, quantize
from sparsekit.models.predict import predict_outputs
from sparsekit.models.pruning import sparsity
from sparsekit.pipeline import stages
from sparsekit.pipeline.engines.sparsekit import teach
from sparsekit.pipeline.plan import Inputs, Plan
from sparsekit.runs.folder import RunFolder
from sparsekit.runs.progress import quiet_libraries
from sparsekit.runs.tracking import Tracker
from sparsekit.sparseml.recipes.load import register_resolvers
from sparsekit.tasks.text_classification import TextClassification
from sparsekit.tasks.tokens import tokenize
from sparsekit.training.recipe_trainer import RecipeTrainer

TASK = TextClassification(max_length=128)

CONF = Path(__file__).resolve().parents[1] / "conf"


class Turns(TrainerCallback):
    """Times every step including the fetching of its batch; reports and waits after each block."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.steps: list[list[float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._mark = now()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.block and state.global_step % self.block == 0:
            report({"turn": state.global_step})
            sys.stdin.readline()
            self._mark = now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        mark = now()
        self.steps.append([state.epoch, *(b - a for a, b in zip(self._mark, mark, strict=True))])
        self._mark = mark


def now() -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process, which other load does not change."""
    return time.perf_counter(), time.process_time()


def report(values: dict[str, Any]) -> None:
    """Print one JSON line and flush it."""
    print(json.dumps(values), flush=True)


def make_plan(options: argparse.Namespace) -> Plan:
    """The plan of the launcher's config, with the options as overrides."""
    overrides = [
        "dataset=csv",
        f"dataset.data_files.train={options.train}",
        f"dataset.data_files.validation={options.validation}",
        f"dataset.max_length={options.max_length}",
        "student=minilm",
        f"student.checkpoint={options.student}",
        "student.sparsity=null",
        "teacher=checkpoint",
        f"teacher.checkpoint={options.teacher}",
        "recipe=sparseml",
        f"recipe.path={options.recipe}",
        f"output_dir={options.output}",
        f"seed={options.seed}",
        f"training.per_device_train_batch_size={options.batch_size}",
        f"training.precision={options.precision}",
        f"training.train_sampling_strategy={options.order}",
        "training.save_strategy=no",
        "training.eval_strategy=no",
        "training.disable_tqdm=true",
        "export=none",
        "runtime=none",
        "tracking=none",
    ]
    arguments = json.loads(options.recipe_args)
    overrides += [f"recipe.variables.{name}={value}" for name, value in arguments.items()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return Plan.build(plain(compose("config", overrides)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("student", "teacher", "train", "validation", "recipe", "output"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--recipe-args", default="{}")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--block", type=int, default=0)
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--order", default="group_by_length", choices=("group_by_length", "random"))
    return parser.parse_args()


def main() -> None:
    """Prepare, train in turns, and report the result."""
    options = parse()
    quiet_libraries()
    register_resolvers()
    for kernel in (adamw, dropout, quantize):
        kernel.available()  # compiled once per machine, so not timed
    plan = make_plan(options)
    set_seed(options.seed)
    _, data = stages.load_data(plan)
    student = plan.student.load(data.task, data.label_names)
    begin = now()
    rows = tokenize(data, student.tokenizer, student.tokenizer_hash)
    run = RunFolder(Path(str(plan.training.output_dir)))
    inputs = Inputs(
        student=student, data=data, rows=rows, teacher_folders=lambda: [options.teacher]
    )
    rows = teach(plan, inputs, Tracker(run))
    prepared = [b - a for a, b in zip(begin, now(), strict=True)]
    turns = Turns(options.block)
    trainer = RecipeTrainer(
        student.model,
        plan.recipe,
        run,
        data.task,
        args=plan.training,
        train_dataset=rows["train"],
        processing_class=student.tokenizer,
        callbacks=[turns],
    )
    trainer.train()
    result = {
        "prepare": prepared,
        "steps": turns.steps,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "sparsity": sparsity(student.model)["overall"],
        "precision": plan.training.precision,
    }
    if options.evaluate:
        logits = predict_outputs(student.model, TASK, rows["validation"], student.tokenizer)[
            "logits"
        ]
        labels = np.array(rows["validation"]["labels"])
        result |= metrics.compute(["accuracy"], logits, labels)
    report({"result": result})


if __name__ == "__main__":
    main()
