"""The names of the files and folders of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# A file that every run leaves in its folder at its start.
MARKER = ".sparsekit-run"


@dataclass(frozen=True)
class RunPaths:
    """Where each file and folder of a run is, whether or not it exists."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config_file(self) -> Path:
        """`config.yaml`, the resolved config."""
        return self.path / "config.yaml"

    @property
    def summary_file(self) -> Path:
        """`summary.json`, the results."""
        return self.path / "summary.json"

    @property
    def recipe(self) -> Path:
        """`recipe.yaml`, the resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def sparseml_recipe(self) -> Path:
        """`recipe.sparseml.yaml`, the recipe that `engine=sparseml` ran."""
        return self.path / "recipe.sparseml.yaml"

    @property
    def sparseml_log(self) -> Path:
        """`sparseml.log`, what `engine=sparseml` wrote to stderr."""
        return self.path / "sparseml.log"

    @property
    def schedule(self) -> Path:
        """`schedule.json`, the recipe in optimizer steps."""
        return self.path / "schedule.json"

    @property
    def data(self) -> Path:
        """`data.json`, statistics of the data, and problems that affect the result."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`, every logged event."""
        return self.path / "metrics.jsonl"

    @property
    def benchmark(self) -> Path:
        """`benchmark.json`, the timings of every runtime."""
        return self.path / "benchmark.json"

    @property
    def latency(self) -> Path:
        """`latency.json`, the latency table that a shaped student was solved by."""
        return self.path / "latency.json"

    @property
    def shape_picture(self) -> Path:
        """`shape.png`, what is left of each layer of a shaped student."""
        return self.path / "shape.png"

    @property
    def gate(self) -> Path:
        """`gate.json`, the comparison with the dense baseline that `sparsekit gate` made."""
        return self.path / "gate.json"

    @property
    def gate_page(self) -> Path:
        """`gate.html`, the same comparison to look at."""
        return self.path / "gate.html"

    @property
    def reserve(self) -> Path:
        """`.reserve`, which keeps space for the summary while a run is at work."""
        return self.path / ".reserve"

    @property
    def wandb_id(self) -> Path:
        """`wandb/run.json`, the id of the W&B run that mirrors this one."""
        return self.path / "wandb" / "run.json"

    @property
    def checkpoints(self) -> Path:
        """`checkpoints/`, the Trainer's checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """`model/`, the trained weights, config, tokenizer and recipe."""
        return self.path / "model"

    @property
    def weights(self) -> Path:
        """`model/model.safetensors`."""
        return self.model / "model.safetensors"

    @property
    def model_recipe(self) -> Path:
        """`model/recipe.yaml`, the recipe with what was known once training had ended."""
        return self.model / "recipe.yaml"

    @property
    def deployment(self) -> Path:
        """`deployment/`, the exported model with all that a runtime needs."""
        return self.path / "deployment"

    @property
    def graph(self) -> Path:
        """`deployment/model.onnx`."""
        return self.deployment / "model.onnx"

    @property
    def evaluations(self) -> Path:
        """`evaluation/`, one file for each split."""
        return self.path / "evaluation"

    def evaluation(self, split: str) -> Path:
        """`evaluation/<split>.parquet`: texts, labels and logits of each row."""
        return self.evaluations / f"{split}.parquet"
