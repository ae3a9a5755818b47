"""The names of the files and folders of a run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, overload

# A file that every run leaves in its folder at its start.
MARKER = ".sparsekit-run"


class Fate(Enum):
    """What becomes of an entry of the folder when the next run begins there."""

    # The run overwrites it in time, or goes on with it.
    STAYS = "stays"
    # It tells of the training: a run that resumes it goes on with it, any other run removes it.
    CONTINUED = "continued"
    # A result of the earlier run, which nobody may take for the next one's.
    REMOVED = "removed"


class Entry:
    """A file or folder at the top of a run folder; as an attribute of a run it is its path."""

    def __init__(self, name: str, fate: Fate) -> None:
        self.name, self.fate = name, fate

    if TYPE_CHECKING:

        @overload
        def __get__(self, run: None, owner: type) -> Entry: ...

        @overload
        def __get__(self, run: RunPaths, owner: type) -> Path: ...

    def __get__(self, run: RunPaths | None, owner: type) -> Entry | Path:
        return self if run is None else run.path / self.name


@dataclass(frozen=True)
class RunPaths:
    """Where each file and folder of a run is, whether or not it exists."""

    path: Path

    config_file = Entry("config.yaml", Fate.STAYS)
    """`config.yaml`, the resolved config."""
    recipe = Entry("recipe.yaml", Fate.STAYS)
    """`recipe.yaml`, the resolved recipe."""
    sparseml_recipe = Entry("recipe.sparseml.yaml", Fate.REMOVED)
    """`recipe.sparseml.yaml`, the recipe that `engine=sparseml` ran."""
    sparseml_log = Entry("sparseml.log", Fate.REMOVED)
    """`sparseml.log`, what `engine=sparseml` wrote to stderr."""
    schedule = Entry("schedule.json", Fate.CONTINUED)
    """`schedule.json`, the recipe in optimizer steps."""
    data = Entry("data.json", Fate.CONTINUED)
    """`data.json`, statistics of the data, and problems that affect the result."""
    metrics = Entry("metrics.jsonl", Fate.CONTINUED)
    """`metrics.jsonl`, every logged event."""
    summary_file = Entry("summary.json", Fate.REMOVED)
    """`summary.json`, the results."""
    benchmark = Entry("benchmark.json", Fate.REMOVED)
    """`benchmark.json`, the timings of every runtime."""
    benchmark_chart = Entry("benchmark.png", Fate.REMOVED)
    """`benchmark.png`, the timings of `sparsekit benchmark` as a chart."""
    latency = Entry("latency.json", Fate.CONTINUED)
    """`latency.json`, the latency table that a shaped student was solved by."""
    shape_picture = Entry("shape.png", Fate.REMOVED)
    """`shape.png`, what is left of each layer of a shaped student."""
    gate = Entry("gate.json", Fate.REMOVED)
    """`gate.json`, the comparison with the dense baseline that `sparsekit gate` made."""
    gate_page = Entry("gate.html", Fate.REMOVED)
    """`gate.html`, the same comparison to look at."""
    gate_changed = Entry("gate_changed.jsonl", Fate.REMOVED)
    """`gate_changed.jsonl`, the rows that a classifier answers differently than its baseline."""
    sums = Entry("SHA256SUMS", Fate.REMOVED)
    """`SHA256SUMS`, the sums of what a deployment was made from."""
    model = Entry("model", Fate.STAYS)
    """`model/`, the trained weights, config, tokenizer and recipe.

    It stays until training overwrites it: it may be the next run's student.
    """
    checkpoints = Entry("checkpoints", Fate.STAYS)
    """`checkpoints/`, the Trainer's checkpoints."""
    evaluations = Entry("evaluation", Fate.REMOVED)
    """`evaluation/`, the files of each split."""
    deployment = Entry("deployment", Fate.REMOVED)
    """`deployment/`, the exported model with all that a runtime needs."""
    wandb = Entry("wandb", Fate.STAYS)
    """`wandb/`, what W&B keeps, and the id of its run."""

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def reserve(self) -> Path:
        """`.reserve`, which keeps space for the summary while a run is at work."""
        return self.path / ".reserve"

    @property
    def wandb_id(self) -> Path:
        """`wandb/run.json`, the id of the W&B run that mirrors this one."""
        return self.wandb / "run.json"

    @property
    def weights(self) -> Path:
        """`model/model.safetensors`."""
        return self.model / "model.safetensors"

    @property
    def model_recipe(self) -> Path:
        """`model/recipe.yaml`, the recipe with what was known once training had ended."""
        return self.model / "recipe.yaml"

    @property
    def graph(self) -> Path:
        """`deployment/model.onnx`."""
        return self.deployment / "model.onnx"

    def evaluation(self, split: str) -> Path:
        """`evaluation/<split>.parquet`: texts, labels and logits of each row."""
        return self.evaluations / f"{split}.parquet"


# Every name that a run writes at the top of its folder.
ENTRIES = tuple(entry for entry in vars(RunPaths).values() if isinstance(entry, Entry))
